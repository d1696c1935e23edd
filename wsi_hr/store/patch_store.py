"""The patches of one slide on disk: ``<slide_id>.zarr``, a zarr v3 group.

The writing side is :class:`PatchStoreWriter`, the reading side :class:`PatchStore`.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsi_hr.errors import StoreError
from wsi_hr.geometry import BoolArray, Int64Array, PatchGrid, Size, TissueMask, UInt8Array
from wsi_hr.store.arrays import ATTRIBUTES_KEY, read_small_array
from wsi_hr.store.layout import PatchLayout, parse_layout
from wsi_hr.store.manifest import (
    SCHEMA_VERSION,
    Manifest,
    check_sizes,
    read_checked,
    read_manifest,
    verify_store,
)
from wsi_hr.store.patch_array import PatchArray
from wsi_hr.store.patch_writer import STORE_SUFFIX, PatchStoreWriter
from wsi_hr.store.store_info import StoreInfo, scale_name

__all__ = [
    "SCHEMA_VERSION",
    "STORE_SUFFIX",
    "PatchStore",
    "PatchStoreWriter",
    "StoreInfo",
    "is_complete",
    "verify_store",
]


class PatchStore:
    """A finished store, open for reading; thread-safe, and safe to use after a fork.

    Attributes:
        path: where it is.
        info: which slide, and how it was cut.
        grid: all N patches, in store order.
        valid: bool[N], False where the slide did not give the patch.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        info: StoreInfo,
        grid: PatchGrid,
        valid: BoolArray,
        patches: PatchArray,
    ) -> None:
        self.path = path
        self.info = info
        self.grid = grid
        self.valid = valid
        self._manifest = manifest
        self._patches = patches
        self._num_patches = len(valid)

    @classmethod
    def open(cls, path: Path, mpp: float | None = None) -> PatchStore:
        """Open the store at ``path``, at one of its scales.

        Args:
            path: where it is.
            mpp: the asked um per patch px of the scale; where the store has no such scale, or None
                is given, its first.

        Of the patches, the mask and the thumbnail only the sizes are checked here, their bytes when
        they are read; all else is read and compared with the manifest.

        Raises:
            StoreError: no store, not ours, not finished, damaged, or written by a newer wsi-hr.
        """
        manifest = read_manifest(path)
        check_sizes(path, manifest)
        try:
            root = _attributes(path, manifest, "zarr.json")
            scale = scale_name(root["tile"]["mpp"])
            if mpp is not None and f"{scale_name(mpp)}/zarr.json" in manifest.files:
                scale = scale_name(mpp)
            of_scale = _attributes(path, manifest, f"{scale}/zarr.json")
            info = StoreInfo.from_json(root, of_scale)
            shape = of_scale["grid_shape"]
            layout = parse_layout(read_checked(path, manifest, f"{scale}/patches/zarr.json"))
            grid = PatchGrid(
                coords=read_small_array(path, manifest, f"{scale}/coords"),
                cells=read_small_array(path, manifest, f"{scale}/cells"),
                shape=(int(shape[0]), int(shape[1])),
                tissue=read_small_array(path, manifest, f"{scale}/tissue"),
                patch_px0=info.plan.patch_px0,
                artifact=read_small_array(path, manifest, f"{scale}/artifact"),
            )
            valid = read_small_array(path, manifest, f"{scale}/valid")
            _check_agreement(info, grid, valid, layout)
            shards = [f"{scale}/patches/{layout.shard_name(k)}" for k in range(layout.num_shards)]
            shard_bytes = [manifest.files[name].size for name in shards]
        except (ValueError, KeyError, TypeError, IndexError) as cause:
            raise StoreError(
                f"{path}: not laid out as wsi-hr does it ({cause}); "
                "delete it and run wsi-hr tile again"
            ) from cause
        patches = PatchArray(path / scale / "patches", layout, shard_bytes)
        return cls(path, manifest, info, grid, valid, patches)

    @property
    def slide_id(self) -> str:
        """Which slide."""
        return self.info.slide_id

    def __len__(self) -> int:
        return self._num_patches

    @cached_property
    def mask(self) -> TissueMask:
        """Where there is tissue, and what spoils it.

        Raises:
            StoreError: the mask has changed on disk.
        """
        codes = read_small_array(self.path, self._manifest, "mask")
        return TissueMask.from_codes(codes, self.info.mask_downsample, self.info.segmenter)

    @property
    def level0_size(self) -> Size:
        """(w, h) of the slide, level-0 px."""
        return self.info.level0_size

    @property
    def thumbnail(self) -> UInt8Array:
        """The whole slide, small: u8[h, w, 3]; read anew each time, as hundreds of stores are open.

        Raises:
            StoreError: the thumbnail has changed on disk.
        """
        return read_small_array(self.path, self._manifest, "thumbnail")

    def read(self, indices: Int64Array) -> UInt8Array:
        """Decode patches.

        Args:
            indices: i64[K], each in 0..N-1, in any order, repeated or not.

        Returns:
            u8[K, P, P, 3], in the order of ``indices``.

        Raises:
            IndexError: there is no such patch, or ``indices`` are not whole numbers.
            StoreError: a patch is damaged, or the slide did not give it (``valid`` is False).
        """
        if indices.dtype.kind not in "iu" or indices.ndim != 1:
            raise IndexError(f"expected whole numbers i64[K], got {indices.dtype}{indices.shape}")
        wanted: list[int] = indices.tolist()
        # One at a time: for the single patch of a random read, numpy's reductions cost more.
        for patch in wanted:
            self._check_readable(patch)
        edge = self._patches.layout.patch_px
        out = np.empty((len(wanted), edge, edge, 3), dtype=np.uint8)
        self._patches.read_into(wanted, out)
        return out

    @property
    def holds_jpeg(self) -> bool:
        """Whether patches lie in the store as JPEG streams, see :meth:`read_jpeg`."""
        return self._patches.layout.codec.name != "raw"

    def read_jpeg(self, patch: int) -> bytes:
        """The JPEG stream of patch ``patch``, as it lies in the store.

        Raises:
            IndexError: there is no such patch.
            StoreError: it is damaged, or the slide did not give it (``valid`` is False).
            ValueError: the store holds pixels, not JPEG.
        """
        if not self.holds_jpeg:
            raise ValueError(f"{self.path}: holds pixels, not JPEG")
        self._check_readable(patch)
        return self._patches.stored_bytes(patch)

    def _check_readable(self, patch: int) -> None:
        if not 0 <= patch < self._num_patches:
            raise IndexError(f"{self.path}: patches are 0 to {self._num_patches - 1}, not {patch}")
        if not self.valid[patch]:
            raise StoreError(
                f"{self.path}: patch {patch} could not be read from the slide; "
                "use the patches that `valid` marks"
            )

    def verify(self) -> list[str]:
        """Read every file back against the manifest.

        Returns:
            One sentence per problem; empty if the store is sound. For a store that does not even
            open, ask :func:`wsi_hr.store.manifest.verify_store`.
        """
        return verify_store(self.path)


def is_complete(path: Path) -> bool:
    """Whether a finished store is at ``path``: nothing missing, nothing cut short."""
    try:
        check_sizes(path, read_manifest(path))
    except StoreError:
        return False
    return True


def _attributes(path: Path, manifest: Manifest, name: str) -> dict[str, Any]:
    return json.loads(read_checked(path, manifest, name))["attributes"][ATTRIBUTES_KEY]


def _check_agreement(
    info: StoreInfo, grid: PatchGrid, valid: BoolArray, layout: PatchLayout
) -> None:
    num = layout.num_patches
    codec = "raw" if info.mode == "raw" else "jpeg"
    if (layout.patch_px, layout.codec.name) != (info.tile.patch_size, codec):
        raise ValueError("its patches are not those of its settings")
    lengths = {len(a) for a in (grid.coords, grid.cells, grid.tissue, grid.artifact, valid)}
    if lengths != {num}:
        raise ValueError("its arrays have different lengths")
