"""Colours by ICC: as ImageCms converts them, and unchanged where they are sRGB already."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from wsi_hr.tiling.icc import UnusableProfileError, srgb_map

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def with_gamma(gamma: float) -> bytes:
    """The sRGB profile with other tone curves: red, green and blue all ``value ** gamma``."""
    return replaced(SRGB, (b"rTRC", b"gTRC", b"bTRC"), curve(gamma))


def curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))


def replaced(profile: bytes, tags: tuple[bytes, ...], content: bytes) -> bytes:
    """The profile with its tags pointing to new content at the end."""
    profile = profile + b"\0" * (-len(profile) % 4)
    where = len(profile)
    data = bytearray(profile + content + b"\0" * (-len(content) % 4))
    (count,) = struct.unpack(">I", data[128:132])
    for entry in range(132, 132 + 12 * count, 12):
        if bytes(data[entry : entry + 4]) in tags:
            data[entry + 4 : entry + 12] = struct.pack(">II", where, len(content))
    data[:4] = struct.pack(">I", len(data))
    return bytes(data)


def test_srgb_is_the_identity_within_one_level():
    apply, facts = srgb_map(SRGB)
    assert np.abs(apply(PICTURE).astype(int) - PICTURE.astype(int)).max() <= 1
    assert facts["intent"] == "perceptual"
    assert len(facts["profile_sha256"]) == 64


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_another_gamma_changes_pixels_as_imagecms_does(gamma):
    profile = with_gamma(gamma)
    made = srgb_map(profile)[0](PICTURE)
    wanted = ImageCms.profileToProfile(
        Image.fromarray(PICTURE),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.PERCEPTUAL,
    )
    assert np.array_equal(made, np.asarray(wanted))
    # and that is what the tone curves say: linear light, then the curve of sRGB
    light = (PICTURE / 255) ** gamma
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(made - 255 * srgb).max() < 2
    assert np.abs(made.astype(int) - PICTURE.astype(int)).max() > 10


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (None, "no ICC profile"),
        (b"", "damaged"),
        (b"not a profile" * 40, "damaged"),
        (SRGB[:200], "damaged"),
        (replaced(SRGB, (b"rTRC",), b"junkjunkjunk"), "damaged"),
        (SRGB[:16] + b"CMYK" + SRGB[20:], "one of CMYK, not of RGB"),
    ],
)
def test_what_cannot_be_used_is_said(profile, reason):
    with pytest.raises(UnusableProfileError, match=reason):
        srgb_map(profile)
