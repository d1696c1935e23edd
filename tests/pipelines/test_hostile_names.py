"""Whatever names tables, stores and folders hold: nothing outside the output is touched.

Files lie around the output that hostile names point to; afterwards they are what they were, nothing
new is among them, and none was opened.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.export import EXPORT_FILE
from pipelines.predict import CLASS_MAPS, HEATMAPS, PATCHES, PREDICTIONS
from pipelines.qc_table import QC_FILE
from pipelines.replacement import OUTDATED
from pipelines.status import STATUS_FILE
from wsi_hr.store.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest
from wsi_hr.tiling.review import OUTLINES, PICTURES
from wsi_hr.training.epoch_memory import MEMORY

from .hostile_stores import forge

GOOD = ("slide_001", "slide_002")
SUFFIXES = ("", ".png", ".csv", ".npy", ".h5", "_patches.h5", ".geojson", ".tar", ".zarr.tmp")

_watched: list[Path] = []
_touched: list[tuple[str, str]] = []


def _note(event: str, args: tuple[object, ...]) -> None:
    if not _watched or not event.startswith(("open", "os.", "shutil.")):
        return
    for arg in args:
        if isinstance(arg, bytes | os.PathLike) or (isinstance(arg, str) and "/" in arg):
            path = os.path.abspath(os.fsdecode(arg))
            follows = event == "open" and not (isinstance(args[2], int) and args[2] & os.O_NOFOLLOW)
            if follows or event in ("os.scandir", "os.listdir", "os.truncate", "os.chmod"):
                real = Path(os.path.realpath(path))
            else:  # a link itself is renamed and removed
                real = Path(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if any(real.is_relative_to(victim) for victim in _watched):
                _touched.append((event, str(real)))


sys.addaudithook(_note)


class World:
    """Files around an output folder, and names that lead to them.

    Attributes:
        out: the output folder; a few folders deep.
        victim: a store, a copy of one of the cohort's; files of other suffixes are beside it.
        names: hostile ids.
    """

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        self.out = root / "a" / "b" / "out"
        self.out.mkdir(parents=True)
        self.victim = shutil.copytree(store / "slide_003.zarr", root / "victim.zarr")
        for folder in (root, root / "a", root / "a" / "b"):
            for suffix in SUFFIXES:
                (folder / f"victim{suffix}").write_bytes(b"%PDF of somebody")
        shutil.copy(store / PICTURES / "slide_003.png", root / "victim.png")
        up = ("..", "../..", "../../..", "../../../..")
        self.names = [
            *(f"{steps}/victim" for steps in up),
            str(root / "victim"),
            "qc/../../victim",
            "",
            ".",
            "..",
            ".run-lock",
            "slide_001/../../../../victim",
            "..\\..\\victim",
            "a\x1b[2Jb",
            "x" * 400,
        ]
        self.settle()

    def settle(self) -> None:
        """From now on nothing may change."""
        _watched.clear()
        self._before = self._look()
        _touched.clear()
        _watched[:] = self.victims

    def _look(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): self._digest(path)
            for path in sorted(self.root.rglob("*"))
            if path != self.out and not path.is_relative_to(self.out)
        }

    @staticmethod
    def _digest(path: Path) -> str:
        if path.is_symlink():
            return f"-> {os.readlink(path)}"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"

    @property
    def victims(self) -> list[Path]:
        return [path for path in self.root.rglob("victim*") if not path.is_relative_to(self.out)]

    def check(self) -> None:
        """Nothing around the output has changed, is new, or was opened."""
        _watched.clear()
        assert _touched == []
        assert self._look() == self._before


@pytest.fixture
def world(tmp_path, store) -> Iterator[World]:
    made = World(tmp_path / "world", store)
    yield made
    made.check()


def put_table(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def add_rows(path: Path, names: list[str], **cells: str) -> None:
    """Rows of ``names`` after those of a table, as its first row but for ``cells``."""
    rows = rows_of(path)
    slide = next(iter(rows[0]))
    more = [{**rows[0], **cells, slide: name} for name in names]
    put_table(path, list(rows[0]), [*rows, *more])


@pytest.fixture
def few(store, tmp_path) -> Path:
    """A store of two good slides, to damage."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in GOOD:
        shutil.copytree(store / f"{name}.zarr", folder / f"{name}.zarr")
    for table in (STATUS_FILE, QC_FILE):
        rows = [row for row in rows_of(store / table) if row["slide_id"] in GOOD]
        put_table(folder / table, list(rows[0]), rows)
    shutil.copy(store / "tile.json", folder)
    return folder


@pytest.fixture
def two_labels(tmp_path) -> Path:
    """A class for each of the two."""
    path = tmp_path / "labels.csv"
    rows = [{"slide": name, "label": label} for name, label in zip(GOOD, "ab", strict=True)]
    put_table(path, ["slide", "label"], rows)
    return path


@pytest.mark.fault("B54")
def test_predict_looks_for_no_slide_of_a_hostile_status(cli, run, few, world):
    add_rows(few / STATUS_FILE, world.names, status="done")
    ended = cli("predict", run, few, "-o", world.out)
    assert ended.code == 1
    rows = {row["slide_id"]: row for row in rows_of(world.out / PREDICTIONS)}
    assert {rows[name]["status"] for name in GOOD} == {"done"}
    for name in world.names:
        assert rows[name]["status"] == "failed"
        assert "so no slide is looked for" in rows[name]["reason"]


@pytest.mark.fault("B54")
def test_predict_discards_nothing_for_failed_rows_of_a_hostile_status(cli, run, few, world):
    add_rows(few / STATUS_FILE, world.names, status="failed", reason="broken")
    assert cli("predict", run, few, "-o", world.out).code == 1


def test_a_status_of_nothing_but_hostile_rows_is_refused(cli, run, few, world):
    rows = rows_of(few / STATUS_FILE)
    put_table(
        few / STATUS_FILE, list(rows[0]), [{**rows[0], "slide_id": name} for name in world.names]
    )
    ended = cli("predict", run, few, "-o", world.out)
    assert ended.code == 2
    assert f"{STATUS_FILE}: slide id '../victim' holds a separator of folders" in ended.err
    assert list(world.out.iterdir()) == []


TINY = ("--set", "encoder.name=test_resnet")
ONE_EPOCH = (
    *("--epochs", "1", "--device", "cpu"),
    *("--set", "split.val=0", "--set", "split.test=0"),
)
COMMANDS = {
    "predict": lambda run, store, out: ("predict", run, store, "-o", out),
    "sample": lambda run, store, out: ("sample", store, "-o", out, *TINY),
    **{
        form: lambda run, store, out, form=form: ("export", store, "-o", out, "--format", form)
        for form in ("clam", "trident", "webdataset", "png", "jpeg")
    },
}
TABLES = {"predict": PREDICTIONS, "sample": "sample.csv"}


@pytest.mark.fault("B54")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["../../victim", "absolute", "..", "", "..\\victim", 7, ["a"]])
def test_a_store_that_calls_itself_something_hostile_is_a_failed_row(
    cli, run, few, world, command, name
):
    hostile = str(world.root / "victim") if name == "absolute" else name
    forge(few / "slide_002.zarr", lambda said: said.update(slide_id=hostile))
    ended = cli(*COMMANDS[command](run, few, world.out))
    assert ended.code == 1, ended
    rows = {r["slide_id"]: r for r in rows_of(world.out / TABLES.get(command, EXPORT_FILE))}
    assert (rows["slide_001"]["status"], rows["slide_002"]["status"]) == ("done", "failed")
    assert "its slide id" in rows["slide_002"]["reason"]
    assert not list(world.out.glob("**/slide_002*"))


@pytest.mark.fault("B54")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["../../victim.png", "/absolute", "a/../../b", "..\\x", "a//b"])
def test_a_manifest_that_lists_files_elsewhere_is_a_failed_row(cli, run, few, world, command, name):
    hostile = str(world.root / "victim.png") if name == "/absolute" else name
    store = few / "slide_002.zarr"
    files = {**read_manifest(store).files, hostile: FileEntry(16, "0" * 64)}
    (store / MANIFEST_NAME).write_bytes(Manifest(files).to_bytes())
    ended = cli(*COMMANDS[command](run, few, world.out))
    assert ended.code == 1
    rows = {r["slide_id"]: r for r in rows_of(world.out / TABLES.get(command, EXPORT_FILE))}
    assert (rows["slide_001"]["status"], rows["slide_002"]["status"]) == ("done", "failed")
    assert "which lies outside" in rows["slide_002"]["reason"]


def test_verify_reads_nothing_elsewhere(cli, few, world):
    add_rows(few / STATUS_FILE, world.names, status="done")
    forge(few / "slide_001.zarr", lambda said: said.update(slide_id="../../victim"))
    store = few / "slide_002.zarr"
    files = {**read_manifest(store).files, "../../victim.png": FileEntry(16, "0" * 64)}
    (store / MANIFEST_NAME).write_bytes(Manifest(files).to_bytes())
    ended = cli("verify", few)
    assert ended.code == 1
    assert "its slide id '../../victim' holds a separator" in ended.out
    assert "lists '../../victim.png', which lies outside" in ended.out
    for name in world.names:
        assert f"slide id {name!r}" in ended.out


@pytest.mark.fault("B54")
def test_tile_keeps_no_hostile_rows_of_an_earlier_run(cli, cohort, few, world):
    for table in (STATUS_FILE, QC_FILE):
        add_rows(few / table, world.names, status="done")
    shutil.copytree(few, world.out, dirs_exist_ok=True)
    slide = cohort / "slides/slide_001.svs"
    ended = cli("tile", slide, "-o", world.out, "--recipe", "demo")
    assert ended.code == 0, ended.err
    for table in (STATUS_FILE, QC_FILE):
        assert sorted(row["slide_id"] for row in rows_of(world.out / table)) == list(GOOD)
        assert f"{table}: slide id '../victim' holds a separator" in ended.err


@pytest.mark.parametrize("column", ["slide_id", "slide"])
def test_a_manifest_of_slides_names_nothing_elsewhere(cli, cohort, world, tmp_path, column):
    slide = cohort / "slides/slide_001.svs"
    manifest = tmp_path / "manifest.csv"
    put_table(manifest, ["path", column], [{"path": str(slide), column: "../../victim"}])
    ended = cli("tile", manifest, "-o", world.out, "--recipe", "demo")
    assert ended.code == 0, ended.err
    assert [row["slide_id"] for row in rows_of(world.out / STATUS_FILE)] == ["victim"]
    assert (world.out / "victim.zarr").is_dir()


LINKED = {
    "tile": (OUTDATED, PICTURES, OUTLINES),
    "predict": (HEATMAPS, PATCHES, CLASS_MAPS),
    "sample": ("patches", "pictures"),
    "clam": ("patches",),
    "train": (MEMORY,),
    "tiled": ("store",),
}


@pytest.mark.parametrize(
    ("command", "folder"), [(command, name) for command, names in LINKED.items() for name in names]
)
def test_a_folder_of_the_output_that_is_a_link_is_not_followed(
    cli, run, cohort, few, two_labels, world, command, folder
):
    target = world.root / "victim.folder"
    target.mkdir()
    for name in (*GOOD, "slide_003"):
        for suffix in (".png", ".csv", ".geojson", ".h5", ".npy"):
            (target / f"{name}{suffix}").write_bytes(b"of somebody")
        shutil.copytree(few / "slide_001.zarr", target / f"{name}.zarr")
    (target / ".attempt-1").mkdir()
    (target / "epoch-00000").mkdir()
    (world.out / folder).symlink_to(target)
    world.settle()
    slides = cohort / "slides/slide_003.svs"
    arguments = {
        "tile": ("tile", slides, "-o", world.out, "--recipe", "demo"),
        "tiled": ("predict", run, slides, "-o", world.out),
        "train": (*("train", few, "--labels", two_labels, "-o", world.out, *TINY, *ONE_EPOCH),),
    }
    given = arguments.get(command) or COMMANDS[command](run, few, world.out)
    add_rows(few / STATUS_FILE, ["slide_003"], status="failed", reason="broken")
    ended = cli(*given)
    assert ended.code in (1, 2)
    said = ended.err + ended.out
    assert "is a link that leads out of" in said


def test_a_lock_that_is_a_link_is_not_followed(cli, few, world):
    (world.out / ".run-lock").symlink_to(world.root / "victim.csv")
    world.settle()
    assert cli("export", few, "-o", world.out, "--format", "clam").code == 2


@pytest.mark.parametrize("table", [EXPORT_FILE, "run.json"])
def test_a_temporary_file_that_is_a_link_is_not_followed(cli, few, world, table):
    (world.out / f".{table}.wsi-hr.tmp").symlink_to(world.root / "victim.csv")
    (world.out / table).symlink_to(world.root / "victim.png")
    world.settle()
    assert cli("export", few, "-o", world.out, "--format", "clam").code == 0
    assert not (world.out / table).is_symlink()


def test_a_store_that_is_a_link_is_replaced_and_what_it_leads_to_stays(cli, cohort, few, world):
    (world.out / "slide_001.zarr").symlink_to(world.victim)
    world.settle()
    _watched.clear()  # where somebody put a link to a store, that store is looked at
    ended = cli("tile", cohort / "slides/slide_001.svs", "-o", world.out, "--recipe", "demo")
    assert ended.code == 0, ended.err
    assert not (world.out / "slide_001.zarr").is_symlink()


def test_labels_and_splits_name_nothing_elsewhere(cli, few, two_labels, world, tmp_path):
    add_rows(two_labels, [name for name in world.names if name], label="a")
    train = ("train", few, "--labels", two_labels, "-o", world.out, *TINY, *ONE_EPOCH)
    assert cli(*train).code == 0
    add_rows(world.out / "splits.csv", world.names)
    add_rows(world.out / "stores.csv", world.names)
    assert cli(*train).code == 2
    ended = cli("predict", world.out, few, "-o", tmp_path / "out", "--split", "train")
    assert ended.code == 0
    assert "train slides of the run are not given" in ended.out


def test_an_id_that_is_a_table_of_ours_spoils_no_other_slide(cli, few, world):
    for name in (EXPORT_FILE, "RUN.JSON"):
        store = shutil.copytree(few / "slide_001.zarr", few / f"{name}.zarr")
        forge(store, lambda said, name=name: said.update(slide_id=name))
    assert cli("export", few, "-o", world.out, "--format", "webdataset").code == 1
    rows = {row["slide_id"]: row["status"] for row in rows_of(world.out / EXPORT_FILE)}
    assert rows == {EXPORT_FILE: "failed", "RUN.JSON": "failed", **dict.fromkeys(GOOD, "done")}
