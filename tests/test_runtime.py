"""Randomness that repeats anywhere, and files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.errors import WriteError, writing
from wsi_hr.runtime import (
    atomic_path,
    fsync_dir,
    remove_empty_folder,
    remove_folder,
    rng_for,
    seed_for,
    sha256_file,
    sweep_temporaries,
    temporary_name,
    write_text_atomic,
)

# Control characters do not occur in slide ids; one of them separates the parts of a key.
_words = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
_keys = st.lists(st.integers() | _words, max_size=4)


def drawn(*key: int | str) -> list[int]:
    return rng_for(*key).integers(2**32, size=4).tolist()


def test_the_numbers_are_those_of_earlier_versions() -> None:
    """A resumed run and a published split rest on these; they never change."""
    assert drawn(0, 3, "slide_007", "drop") == [3750798068, 1418070730, 67391888, 777922383]
    assert seed_for(0, "torch", 2) == 8063905080006960348


def test_another_process_draws_the_same() -> None:
    code = "from wsi_hr.runtime import rng_for; print(rng_for(5, 'a').integers(2**32, size=4))"
    for salt in ("0", "1"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": salt},
        ).stdout
        assert out.split() == str(rng_for(5, "a").integers(2**32, size=4)).split()


@given(_keys, _keys)
def test_different_keys_draw_differently(one: list, other: list) -> None:
    assert (drawn(*one) == drawn(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [((1,), ("1",)), (("a", "b"), ("ab",)), (("a", "b"), ("b", "a")), ((1, 2), (12,)), ((), ("",))],
)
def test_a_key_is_its_parts_and_their_kinds(one: tuple, other: tuple) -> None:
    assert drawn(*one) != drawn(*other)


def test_seeds_fit_torch() -> None:
    seeds = {seed_for(k) for k in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with atomic_path(path) as tmp:
        tmp.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_and_fail() -> None:
        with atomic_path(path) as tmp:
            tmp.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file_and_one_stray(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from wsi_hr.runtime import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as tmp:\n"
        "    tmp.write_text('half'); os._exit(9)\n"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
        assert path.read_text() == "old"
        assert sorted(p.name for p in tmp_path.iterdir()) == [".table.csv.wsi-hr.tmp", "table.csv"]
    write_text_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_its_name(tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def note_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_text_atomic(tmp_path / "a", "text")
    assert done == ["file", "rename", "folder"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="a: cannot be written"), atomic_path(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_had_begun_is_swept_and_nothing_else(tmp_path: Path) -> None:
    begun = temporary_name(tmp_path / "table.csv")
    begun.write_text("half")
    temporary_name(tmp_path / "slide.old").mkdir()
    (temporary_name(tmp_path / "slide.old") / "half.png").touch()
    theirs = {"table.csv", ".table.csv.tmp", ".x.tmp", "x.wsi-hr.tmp", ".wsi-hr.tmp.txt"}
    for name in theirs:
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    inner = temporary_name(tmp_path / "inner/table.csv")
    inner.touch()
    sweep_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == theirs | {"inner"}
    assert inner.exists()  # of another run's folder
    sweep_temporaries(tmp_path / "absent")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_cannot_be_written_is_told_with_its_path(tmp_path: Path, number: int) -> None:
    """A write names no file; whoever began it does."""
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as tmp:
            tmp.write_text("half")
            raise OSError(number, os.strerror(number))

    told = rf"^{path}: cannot be written \({os.strerror(number)}\); make room, or see that you may"
    with pytest.raises(WriteError, match=told):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_writers_the_inner_one_tells(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path / "outer"), writing(tmp_path / "inner"):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(WriteError, match=f"^{tmp_path}/inner: cannot be written"):
        fail()


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "\N{SNOWMAN}"])
def test_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_text_atomic(tmp_path / "a", text)
    assert (tmp_path / "a").read_bytes() == text.encode()


def test_folders_of_ours_go_and_what_holds_other_files_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    remove_folder(folder)
    remove_empty_folder(folder)  # neither is there
    folder.mkdir()
    remove_empty_folder(folder)
    assert not folder.exists()
    (folder / "inner").mkdir(parents=True)
    remove_empty_folder(folder)
    assert folder.exists()
    remove_folder(folder)
    assert not folder.exists()


def test_a_folder_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for remove in (remove_folder, remove_empty_folder):
        with pytest.raises(WriteError, match="file: cannot be written"):
            remove(tmp_path / "file")


def test_a_folder_that_is_gone_cannot_be_synced(tmp_path: Path) -> None:
    fsync_dir(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_dir(tmp_path / "absent")


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
