"""Slides cut span by span on a cluster: the stores of a run on one machine, to the last byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from distributed import LocalCluster

from pipelines import tile_spans
from pipelines.tile import tile_stage
from pipelines.tile_spans import SpanJob
from wsi_hr.config import TileConfig
from wsi_hr.geometry import Size
from wsi_hr.slides.open import open_slide
from wsi_hr.testing.svs import TILE_PX, write_svs
from wsi_hr.tiling.passes import tasks_together
from wsi_hr.tiling.survey import survey_slide

from .test_cluster import tree

TWO = {"patch_size": 64, "more_mpp": (1.0,)}


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """Some 3,000 patches of 64 px at 0.5 um/px."""
    return write_noise(tmp_path_factory.mktemp("slides") / "s.svs", Size(16, 13))


def write_noise(path: Path, tiles: Size) -> Path:
    """Pink noise, 0.5 um/px."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
    tile = (np.array([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3)))).astype(np.uint8)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    size = Size(tiles.w * TILE_PX, tiles.h * TILE_PX)
    write_svs(path, size=size, mpp=0.5, tile_at=lambda _: tile, glass=glass)
    return path


@pytest.fixture
def scheduler(tmp_path) -> Iterator[str]:
    options = {"dashboard_address": "127.0.0.1:0", "local_directory": str(tmp_path / "dask")}
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **options) as local:
        yield local.scheduler_address


@pytest.fixture
def cut(monkeypatch) -> list[SpanJob]:
    """The spans that were cut."""
    found: list[SpanJob] = []
    cut_one = tile_spans._cut

    def noted(job: SpanJob, context: object) -> object:
        found.append(job)
        return cut_one(job, context)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(tile_spans, "_cut", noted)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 64},
        {"patch_size": 64, "more_mpp": (1.0, 0.75)},
        {"patch_size": 64, "mpp": 1.0, "more_mpp": (0.5,), "stain": "macenko"},
        {"patch_size": 64, "codec": "raw", "resample": "fast", "more_mpp": (1.0,)},
        {"patch_size": 64, "codec": "virtual"},
    ],
)
def test_spans_give_the_bytes_of_one_machine(tmp_path, slide, scheduler, cut, settings):
    config = TileConfig.model_validate(settings)
    (alone,) = tile_stage([slide], tmp_path / "alone", config)
    (row,) = tile_stage([slide], tmp_path / "store", config, scheduler=scheduler)
    assert row | {"seconds": ""} == alone | {"seconds": ""}
    assert row["status"] == "done"
    assert len(cut) > 1
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")


def with_damage(slide: Path, path: Path, tiles: Sequence[int]) -> Path:
    """A copy of which some tiles are zeros."""
    shutil.copyfile(slide, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        places = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
    with path.open("r+b") as file:
        for offset, size in places:
            file.seek(offset)
            file.write(bytes(size))
    return path


def test_unreadable_patches_are_counted_over_all_spans(tmp_path, slide, scheduler, cut):
    damaged = with_damage(slide, tmp_path / "s.svs", [100, 190])
    of_two = {"more_mpp": (1.0, 60.0), "max_unreadable": 0.1}
    config = TileConfig.model_validate({**TWO, **of_two})
    (alone,) = tile_stage([damaged], tmp_path / "alone", config)
    (row,) = tile_stage([damaged], tmp_path / "store", config, scheduler=scheduler)
    assert row | {"seconds": ""} == alone | {"seconds": ""}
    first, *clauses = row["reason"].split("; ")
    assert first.startswith("at 60 um/px smaller than one patch")
    assert [clause.split()[1] for clause in clauses] == ["0.5", "1"]
    assert all(clause.endswith("patches unreadable") for clause in clauses)
    assert len(cut) > 1
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")


def refused(slide: Path, store: Path, scheduler: str) -> str:
    """Why a slide fails, of which nothing is left then; another one comes out."""
    other = slide.with_name("other.svs")
    write_noise(other, tiles=Size(4, 4))
    rows = tile_stage([slide, other], store, TileConfig.model_validate(TWO), scheduler=scheduler)
    by_slide = {row["slide_id"]: row for row in rows}
    assert by_slide["other"]["status"] == "done"
    assert by_slide["s"]["status"] == "failed"
    assert [path.name for path in store.iterdir() if "s.zarr" in path.name] == []
    assert not list(store.glob(".attempt-*"))
    return by_slide["s"]["reason"]


def test_too_many_unreadable_patches_fail_the_slide(tmp_path, slide, scheduler, cut):
    damaged = with_damage(slide, tmp_path / "s.svs", range(60, 180))
    reason = refused(damaged, tmp_path / "store", scheduler)
    assert "more than max_unreadable = 0.01 allows" in reason
    for folder in ("qc", "masks"):  # as on one machine, nothing for people to look at
        assert [path.stem for path in (tmp_path / "store" / folder).iterdir()] == ["other"]


def test_a_slide_that_changes_between_its_spans_fails(tmp_path, slide, scheduler, monkeypatch):
    changing = Path(shutil.copyfile(slide, tmp_path / "s.svs"))
    cut_one = tile_spans._cut

    def changed_before(job: SpanJob, context: object) -> object:
        if job.span.first:
            os.utime(changing, ns=(1, 1))
        return cut_one(job, context)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(tile_spans, "_cut", changed_before)
    assert "the file changed while it was read" in refused(changing, tmp_path / "store", scheduler)


@pytest.mark.parametrize("loss", ["part", "shard"])
def test_a_file_that_the_disk_loses_fails_the_slide(tmp_path, slide, scheduler, monkeypatch, loss):
    copied = Path(shutil.copyfile(slide, tmp_path / "s.svs"))
    cut_one = tile_spans._cut

    def lost_after(job: SpanJob, context: object) -> object:
        found = cut_one(job, context)  # pyright: ignore[reportArgumentType]
        name = found.parts[0].name if loss == "part" else next(iter(found.files))
        if loss == "part":
            (job.store.folder / name).write_bytes(b"?")
        else:
            (job.store.folder / name).unlink()
        return found

    monkeypatch.setattr(tile_spans, "_cut", lost_after)
    reason = refused(copied, tmp_path / "store", scheduler)
    assert ("damaged" if loss == "part" else "was written and is gone") in reason
    assert ".attempt-" not in reason


@pytest.mark.parametrize("first", [0.5, 1.0])
def test_every_patch_is_in_one_span(slide, first):
    """Whichever of two scales comes first, and however few shards a span has."""
    more = 1.5 - first
    config = TileConfig.model_validate({"patch_size": 64, "mpp": first, "more_mpp": (more,)})
    with open_slide(slide, slide_id="s") as found:
        scales = survey_slide(found, config).scales
        whole = range(len(scales[0].grid))
        for step in (256, 768):
            seen = [[], []]
            for start in whole[::step]:
                for task in tasks_together(scales, 1, whole[start : start + step]):
                    for of_scale, patches in zip(seen, task, strict=True):
                        of_scale += patches.tolist()
            assert seen[0] == list(whole)
            assert sorted(seen[1]) == list(range(len(scales[1].grid)))
