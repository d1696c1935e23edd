"""The scanner's colours as sRGB, by the ICC profile that it put into the slide."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from wsi_hr.geometry import UInt8Array
from wsi_hr.tiling.pixel_map import PixelMap

_INTENTS = {
    ImageCms.Intent.PERCEPTUAL: "perceptual",
    ImageCms.Intent.RELATIVE_COLORIMETRIC: "relative colorimetric",
    ImageCms.Intent.SATURATION: "saturation",
    ImageCms.Intent.ABSOLUTE_COLORIMETRIC: "absolute colorimetric",
}
_OTHER_SPACES = {b"GRAY": "grey", b"CMYK": "CMYK", b"Lab ": "Lab", b"XYZ ": "XYZ"}


class UnusableProfileError(ValueError):
    """A slide has no ICC profile, or none that says what its RGB means; one clause."""


def srgb_map(profile: bytes | None) -> tuple[PixelMap, dict[str, Any]]:
    """A map to sRGB, and what a store records of it.

    The profile's own rendering intent is taken, as OpenSlide's documentation does. Of the profile
    only a checksum is recorded: its texts may name a device.

    Raises:
        UnusableProfileError: there is no profile, it is damaged, or it is not one of RGB.
    """
    if profile is None:
        raise UnusableProfileError("the slide has no ICC profile")
    space = profile[16:20]  # of the header
    try:
        scanner = ImageCms.ImageCmsProfile(BytesIO(profile))
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(scanner))
        transform = ImageCms.ImageCmsTransform(
            scanner, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), "RGB", "RGB", intent
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as cause:
        if space in _OTHER_SPACES:
            raise UnusableProfileError(
                f"the slide's ICC profile is one of {_OTHER_SPACES[space]}, not of RGB"
            ) from cause
        raise UnusableProfileError("the slide's ICC profile is damaged") from cause

    def apply(rgb: UInt8Array) -> UInt8Array:
        return np.asarray(transform.apply(Image.fromarray(rgb)))

    digest = hashlib.sha256(profile).hexdigest()
    return apply, {"profile_sha256": digest, "intent": _INTENTS[intent]}
