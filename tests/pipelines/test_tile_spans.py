"""Slides cut span by span on a cluster: the stores of a run on one machine, to the last byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from pipelines import tile_spans
from pipelines.tile import tile_stage
from pipelines.tile_spans import SpanJob
from wsi_hr.config import TileConfig
from wsi_hr.geometry import Size
from wsi_hr.runtime import sha256_file
from wsi_hr.testing.svs import TILE_PX, write_svs


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """Pink noise with holes, some 3,000 patches of 64 px at 0.5 um/px."""
    path = tmp_path_factory.mktemp("slides") / "s.svs"
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
    tile = (np.array([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3)))).astype(np.uint8)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    size = Size(16 * TILE_PX, 13 * TILE_PX)
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


def tree(store: Path) -> dict[str, str]:
    said = {"status.csv", "run.json", "tile.json"}
    return {
        str(file.relative_to(store)): sha256_file(file)
        for file in store.rglob("*")
        if file.is_file() and file.name not in said
    }


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
