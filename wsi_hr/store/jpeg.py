"""A patch as JPEG bytes and back; the size in the header is checked before decoding."""

from __future__ import annotations

from typing import Literal

import numpy as np
import simplejpeg

from wsi_hr.geometry import UInt8Array

Subsampling = Literal["444", "422", "420"]

# On H&E tiles full chroma costs a quarter more bytes and a quarter of the decoding speed. Below
# this quality it buys about half a dB, as quantisation is the larger error; from here on the
# subsampling itself would be (2 dB at 95, 10 dB at 100), against what such a quality asks for.
_FULL_CHROMA_FROM_QUALITY = 95


def subsampling_for(quality: int) -> Subsampling:
    """The chroma subsampling that goes with a JPEG ``quality``."""
    return "444" if quality >= _FULL_CHROMA_FROM_QUALITY else "420"


def encode_jpeg(pixels: UInt8Array, *, quality: int, subsampling: Subsampling) -> bytes:
    """``pixels`` u8[h, w, 3] as a JPEG stream; equal pixels give equal bytes."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=quality,
        colorspace="RGB",
        colorsubsampling=subsampling,
    )


def decode_jpeg_into(stream: bytes, out: UInt8Array) -> None:
    """Decode ``stream`` into ``out``, a contiguous u8[h, w, 3].

    What a decoder can mend it mends, for a stream may be a scanner's own, irregular ending and all.
    Damage to the store is not its business: chunks are sealed.

    Raises:
        ValueError: not a JPEG, broken, or of another size than ``out``. The size is read from the
            header first, so a stream that announces a huge picture costs nothing.
    """
    height, width, _, _ = simplejpeg.decode_jpeg_header(stream)
    if (height, width, 3) != out.shape:
        raise ValueError(
            f"its JPEG announces {width} x {height} px where {out.shape[1]} x {out.shape[0]} belong"
        )
    simplejpeg.decode_jpeg(stream, colorspace="RGB", buffer=out, strict=False)
