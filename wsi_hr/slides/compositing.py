"""Where the scan has nothing, the glass is white."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import BoolArray, UInt8Array


def on_white(rgba: UInt8Array, *, premultiplied: bool = False) -> tuple[UInt8Array, BoolArray]:
    """Lay translucent pixels over white.

    Args:
        rgba: u8[h, w, 4].
        premultiplied: whether the colours already contain the factor alpha.

    Returns:
        u8[h, w, 3], and bool[h, w] where alpha is not 0.
    """
    alpha = rgba[..., 3]
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3]), np.ones(alpha.shape, np.bool_)
    weight = alpha[..., None].astype(np.uint16)
    colour = rgba[..., :3].astype(np.uint16)
    if premultiplied:
        rgb = np.minimum(colour + (255 - weight), 255)
    else:
        rgb = (colour * weight + 255 * (255 - weight) + 127) // 255
    return rgb.astype(np.uint8), alpha > 0
