"""The JPEG codec under which zarr-python, and whoever uses it, reads a patch store.

Registered by the entry point ``zarr.codecs: wsi_hr_jpeg``, so that opening a store with zarr alone
needs this package installed, not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast, get_args

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDArrayLike, NDBuffer
from zarr.core.common import JSON

from wsi_hr.geometry import UInt8Array
from wsi_hr.store.jpeg import Subsampling, decode_jpeg_into, encode_jpeg

JPEG_CODEC_NAME = "wsi_hr_jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One patch u8[1, h, w, 3] as one JPEG stream.

    Attributes:
        quality: JPEG quality, 1 to 100; decoding does not depend on it.
        subsampling: chroma subsampling, ``444``, ``422`` or ``420``; decoding does not depend on
            it.
    """

    is_fixed_size = False

    quality: int
    subsampling: Subsampling

    def __post_init__(self) -> None:
        if type(self.quality) is not int or not 1 <= self.quality <= 100:
            raise ValueError(f"{JPEG_CODEC_NAME}: quality {self.quality!r} is not 1 to 100")
        if self.subsampling not in get_args(Subsampling):
            raise ValueError(
                f"{JPEG_CODEC_NAME}: subsampling {self.subsampling!r} is none of "
                f"{', '.join(get_args(Subsampling))}"
            )

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Build the codec from an array's metadata.

        Raises:
            ValueError: another codec's metadata, or a setting that is missing, unknown or out of
                range.
        """
        configuration = data.get("configuration")
        if data.get("name") != JPEG_CODEC_NAME or not isinstance(configuration, dict):
            raise ValueError(f"{data!r} is not the metadata of the codec {JPEG_CODEC_NAME}")
        if set(configuration) != {"quality", "subsampling"}:
            raise ValueError(
                f"{JPEG_CODEC_NAME} has the settings quality and subsampling, "
                f"not {', '.join(sorted(configuration))}"
            )
        return cls(
            quality=cast(int, configuration["quality"]),
            subsampling=cast(Subsampling, configuration["subsampling"]),
        )

    def to_dict(self) -> dict[str, JSON]:
        """The codec as an array's metadata describe it."""
        return {
            "name": JPEG_CODEC_NAME,
            "configuration": {"quality": self.quality, "subsampling": self.subsampling},
        }

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown beforehand; zarr asks such codecs, its own gzip too, to raise this."""
        raise NotImplementedError

    # zarr before 3.2 calls the coroutines; later releases call the plain methods where they can.

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        pixels = chunk_array.as_numpy_array()
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[::3] != (1, 3):
            raise ValueError(
                f"{JPEG_CODEC_NAME} takes chunks u8[1, h, w, 3], not "
                f"{pixels.dtype}{list(pixels.shape)}"
            )
        stream = encode_jpeg(
            cast(UInt8Array, pixels[0]), quality=self.quality, subsampling=self.subsampling
        )
        return chunk_spec.prototype.buffer.from_bytes(stream)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        if len(chunk_spec.shape) != 4 or chunk_spec.shape[::3] != (1, 3):
            raise ValueError(
                f"{JPEG_CODEC_NAME} gives chunks u8[1, h, w, 3], not {list(chunk_spec.shape)}"
            )
        pixels = np.empty(chunk_spec.shape, dtype=np.uint8)
        decode_jpeg_into(chunk_bytes.to_bytes(), pixels[0])
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(cast(NDArrayLike, pixels))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return self._encode_sync(chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_data, chunk_spec)
