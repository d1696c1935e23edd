"""Patches that nobody has decoded yet: for a decoder that is faster than this machine's cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsi_hr.errors import StoreError
from wsi_hr.geometry import UInt8Array
from wsi_hr.machine import num_usable_cores
from wsi_hr.pixel_memory import empty_batch, join_pixels
from wsi_hr.store.jpeg import decode_jpeg_into, holds_ycbcr
from wsi_hr.store.thread_pool import LazyThreadPool

_decoders = LazyThreadPool(num_usable_cores(), "wsi-hr-decode-streams")


@dataclass(frozen=True)
class JpegPatches:
    """K patches of P x P px, each a JPEG stream.

    Attributes:
        streams: one per patch.
        origins: where each comes from: a store, and the number of the patch in it.
        patch_px: P.
    """

    streams: tuple[bytes, ...]
    origins: tuple[tuple[str, int], ...]
    patch_px: int

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, part: slice) -> JpegPatches:
        return JpegPatches(self.streams[part], self.origins[part], self.patch_px)

    @property
    def any_decoder(self) -> bool:
        """Whether every decoder sees the same colours in them, see :func:`holds_ycbcr`."""
        try:
            return all(map(holds_ycbcr, self.streams))
        except ValueError:
            return False  # decode() says which, and why

    def decode(self) -> UInt8Array:
        """Pixels u8[K, P, P, 3], the very ones that the store gives.

        Raises:
            StoreError: naming a patch that cannot be decoded.
        """
        out = empty_batch(len(self), self.patch_px, self.patch_px, 3)

        def decode(position: int) -> None:
            try:
                decode_jpeg_into(self.streams[position], out[position])
            except ValueError as cause:
                store, patch = self.origins[position]
                raise StoreError(
                    f"{store}: patch {patch} cannot be read ({cause}); "
                    "delete this store and run wsi-hr tile again"
                ) from cause

        list(_decoders.get().map(decode, range(len(self))))
        return out


Patches = UInt8Array | JpegPatches
"""K patches: u8[K, P, P, 3], or not decoded yet."""


def join_patches(parts: Sequence[Patches]) -> Patches:
    """One after the other; decoded, if any of them is."""
    streams = [part for part in parts if isinstance(part, JpegPatches)]
    if len(streams) < len(parts):
        return join_pixels(
            [part.decode() if isinstance(part, JpegPatches) else part for part in parts]
        )
    return JpegPatches(
        tuple(stream for part in streams for stream in part.streams),
        tuple(origin for part in streams for origin in part.origins),
        streams[0].patch_px,
    )
