"""Small stores with known pixels. Plain functions, so that a killed subprocess can use them too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsi_hr.config import TileConfig
from wsi_hr.geometry import (
    BoolArray,
    Bounds,
    Mpp,
    Pair,
    PatchGrid,
    ReadPlan,
    Size,
    TissueMask,
    UInt8Array,
)
from wsi_hr.store.chunks import chunk_codec_for
from wsi_hr.store.patch_store import PatchStoreWriter, StoreInfo

PATCH_PX = 16
NUM_PATCHES = 300  # more than one shard of 256
UNREADABLE = (3, 255, 299)


class StoreMaker:
    """One slide's worth of everything a store holds, drawn from a seed."""

    def __init__(
        self,
        num_patches: int = NUM_PATCHES,
        codec: str = "jpeg",
        unreadable: tuple[int, ...] = UNREADABLE,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        footprint = Pair(2.0 * PATCH_PX, 2.0 * PATCH_PX)
        columns = 20
        cells = np.stack(np.divmod(np.arange(num_patches), columns), axis=1).astype(np.int32)
        self.grid = PatchGrid(
            coords=np.ascontiguousarray(cells[:, ::-1] * 2 * PATCH_PX),
            cells=cells,
            shape=(-(-num_patches // columns), columns),
            tissue=rng.random(num_patches, dtype=np.float32),
            patch_px0=footprint,
        )
        self.mask = TissueMask(
            np.zeros((7, 9), dtype=np.bool_), Pair(64.0, 63.5), "saturation_otsu"
        )
        self.thumbnail: UInt8Array = rng.integers(0, 256, (11, 13, 3), dtype=np.uint8)
        smooth = rng.integers(0, 256, (num_patches, 2, 2, 3), dtype=np.uint8)
        self.patches: UInt8Array = smooth.repeat(PATCH_PX // 2, axis=1).repeat(
            PATCH_PX // 2, axis=2
        )
        self.readable: BoolArray = np.ones(num_patches, dtype=np.bool_)
        self.readable[[index for index in unreadable if index < num_patches]] = False
        tile = TileConfig(patch_size=PATCH_PX, codec=codec)  # pyright: ignore
        self.info = StoreInfo(
            slide_id="slide-1",
            source_name="slide-1.svs",
            source_size=123456789,
            source_sha256="ab" * 32,
            source_edges_sha256="cd" * 32,
            mpp=Mpp(0.2527, 0.2528, "openslide.mpp-x"),
            level0_size=Size(1000, 900),
            bounds=Bounds(10, 20, 900, 800),
            vendor="aperio",
            reader="OpenSlide",
            mode=codec,
            plan=ReadPlan(1, Pair(4.0, 4.0001), Pair(0.5, 0.4999), footprint, footprint),
            tile=tile,
            asked=tile,
            segmenter="saturation_otsu",
            mask_downsample=Pair(64.0, 63.5),
            wsi_hr_version="0.1.0",
        )

    def writer(self, path: Path) -> PatchStoreWriter:
        return PatchStoreWriter(path, self.info, self.grid, self.mask, self.thumbnail)

    def write(self, path: Path, batch: int = 64) -> Path:
        with self.writer(path) as writer:
            for first in range(0, len(self.grid), batch):
                writer.write(self.chunks(first, first + batch))
            writer.commit()
        return path

    def chunks(self, start: int, stop: int) -> list[bytes | None]:
        """Patches ``start`` to ``stop``, encoded."""
        encode = chunk_codec_for(self.info.tile).encode
        part = slice(start, stop)
        return [
            encode(patch) if readable else None
            for patch, readable in zip(self.patches[part], self.readable[part], strict=True)
        ]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its bytes."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="session")
def store_maker() -> type[StoreMaker]:
    return StoreMaker


@pytest.fixture(scope="session")
def bytes_of_tree():
    return tree_bytes


@pytest.fixture(params=["jpeg", "raw"])
def codec(request: pytest.FixtureRequest) -> str:
    return request.param
