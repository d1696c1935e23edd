"""A file of ours that cannot be read just now is neither absent nor damaged: nothing is lost.

The operating system refuses one file, as a failing disk, a share that is away or a limit of open
files does it; the tests run as root, whom permissions do not stop. What a command does then is
compared with what it leaves undisturbed.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import train_stage
from pipelines.verify import verify_stage
from wsi_hr.errors import MidwayError, ReadError, StoreError, StoreReadError
from wsi_hr.methods.feature_files import FeatureFiles
from wsi_hr.store.patch_store import PatchStore

WRITTEN_ANEW = {"status.csv", "qc.csv", "export.csv", "predictions.csv", "tile.json"}
Refuse = Callable[..., contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def refused(path: Path, code: int = errno.EIO, *, looks: bool = False) -> Iterator[None]:
    """Let nothing open a file for reading, nor, where its folder is away, look at it."""
    wanted = os.path.abspath(path)

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(file: Any, *args: Any, **options: Any) -> Any:
            if isinstance(file, str | os.PathLike) and os.path.abspath(file) == wanted:
                raise OSError(code, os.strerror(code), str(path))
            return real(file, *args, **options)

        return refuse

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
            patch.setattr(module, name, refusing(getattr(module, name)))
        if looks:
            for name in ("stat", "lstat"):
                patch.setattr(os, name, refusing(getattr(os, name)))
        yield


@pytest.fixture(scope="module")
def few(cohort, tmp_path_factory) -> Path:
    """A store of two slides, whose files tests give back as they were."""
    folder = tmp_path_factory.mktemp("few") / "store"
    tile_stage(slides_of(cohort), folder, resolve("demo", {}, ()).tile, workers=1)
    return folder


def slides_of(cohort: Path) -> list[Path]:
    return [cohort / f"slides/slide_00{number}.svs" for number in (1, 2)]


def files_in(folder: Path) -> list[str]:
    """All but the patches of the second slide, which are as those of the first."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in found)
    return [name for name in names if "slide_002.zarr/" not in name]


def check_every_file(folder: Path, call: Callable[[], Any], out: Path, tree: Any) -> set[str]:
    """Refuse each file of ``folder`` in turn; those for which ``call`` has told of that.

    ``call`` gives an exit code and what it printed. Whether it needs the file or not, all that is
    in ``out`` stays, and the next call ends in what was there before.
    """
    before, told = tree(out), set()
    for name in files_in(folder):
        with refused(folder / name):
            ended = call()
        after = tree(out)
        assert ended.code in (0, 1), (name, ended)
        assert "Traceback" not in ended.err, (name, ended)
        assert "delete" not in ended.out + ended.err, (name, ended)
        if ended.code:
            told.add(name)
            assert os.strerror(errno.EIO) in ended.out + ended.err, (name, ended)
            assert name in ended.out + ended.err, (name, ended)
        kept = {key: digest for key, digest in before.items() if key not in WRITTEN_ANEW}
        assert kept.items() <= after.items(), name
        if name in before:
            assert after[name] == before[name], name
        ended = call()
        assert (ended.code, tree(out)) == (0, before), (name, ended)
    return told


@pytest.mark.slow
def test_tile_loses_nothing_for_a_file_that_cannot_be_read(cli, cohort, few, tree):
    settings = ("--recipe", "demo", "--workers", 1)

    def call() -> Any:
        return cli("tile", *slides_of(cohort), "-o", few, *settings)

    assert call().code == 0
    told = check_every_file(few, call, few, tree)
    store = "slide_001.zarr"
    assert {"status.csv", "qc.csv", "tile.json", "contact_sheet.png"} <= told
    assert {f"{store}/manifest.json", f"{store}/zarr.json"} <= told
    assert any("valid" in name for name in told)


@pytest.mark.slow
def test_predict_loses_nothing_for_a_file_that_cannot_be_read(cli, run, few, tmp_path, tree):
    out = tmp_path / "out"

    def call() -> Any:
        return cli("predict", run, few, "-o", out, "--device", "cpu")

    assert call().code == 0
    told = check_every_file(out, call, out, tree)
    assert {"heatmaps/slide_001.png", "patches/slide_001.csv"} <= told
    told = check_every_file(few, call, out, tree)
    assert {"status.csv", "tile.json", "slide_001.zarr/manifest.json"} <= told


@pytest.mark.slow
@pytest.mark.parametrize("form", ["clam", "png"])
def test_export_loses_nothing_for_a_file_that_cannot_be_read(cli, few, tmp_path, tree, form):
    out = tmp_path / "out"

    def call() -> Any:
        return cli("export", few, "-o", out, "--format", form)

    assert call().code == 0
    name = "patches/slide_001.h5" if form == "clam" else "slide_001/export.json"
    for folder, wanted in ((out, name), (few, "slide_001.zarr/manifest.json")):
        told = {found for found in files_in(folder) if not found.endswith((".png", ".jpg"))}
        assert wanted in told
        with refused(folder / wanted):
            ended = call()
        assert ended.code == 1
        assert os.strerror(errno.EIO) in ended.out
        assert "damaged" not in ended.out
        before = tree(out, "export.csv")
        assert call().code == 0
        assert tree(out, "export.csv") == before


RUN_FILES = ("last.safetensors", "best.safetensors", "config.yaml", "splits.csv", "stores.csv")


@pytest.mark.parametrize("looks", [False, True], ids=["open", "look"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("name", RUN_FILES)
def test_train_stops_at_a_file_of_its_run(
    store, labels, own_run, settings, tree, name, code, looks
):
    before = tree(own_run)
    with refused(own_run / name, code, looks=looks), pytest.raises(MidwayError) as told:
        train_stage(store, labels, own_run, settings(), None)
    assert isinstance(told.value, ReadError)
    assert str(own_run / name) in str(told.value)
    assert os.strerror(code) in str(told.value)
    assert tree(own_run) == before


@pytest.mark.parametrize("looks", [False, True], ids=["open", "look"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("name", ["status.csv", "tile.json", "slide_001.zarr/manifest.json"])
def test_verify_calls_it_unreadable(few, name, code, looks):
    with refused(few / name, code, looks=looks):
        report = verify_stage([few])
    assert report.sentences
    for sentence in report.sentences:
        assert str(few / name) in sentence or str((few / name).parent) in sentence
        assert f"cannot be read ({os.strerror(code)})" in sentence
        assert not any(word in sentence for word in ("damaged", "missing", "delete", "no such"))
    states = {check.state for check in report.stores}
    assert states == ({"sound", "unreadable"} if "zarr" in name else {"sound"})


@pytest.mark.parametrize("command", ["tile", "predict", "export", "sample"])
def test_what_is_told_names_the_file_once_and_the_reason(cli, cohort, few, run, tmp_path, command):
    table = few / "tile.json"
    args = {
        "tile": ("tile", *slides_of(cohort), "-o", few, "--recipe", "demo"),
        "predict": ("predict", run, few, "-o", tmp_path / "out", "--device", "cpu"),
        "export": ("export", few, "-o", tmp_path / "out", "--format", "clam"),
        "sample": ("sample", few, "-o", tmp_path / "out"),
    }[command]
    with refused(table, errno.EACCES):
        ended = cli(*args)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {table}: cannot be read (Permission denied); ")
    assert ended.err.count("\n") == 1


def test_a_folder_in_the_place_of_a_table_is_kept(cli, cohort, few, tmp_path):
    store = shutil.copytree(few, tmp_path / "store")
    (store / "tile.json").unlink()
    (store / "tile.json").mkdir()
    ended = cli("tile", *slides_of(cohort), "-o", store, "--recipe", "demo")
    assert ended.code == 1
    assert f"{store / 'tile.json'}: cannot be read (Is a directory)" in ended.err
    assert (store / "slide_001.zarr/manifest.json").is_file()


def test_rows_of_other_slides_stay_while_their_stores_cannot_be_read(cli, cohort, few, tmp_path):
    store = shutil.copytree(few, tmp_path / "store")
    before = [(store / name).read_text() for name in ("status.csv", "qc.csv")]
    with refused(store / "slide_002.zarr/manifest.json"):
        ended = cli("tile", slides_of(cohort)[0], "-o", store, "--recipe", "demo")
    assert ended.code == 0
    assert [(store / name).read_text() for name in ("status.csv", "qc.csv")] == before


def test_a_store_tells_what_it_is_not(few):
    path = few / "slide_001.zarr"
    for name in ("manifest.json", "zarr.json"):
        with refused(path / name), pytest.raises(StoreReadError) as told:
            PatchStore.open(path)
        assert "delete" not in str(told.value)
    shard = next(file for file in path.rglob("c*") if file.is_file() and "patches" in file.parts)
    with refused(shard), pytest.raises(StoreError) as told:
        PatchStore.open(path).read(np.array([0]))
    assert isinstance(told.value, StoreReadError)
    assert "delete" not in str(told.value)
    with refused(shard):
        assert any("cannot be read" in text for text in PatchStore.open(path).verify())
    with refused(shard, looks=True), pytest.raises(StoreReadError, match=shard.name):
        PatchStore.open(path)


def test_kept_features_are_not_made_anew(tmp_path):
    values = np.ones((3, 2), np.float32)
    FeatureFiles(tmp_path / "features", np.float32).write("a", b"x", (3, 2), [values])
    files = FeatureFiles(tmp_path / "features", np.float32)
    for looks in (False, True):
        with (
            refused(tmp_path / "features/a.npy", looks=looks),
            pytest.raises(ReadError, match=r"a\.npy"),
        ):
            files.find("a", b"x")
    assert files.find("a", b"x") is not None
    assert files.find("b", b"x") is None


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_lock_that_cannot_be_opened_or_read_stops_the_run(cli, few, tmp_path, monkeypatch, code):
    out = tmp_path / "out"
    args = ("export", few, "-o", out, "--format", "clam")
    with refused(out / ".run-lock", code):
        ended = cli(*args)
    assert (ended.code, ended.out) == (1, "")
    assert f"error: {out}: cannot be written ({os.strerror(code)}); " in ended.err

    def fails(*args: object) -> bytes:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        ended = cli(*args)
    assert (ended.code, ended.out) == (1, "")
    assert f"error: {out / '.run-lock'}: cannot be read ({os.strerror(code)}); " in ended.err
    assert cli(*args).code == 0
