from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.errors import StoreError, WriteError
from wsi_hr.geometry import Pair
from wsi_hr.store.patch_store import PatchStore, PatchStoreWriter, is_complete

Maker = Callable[..., Any]
CONFTEST = Path(__file__).with_name("conftest.py")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, store_maker: Maker, bytes_of_tree: Maker
) -> dict[str, bytes]:
    return bytes_of_tree(store_maker().write(tmp_path_factory.mktemp("reference") / "a.zarr"))


@given(data=st.data())
@settings(max_examples=15)
def test_equal_patches_give_equal_bytes_however_they_come(
    reference: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    store_maker: Maker,
    bytes_of_tree: Maker,
    data: st.DataObject,
) -> None:
    made, path = store_maker(), tmp_path_factory.mktemp("again") / "b.zarr"
    cuts = data.draw(st.sets(st.integers(1, 299), max_size=6))
    edges = [0, *sorted(cuts), 300]
    with made.writer(path) as writer:
        for start, stop in zip(edges, edges[1:], strict=False):
            writer.write(made.chunks(start, stop))
        writer.commit()
    assert bytes_of_tree(path) == reference


def test_other_pixels_give_other_bytes(
    reference: dict[str, bytes], tmp_path: Path, store_maker: Maker, bytes_of_tree: Maker
) -> None:
    assert bytes_of_tree(store_maker(seed=1).write(tmp_path / "a.zarr")) != reference


def test_pixels_of_unreadable_patches_do_not_matter(
    reference: dict[str, bytes], tmp_path: Path, store_maker: Maker, bytes_of_tree: Maker
) -> None:
    made = store_maker()
    made.patches[~made.readable] = 77
    assert bytes_of_tree(made.write(tmp_path / "a.zarr")) == reference


@pytest.mark.parametrize("num_patches", [1, 255, 256, 257, 512])
def test_every_number_of_patches(tmp_path: Path, store_maker: Maker, num_patches: int) -> None:
    made = store_maker(num_patches=num_patches, codec="raw", unreadable=())
    store = PatchStore.open(made.write(tmp_path / "a.zarr", batch=100))
    assert np.array_equal(store.read(np.arange(num_patches)), made.patches)


def test_a_slide_none_of_whose_patches_could_be_read(tmp_path: Path, store_maker: Maker) -> None:
    made = store_maker(num_patches=300, unreadable=tuple(range(300)))
    store = PatchStore.open(made.write(tmp_path / "a.zarr"))
    assert not store.valid.any()
    assert store.verify() == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path, store_maker: Maker) -> None:
    made = store_maker()
    with made.writer(tmp_path / "a.zarr") as writer:
        writer.write(made.chunks(0, 300))
    assert names(tmp_path) == []
    with pytest.raises(KeyError), made.writer(tmp_path / "a.zarr"):
        raise KeyError
    assert names(tmp_path) == []


def test_all_patches_and_no_more(tmp_path: Path, store_maker: Maker) -> None:
    made = store_maker()
    with made.writer(tmp_path / "a.zarr") as writer:
        writer.write(made.chunks(0, 10))
        with pytest.raises(ValueError, match="10 of 300 patches"):
            writer.commit()
        with pytest.raises(ValueError, match=r"10 \+ 300 patches are more than the 300"):
            writer.write(made.chunks(0, 300))
    assert names(tmp_path) == []


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path, store_maker: Maker) -> None:
    made = store_maker()
    good = {
        "path": tmp_path / "a.zarr",
        "info": made.info,
        "grid": made.grid,
        "mask": made.mask,
        "thumbnail": made.thumbnail,
    }
    replace = dataclasses.replace
    for change, message in (
        ({"path": tmp_path / "a"}, "does not end in .zarr"),
        ({"grid": made.grid.take(np.arange(0))}, "there are no patches"),
        ({"grid": replace(made.grid, tissue=made.grid.tissue[:5])}, "tissue"),
        ({"grid": replace(made.grid, coords=made.grid.coords.astype(np.int64))}, "coords"),
        ({"grid": replace(made.grid, cells=made.grid.cells[:, :1])}, "cells"),
        ({"grid": replace(made.grid, patch_px0=Pair(1.0, 1.0))}, "footprint"),
        ({"mask": replace(made.mask, method="other")}, "the mask is not the one"),
        ({"mask": replace(made.mask, downsample=Pair(1.0, 1.0))}, "the mask is not the one"),
        ({"mask": replace(made.mask, mask=made.mask.mask.astype(np.uint8))}, "bool"),
        ({"mask": replace(made.mask, mask=made.mask.mask[:0])}, "empty"),
        ({"thumbnail": made.thumbnail[..., 0]}, "thumbnail"),
    ):
        with pytest.raises(ValueError, match=message):
            PatchStoreWriter(**{**good, **change})
    assert names(tmp_path) == []


def test_a_store_is_replaced_and_strays_are_swept(
    reference: dict[str, bytes], tmp_path: Path, store_maker: Maker, bytes_of_tree: Maker
) -> None:
    path = store_maker(seed=5, num_patches=700).write(tmp_path / "a.zarr")
    for stray in ("a.zarr.tmp", "a.zarr.old"):
        (tmp_path / stray).mkdir()
        (tmp_path / stray / "x.partial").write_bytes(b"x")
    store_maker().write(path)
    assert names(tmp_path) == ["a.zarr"]
    assert bytes_of_tree(path) == reference


def test_a_replaced_store_is_read_anew_where_the_old_one_is_still_open(
    tmp_path: Path, store_maker: Maker
) -> None:
    everything = np.arange(300)
    made = [store_maker(seed=seed, codec="raw", unreadable=()) for seed in range(2)]
    old = PatchStore.open(made[0].write(tmp_path / "a.zarr"))
    assert np.array_equal(old.read(everything), made[0].patches)
    new = PatchStore.open(made[1].write(tmp_path / "a.zarr"))
    assert np.array_equal(new.read(everything), made[1].patches)


def test_what_is_not_a_store_is_never_replaced(tmp_path: Path, store_maker: Maker) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="exists and is not a patch store; move it"):
        store_maker().writer(path)
    (path / "thesis.txt").unlink()
    store_maker().write(path)
    assert is_complete(path)
    (tmp_path / "b.zarr").touch()
    with pytest.raises(StoreError, match="exists and is not a patch store"):
        store_maker().writer(tmp_path / "b.zarr")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, store_maker: Maker) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.zarr", tmp_path / f"{'x' * 250}.zarr"):
        with pytest.raises(WriteError, match=f"^{path}: cannot be written .*; make room"):
            store_maker().writer(path)
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    program = f"""
import resource, runpy, sys
from pathlib import Path
made = runpy.run_path({str(CONFTEST)!r})["StoreMaker"](codec="raw")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from wsi_hr.errors import WriteError
try:
    made.write(Path(sys.argv[1]))
except WriteError as error:
    print(error)
"""
    out = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.zarr")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "a.zarr: cannot be written (File too large)" in out.stdout
    assert names(tmp_path) == []


def test_a_shard_that_does_not_reach_the_disk_is_named_and_leaves_nothing(
    tmp_path: Path, store_maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are flushed by threads of their own; what these meet must not be lost."""

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr("wsi_hr.store.patch_writer.fsync_file", fail)
    with pytest.raises(WriteError, match=r"a.zarr: cannot be written \(Input/output error\)"):
        store_maker().write(tmp_path / "a.zarr")
    assert names(tmp_path) == []


# A child dies by SIGKILL just before its k-th change to the disk; then another one runs to the end.
# Children are forked before zarr starts a thread, so none is inherited. They do not fsync: what a
# killed process gave to the kernel is not lost.
CRASHES = f"""
import itertools, os, runpy, shutil, signal, sys
from pathlib import Path

os.fsync = lambda handle: None
tools = runpy.run_path({str(CONFTEST)!r})
folder, exists_before = Path(sys.argv[1]), sys.argv[2] == "replace"
path, reference, older = (folder / name for name in ("a.zarr", "reference.zarr", "older.zarr"))
made = tools["StoreMaker"](num_patches=260, codec="raw", unreadable=(3,))
other = tools["StoreMaker"](num_patches=5, codec="raw", unreadable=(), seed=1)
CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")

def child(task):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(task() or 0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def at_every_change(call):
    def hook(event, arguments):
        if event in CHANGES and (str(folder) in str(arguments[0]) or event != "open"):
            call()
    sys.addaudithook(hook)

def num_changes():
    count = itertools.count()
    at_every_change(lambda: next(count))
    made.write(path)
    return next(count)

def write_dying_at(k):
    left = itertools.count(k, -1)
    at_every_change(lambda: next(left) == 1 and os.kill(os.getpid(), signal.SIGKILL))
    made.write(path)

assert child(lambda: made.write(reference) and None) == 0
assert child(lambda: other.write(older) and None) == 0
tree_bytes = tools["tree_bytes"]
expected, before = tree_bytes(reference), tree_bytes(older)
if exists_before:
    shutil.copytree(older, path)
total = child(num_changes)
# The writing in steps of eight; the replacing, at the end, one by one.
for k in range(total - 30, total + 1) if exists_before else range(1, total + 1, 8):
    shutil.rmtree(path, ignore_errors=True)
    if exists_before:
        shutil.copytree(older, path)
    assert child(lambda: write_dying_at(k)) == -signal.SIGKILL, k
    if path.exists():
        # Whole in any case: the new one, or the one that was there.
        assert tree_bytes(path) in ([expected, before] if exists_before else [expected]), k
    assert child(lambda: made.write(path) and None) == 0
    assert tree_bytes(path) == expected, k
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.zarr", "older.zarr", "reference.zarr"
    ], k
print(total)
"""


@pytest.mark.parametrize("situation", ["fresh", "replace"])
def test_killed_before_any_write_the_next_run_ends_the_same(tmp_path: Path, situation: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path), situation],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert 60 < int(out.stdout) < 255
