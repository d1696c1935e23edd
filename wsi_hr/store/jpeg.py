"""A patch as JPEG bytes and back; the size in the header is checked before decoding."""

from __future__ import annotations

from typing import Literal

import numpy as np
import simplejpeg

from wsi_hr.geometry import Size, UInt8Array
from wsi_hr.jpeg_segments import jpeg_header

Subsampling = Literal["444", "422", "420"]

# On H&E tiles full chroma costs a quarter more bytes and a quarter of the decoding speed. Below
# this quality it buys about half a dB, as quantisation is the larger error; from here on the
# subsampling itself would be (2 dB at 95, 10 dB at 100), against what such a quality asks for.
_FULL_CHROMA_FROM_QUALITY = 95

_known_headers: dict[Size, bytes] = {}  # per size, how a stream began that announced it


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


def holds_ycbcr(stream: bytes) -> bool:
    """Whether a stream holds YCbCr, as nearly all do, and so means the same to every decoder.

    Others hold RGB and say so in Adobe's marker (APP14), which some decoders do not read; or grey.

    Raises:
        ValueError: not a JPEG.
    """
    return simplejpeg.decode_jpeg_header(stream)[2] == "YCbCr"


def decode_jpeg_into(stream: bytes, out: UInt8Array) -> None:
    """Decode ``stream`` into ``out``, a contiguous u8[h, w, 3].

    What a decoder can mend it mends, for a stream may be a scanner's own, irregular ending and all.
    Damage to the store is not its business: chunks are sealed.

    Raises:
        ValueError: not a JPEG, broken, or of another size than ``out``. The size is read from the
            header first, so a stream that announces a huge picture costs nothing.
    """
    wanted = Size(out.shape[1], out.shape[0])
    known = _known_headers.get(wanted)
    if known is None or not stream.startswith(known):
        height, width, _, _ = simplejpeg.decode_jpeg_header(stream)
        if (width, height) != wanted:
            raise ValueError(
                f"its JPEG announces {width} x {height} px where {wanted.w} x {wanted.h} belong"
            )
        header = jpeg_header(stream)
        if header is not None:
            _known_headers[wanted] = header
    simplejpeg.decode_jpeg(stream, colorspace="RGB", buffer=out, strict=False)
