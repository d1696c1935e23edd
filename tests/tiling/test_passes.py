"""Several scales in one pass: each tile decoded once, every byte as if each were cut alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile

from wsi_hr.config import TileConfig
from wsi_hr.errors import StoreError, WriteError
from wsi_hr.geometry import Size
from wsi_hr.runtime import sha256_file
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.tiling import passes
from wsi_hr.tiling.later_chunks import LaterChunks
from wsi_hr.tiling.tile import tile_slide
from wsi_hr.tiling.tile_pixels import TilePatches

SIZE = Size(5120, 4608)
TILE = 256
TWO = {"mpp": 0.5, "more_mpp": [1.0], "patch_size": 128, "resample": "exact"}


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory) -> Path:
    """One level of pink noise with holes, 0.25 um/px: blocks of 16 x 16 patches, 2 x 2 of them."""
    path = tmp_path_factory.mktemp("slides") / "s.tif"
    rng = np.random.default_rng(0)
    glass = np.full((TILE, TILE, 3), 244, np.uint8)

    def stream(col: int, row: int) -> bytes:
        coarse = rng.integers(0, 60, (TILE // 8, TILE // 8, 1))
        tissue = (np.array([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3)))).astype(np.uint8)
        hole = (col // 3 + row // 3) % 4 == 0
        return simplejpeg.encode_jpeg(glass if hole else tissue, colorsubsampling="420")

    cols, rows = SIZE.w // TILE, SIZE.h // TILE
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter([stream(col, row) for row in range(rows) for col in range(cols)]),
            shape=(SIZE.h, SIZE.w, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="ycbcr",
            subsampling=(2, 2),
            compression="jpeg",
            metadata=None,
            resolution=(40_000, 40_000),
            resolutionunit="CENTIMETER",
        )
    return path


@pytest.fixture
def decoded(monkeypatch) -> Counter[tuple[int, int, int]]:
    """How often each tile was decoded for patches, by (column, row, reduced by the decoder)."""
    counts: Counter[tuple[int, int, int]] = Counter()
    decode = TilePatches._decode

    def counted(self: TilePatches, col: int, row: int, out: np.ndarray) -> bool:
        counts[col, row, TILE // out.shape[0]] += 1
        return decode(self, col, row, out)

    monkeypatch.setattr(TilePatches, "_decode", counted)
    return counts


def tiled(path: Path, store: Path, threads: int = 1, **settings: object) -> dict[str, str]:
    """Tile, and give the digests of all files of the store and beside it."""
    config = TileConfig.model_validate(settings)
    assert tile_slide(path, "s", store, config, None, "x", threads).status == "done"
    return {
        str(file.relative_to(store.parent)): sha256_file(file)
        for file in store.parent.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(
    "settings",
    [
        TWO,
        TWO | {"mpp": 1.0, "more_mpp": [0.5]},
        TWO | {"mpp": 0.25, "more_mpp": [0.5, 1.0], "codec": "virtual", "patch_size": 256},
        {"mpp": 2.0, "more_mpp": [4.0], "patch_size": 32, "resample": "fast"},
    ],
)
def test_each_tile_is_decoded_once_for_all_scales(tmp_path, slide_path, decoded, settings):
    tiled(slide_path, tmp_path / "s.zarr", min_tissue=0.0, **settings)
    assert len(decoded) > 300
    assert set(decoded.values()) == {1}


def test_a_tile_is_read_once_and_decoded_as_each_scale_has_the_decoder_reduce_it(
    tmp_path, slide_path, decoded, monkeypatch
):
    """Each scale stays what it is alone; the manual says so."""
    read: Counter[tuple[int, int]] = Counter()
    stream = TilePatches._stream

    def counted(self: TilePatches, col: int, row: int) -> bytes:
        read[col, row] += 1
        return stream(self, col, row)

    monkeypatch.setattr(TilePatches, "_stream", counted)
    settings = TWO | {"resample": "fast", "min_tissue": 0.0}
    together = tiled(slide_path, tmp_path / "together/s.zarr", **settings)
    assert {scale for _, _, scale in decoded} == {2, 4}
    assert set(decoded.values()) == {1}
    assert len(read) > 300
    assert set(read.values()) == {1}
    monkeypatch.setattr(passes, "MAX_SHARED_BYTES", 0)
    assert together == tiled(slide_path, tmp_path / "apart/s.zarr", **settings)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        TWO,
        TWO | {"more_mpp": [0.7, 1.3], "stride": 101, "patch_size": 112},
        TWO | {"mpp": 1.1, "more_mpp": [0.25], "codec": "raw", "min_tissue": 0.9},
    ],
)
def test_the_same_bytes_as_one_scale_after_the_other(
    tmp_path, monkeypatch, slide_path, decoded, settings, threads
):
    damaged = tmp_path / "d.tif"
    damaged.write_bytes(slide_path.read_bytes())
    with tifffile.TiffFile(damaged) as tif:
        offset = tif.pages.first.dataoffsets[SIZE.w // TILE * 5 + 7]
    with damaged.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * 600)
    settings = settings | {"max_unreadable": 0.5}
    together = tiled(damaged, tmp_path / "together/s.zarr", threads, **settings)
    num_together = decoded.total()
    monkeypatch.setattr(passes, "MAX_SHARED_BYTES", 0)
    decoded.clear()
    assert together == tiled(damaged, tmp_path / "apart/s.zarr", **settings)
    assert num_together < 0.8 * decoded.total()
    store = PatchStore.open(tmp_path / "together/s.zarr", settings["more_mpp"][0])
    assert 0 < (~store.valid).sum() < len(store)


KILLED = """
import os, signal, sys
from pathlib import Path
from wsi_hr.config import TileConfig
from wsi_hr.tiling.later_chunks import LaterChunks
from wsi_hr.tiling.tile import tile_slide

LaterChunks.in_order = lambda self: os.kill(os.getpid(), signal.SIGKILL)
config = TileConfig(mpp=0.5, more_mpp=(1.0,), patch_size=128, resample="exact")
tile_slide(Path(sys.argv[1]), "s", Path(sys.argv[2]), config, None, "x")
"""


def test_a_kill_leaves_nothing_that_the_next_run_does_not_sweep(tmp_path, slide_path):
    store = tmp_path / "killed/s.zarr"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(slide_path), str(store)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert [child.name for child in store.parent.iterdir()] == ["s.zarr.tmp"]
    assert tiled(slide_path, store, **TWO) == tiled(slide_path, tmp_path / "whole/s.zarr", **TWO)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    full = Path("/dev/full").open("r+b")  # noqa: SIM115, closed as the file it stands for
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full)
    with (
        pytest.raises(WriteError, match=f"{tmp_path}: .*No space left on device"),
        LaterChunks(2, tmp_path) as later,
    ):
        later.put(np.array([1, 0]), [b"x" * 100_000, None])


def test_what_the_disk_lost_is_told(tmp_path, monkeypatch):
    kept = (tmp_path / "chunks").open("w+b")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: kept)
    with LaterChunks(2, tmp_path) as later:
        later.put(np.array([1, 0]), [b"first", b"second"])
        assert list(later.in_order()) == [[b"second", b"first"]]
        os.truncate(kept.name, 8)
        with pytest.raises(StoreError, match=r"cannot be read back .*see that the disk is sound"):
            list(later.in_order())
