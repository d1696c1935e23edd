"""The patches of one slide on disk: ``<slide_id>.zarr``, a zarr v3 group.

The writing side is :class:`PatchStoreWriter`, the reading side :class:`PatchStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from wsi_hr.errors import StoreError, StoreReadError
from wsi_hr.file_names import file_below
from wsi_hr.geometry import BoolArray, Int64Array, PatchGrid, Size, TissueMask, UInt8Array
from wsi_hr.pixel_memory import empty_batch
from wsi_hr.remote import Place, RemotePath
from wsi_hr.store.arrays import read_small_array
from wsi_hr.store.digests import Digests, digests_of
from wsi_hr.store.jpeg_patches import JpegPatches
from wsi_hr.store.layout import parse_layout
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
from wsi_hr.store.remote_patches import RemotePatches
from wsi_hr.store.skeleton import read_mask, read_root, read_scale
from wsi_hr.store.store_info import StoreInfo, scale_name

_OF = "file of a store"

__all__ = [
    "SCHEMA_VERSION",
    "STORE_SUFFIX",
    "PatchPixels",
    "PatchStore",
    "PatchStoreWriter",
    "StoreInfo",
    "is_complete",
    "verify_store",
]


class PatchPixels(Protocol):
    """Where the pixels of a store's patches are; thread-safe, and safe to use after a fork."""

    def read_into(self, indices: Sequence[int], out: UInt8Array) -> None:
        """Decode patches ``indices`` (K of them, each valid) into ``out`` u8[K, P, P, 3].

        Raises:
            StoreError: a patch cannot be read.
        """
        ...


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
        path: Place,
        manifest: Manifest,
        info: StoreInfo,
        grid: PatchGrid,
        valid: BoolArray,
        patches: PatchArray | RemotePatches | None,
    ) -> None:
        self.path = path
        self.info = info
        self.grid = grid
        self.valid = valid
        self._manifest = manifest
        self._patches = patches
        self._pixels: PatchPixels | None = patches
        self._num_patches = len(valid)

    @classmethod
    def open(cls, path: Place, mpp: float | None = None) -> PatchStore:
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
            root = read_root(path, manifest)
            at: float = root["tile"]["mpp"]
            if mpp is not None and f"{scale_name(mpp)}/zarr.json" in manifest.files:
                at = mpp
            info, grid = read_scale(path, manifest, root, at)
            valid = read_small_array(path, manifest, f"{scale_name(at)}/valid")
            _check_lengths(grid, valid)
            patches = None
            if info.mode != "virtual":
                patches = _patch_array(path, manifest, info, len(valid))
        except (ValueError, KeyError, TypeError, IndexError) as cause:
            raise StoreError(
                f"{path}: not laid out as wsi-hr does it ({cause}); "
                "delete it and run wsi-hr tile again"
            ) from cause
        return cls(path, manifest, info, grid, valid, patches)

    @property
    def slide_id(self) -> str:
        """Which slide."""
        return self.info.slide_id

    @property
    def virtual(self) -> bool:
        """Whether the patches are in the slide, not in the store, see :meth:`read_through`."""
        return self._patches is None

    @property
    def digests(self) -> Digests:
        """What tells the slide from all others, and its patches from those cut in another way."""
        return digests_of(self._manifest, self.info.source_sha256)

    def read_through(self, pixels: PatchPixels) -> None:
        """Have the patches of a virtual store read by ``pixels`` from now on."""
        assert self.virtual, "the store has pixels of its own"
        self._pixels = pixels

    def __len__(self) -> int:
        return self._num_patches

    @cached_property
    def mask(self) -> TissueMask:
        """Where there is tissue, and what spoils it.

        Raises:
            StoreError: the mask has changed on disk.
        """
        return read_mask(self.path, self._manifest, self.info)

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
            StoreError: a patch is damaged, or the slide did not give it (``valid`` is False); or
                the store is virtual, and nobody reads its slide.
        """
        wanted = self._readable(indices)
        if self._pixels is None:
            raise StoreError(
                f"{self.path}: holds no pixels, they are in its slide {self.info.source_path}; "
                "open it by wsi_hr.tiling.slide_pixels.open_store"
            )
        edge = self.info.tile.patch_size
        out = empty_batch(len(wanted), edge, edge, 3)
        self._pixels.read_into(wanted, out)
        return out

    @property
    def holds_jpeg(self) -> bool:
        """Whether patches lie in the store as JPEG streams, see :meth:`read_jpeg`."""
        return self._patches is not None and self._patches.layout.codec.name != "raw"

    def read_jpeg(self, indices: Int64Array) -> JpegPatches:
        """Patches ``indices`` i64[K] as JPEG streams, as they lie in the store.

        Raises:
            IndexError: there is no such patch, or ``indices`` are not whole numbers.
            StoreError: one is damaged, or the slide did not give it (``valid`` is False).
            ValueError: the store holds no JPEG.
        """
        if self._patches is None or not self.holds_jpeg:
            raise ValueError(f"{self.path}: holds no JPEG")
        wanted = self._readable(indices)
        streams = self._patches.stored_bytes(wanted)
        origins = tuple((str(self.path), patch) for patch in wanted)
        return JpegPatches(tuple(streams), origins, self.info.tile.patch_size)

    def _readable(self, indices: Int64Array) -> list[int]:
        if indices.dtype.kind not in "iu" or indices.ndim != 1:
            raise IndexError(f"expected whole numbers i64[K], got {indices.dtype}{indices.shape}")
        wanted: list[int] = indices.tolist()
        # One at a time: for the single patch of a random read, numpy's reductions cost more.
        for patch in wanted:
            self._check_readable(patch)
        return wanted

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


def is_complete(path: Place) -> bool:
    """Whether a finished store is at ``path``: nothing missing, nothing cut short.

    Raises:
        StoreReadError: it cannot be looked at just now.
    """
    try:
        check_sizes(path, read_manifest(path))
    except StoreReadError:
        raise
    except StoreError:
        return False
    return True


def _patch_array(
    path: Place, manifest: Manifest, info: StoreInfo, num_patches: int
) -> PatchArray | RemotePatches:
    """The array of patches, as its metadata and the list of files describe it.

    Raises:
        ValueError: they do not fit the store.
    """
    name = f"{scale_name(info.tile.mpp)}/patches"
    layout = parse_layout(read_checked(path, manifest, f"{name}/zarr.json"))
    codec = "raw" if info.mode == "raw" else "jpeg"
    if (layout.patch_px, layout.codec.name) != (info.tile.patch_size, codec):
        raise ValueError("its patches are not those of its settings")
    if layout.num_patches != num_patches:
        raise ValueError("its arrays have different lengths")
    shards = [f"{name}/{layout.shard_name(k)}" for k in range(layout.num_shards)]
    sizes = [manifest.files[shard].size for shard in shards]
    if isinstance(path, RemotePath):
        return RemotePatches(file_below(path, name, of=_OF), layout, sizes)
    return PatchArray(file_below(path, name, of=_OF), layout, sizes)


def _check_lengths(grid: PatchGrid, valid: BoolArray) -> None:
    if {len(a) for a in (grid.coords, grid.cells, grid.tissue, grid.artifact)} != {len(valid)}:
        raise ValueError("its arrays have different lengths")
