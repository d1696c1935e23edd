"""A slide that changed: its old store is nobody's truth, and is lost only for a new one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from pipelines.replacement import OUTDATED, attempt, publish, set_aside, sweep_attempts
from pipelines.tile import tile_stage
from wsi_hr.bags.bag_set import stored_slides
from wsi_hr.errors import StoreError, WriteError, WsiHrError
from wsi_hr.store.patch_store import PatchStore, is_complete

from .test_tile import CONFIG, mtimes, write_slide
from .test_tile_stopped import start_and_stop


@pytest.fixture
def tiled(tmp_path) -> tuple[Path, Path]:
    """A slide and the folder with its store."""
    slide = write_slide(tmp_path / "slides/a.svs", 0)
    tile_stage([slide], tmp_path / "store", CONFIG)
    return slide, tmp_path / "store"


def test_a_changed_slide_that_fails_keeps_its_store_where_nobody_takes_it_for_current(tiled):
    slide, store = tiled
    whole, before = slide.read_bytes(), mtimes(store)
    slide.write_bytes(whole[: len(whole) // 2])
    (row,) = tile_stage([slide], store, CONFIG)
    assert row["status"] == "failed"
    assert stored_slides(store) == []
    assert is_complete(store / OUTDATED / "a.zarr")
    (row,) = tile_stage([slide], store, CONFIG)
    assert row["status"] == "failed"
    assert is_complete(store / OUTDATED / "a.zarr"), "failing twice loses nothing either"

    slide.write_bytes(whole)
    (row,) = tile_stage([slide], store, CONFIG)
    assert row["status"] == "done"
    assert mtimes(store) == before, "the same store came back, nothing was tiled"
    assert not (store / OUTDATED).exists()


@pytest.mark.parametrize("tissue", [True, False])
def test_what_replaces_a_store_ends_it(tiled, tissue):
    slide, store = tiled
    write_slide(slide, 9, tissue=tissue)
    (row,) = tile_stage([slide], store, CONFIG)
    assert row["status"] == ("done" if tissue else "no_tissue")
    assert stored_slides(store) == ["a"] * tissue
    assert not (store / OUTDATED).exists()


@pytest.mark.fault("A1b")
def test_a_kill_while_a_changed_slide_is_tiled_offers_no_outdated_store(tiled):
    slide, store = tiled
    write_slide(slide, 9, tiles=400)
    start_and_stop(slide, store, signal.SIGKILL, once=".attempt-*/a.zarr.tmp")
    assert stored_slides(store) == []
    assert is_complete(store / OUTDATED / "a.zarr")
    write_slide(slide, 9)
    (row,) = tile_stage([slide], store, CONFIG)
    assert (row["status"], stored_slides(store)) == ("done", ["a"])
    assert not list(store.glob(".attempt-*"))
    assert not (store / OUTDATED).exists()


def test_a_crash_after_the_new_store_leaves_no_old_one_for_ever(tiled):
    slide, store = tiled
    shutil.copytree(store / "a.zarr", store / OUTDATED / "a.zarr")
    tile_stage([slide], store, CONFIG)
    assert not (store / OUTDATED).exists()


def test_an_attempt_has_its_own_place_and_speaks_of_the_store(tmp_path):
    path = tmp_path / "a.zarr"
    with attempt(path) as one, attempt(path) as other:
        assert one != other
        assert {one.name, other.name} == {"a.zarr"}
    assert list(tmp_path.iterdir()) == []

    def fail(place: Path, kind: type[WsiHrError]) -> None:
        raise kind(f"{place}: cannot be written")

    for kind in (StoreError, WriteError):
        with pytest.raises(kind, match=rf"^{path}: cannot be written$"), attempt(path) as place:
            fail(place, kind)
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_ours_is_swept(tiled):
    _, store = tiled
    theirs = {".attempt-2", ".attempt-final", "b.zarr.tmp", "c.zarr.old", ".notes.tmp"}
    ours = {f".attempt-{'0a' * 16}", f"{OUTDATED}/.attempt-{'1b' * 16}", "d.zarr.tmp", "e.zarr.old"}
    for name in theirs | ours:
        (store / name).mkdir(parents=True)
        (store / name / "thesis.txt").write_text("x")
    for name in ("d.zarr.tmp", "e.zarr.old"):
        (store / name / "zarr.json").write_text('{"attributes": {"wsi_hr": {}}}')
    sweep_attempts(store)
    assert all((store / name / "thesis.txt").exists() for name in theirs)
    assert not any((store / name).exists() for name in ours)


def test_a_second_attempt_that_ends_replaces_the_first(tiled):
    _, store = tiled
    before = PatchStore.open(store / "a.zarr").info
    with attempt(store / "a.zarr") as written:
        shutil.copytree(store / "a.zarr", written)
        publish(written, store / "a.zarr")
    assert PatchStore.open(store / "a.zarr").info == before
    assert stored_slides(store) == ["a"]
    assert not list(store.glob(".attempt-*"))


def test_what_is_no_store_is_not_moved(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/precious").touch()
    with pytest.raises(StoreError, match="not a patch store"):
        set_aside(tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr/precious").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_an_empty_folder_of_outdated_stores_goes_or_it_is_told(tmp_path, monkeypatch, number):
    outdated = tmp_path / OUTDATED
    outdated.mkdir()
    (outdated / "a.zarr").mkdir()
    (outdated / "a.zarr/precious").touch()
    sweep_attempts(tmp_path)
    assert (outdated / "a.zarr/precious").exists()
    shutil.rmtree(outdated / "a.zarr")

    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", fail)
        with pytest.raises(WriteError, match=rf"^{outdated}: cannot be written"):
            sweep_attempts(tmp_path)
    sweep_attempts(tmp_path)
    sweep_attempts(tmp_path)
    assert not outdated.exists()
