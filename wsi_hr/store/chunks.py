"""The bytes of one chunk: a patch as JPEG or as plain pixels, sealed with a CRC-32C.

A JPEG decoder shows changed pixels for most flipped bits and reports nothing; the seal does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import google_crc32c
import numpy as np

from wsi_hr.config import TileConfig
from wsi_hr.geometry import UInt8Array
from wsi_hr.store.jpeg import Subsampling, decode_jpeg_into, encode_jpeg, subsampling_for

CRC_BYTES = 4


class ChunkCodec(Protocol):
    """How one patch becomes the bytes of its chunk."""

    @property
    def name(self) -> str:
        """The store's word for it: ``jpeg``, ``raw`` or ``virtual``."""
        ...

    def encode(self, patch: UInt8Array) -> bytes:
        """``patch`` u8[P, P, 3] as sealed bytes."""
        ...

    def decode_into(self, chunk: bytes, out: UInt8Array) -> None:
        """Unseal and decode ``chunk`` into ``out``, a contiguous u8[P, P, 3].

        Raises:
            ValueError: the chunk is damaged or of another size.
        """
        ...


@dataclass(frozen=True)
class JpegChunks:
    """JPEG, then the seal."""

    quality: int
    subsampling: Subsampling
    name: str = "jpeg"

    def encode(self, patch: UInt8Array) -> bytes:
        """See :class:`ChunkCodec`."""
        return seal(encode_jpeg(patch, quality=self.quality, subsampling=self.subsampling))

    def decode_into(self, chunk: bytes, out: UInt8Array) -> None:
        """See :class:`ChunkCodec`."""
        decode_jpeg_into(unseal(chunk), out)


@dataclass(frozen=True)
class RawChunks:
    """The pixels in row order, then the seal."""

    name: str = "raw"

    def encode(self, patch: UInt8Array) -> bytes:
        """See :class:`ChunkCodec`."""
        return seal(patch.tobytes())

    def decode_into(self, chunk: bytes, out: UInt8Array) -> None:
        """See :class:`ChunkCodec`."""
        pixels = np.frombuffer(unseal(chunk), dtype=np.uint8)
        if pixels.size != out.size:
            raise ValueError(f"it holds {pixels.size} bytes of pixels where {out.size} belong")
        out[...] = pixels.reshape(out.shape)


@dataclass(frozen=True)
class NoChunks:
    """Nothing: the patches of a virtual store stay in the slide."""

    name: str = "virtual"

    def encode(self, patch: UInt8Array) -> bytes:
        """Empty; that it was called says that the slide gives the patch."""
        return b""

    def decode_into(self, chunk: bytes, out: UInt8Array) -> None:
        """See :class:`ChunkCodec`."""
        raise ValueError("a virtual store holds no pixels")


def chunk_codec_for(tile: TileConfig) -> ChunkCodec:
    """The codec that ``tile`` asks for."""
    if tile.codec == "virtual":
        return NoChunks()
    if tile.codec == "raw":
        return RawChunks()
    return JpegChunks(tile.jpeg_quality, subsampling_for(tile.jpeg_quality))


def crc_of(body: bytes) -> bytes:
    """CRC-32C of ``body``, four bytes, little-endian, as zarr v3's ``crc32c`` codec writes it."""
    return google_crc32c.value(body).to_bytes(CRC_BYTES, "little")


def seal(body: bytes) -> bytes:
    """``body`` followed by its CRC-32C."""
    return body + crc_of(body)


def unseal(sealed: bytes) -> bytes:
    """The body of ``sealed`` bytes.

    Raises:
        ValueError: body and checksum do not belong together.
    """
    body = sealed[:-CRC_BYTES]
    if len(sealed) < CRC_BYTES or not sealed.endswith(crc_of(body)):
        raise ValueError("its checksum does not fit its bytes")
    return body
