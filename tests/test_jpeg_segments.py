"""What of a JPEG stream is picture stays, bit for bit; all else goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageCms
from told_jpeg import (
    COMMENT,
    EOI,
    EXIF,
    NAME,
    SOI,
    STREAMS,
    TOLD,
    baseline,
    before,
    between_scans,
    first,
    profile_segments,
    segment,
    shown,
    tissue,
)

from wsi_hr.jpeg_segments import bare_jpeg, embedded_profile, jpeg_header, num_markers

PICTURE = tissue(64)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_is_all_picture_stays_as_it_is(kind):
    stream = STREAMS[kind](PICTURE)
    assert bare_jpeg(stream) == stream


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("told", TOLD)
def test_what_is_no_picture_goes_and_the_pixels_stay(kind, told):
    stream = TOLD[told](STREAMS[kind](PICTURE))
    assert NAME in stream
    bare = bare_jpeg(stream)
    assert NAME not in bare
    assert bare.endswith(EOI)
    assert np.array_equal(shown(bare), shown(stream))
    if told != "JFIF thumbnail":  # JFIF's mark makes YCbCr of what was RGB
        assert np.array_equal(shown(bare), shown(STREAMS[kind](PICTURE)))
    assert bare_jpeg(bare) == bare


@pytest.mark.parametrize(
    "kind", [kind for kind in STREAMS if "progressive" in kind or "scan" in kind]
)
def test_between_scans_only_tables_stay(kind):
    stream = between_scans(STREAMS[kind](PICTURE))
    bare = bare_jpeg(stream)
    assert NAME not in bare
    assert np.array_equal(shown(bare), shown(stream))
    assert len(stream) - len(bare) == len(COMMENT) + len(EXIF) + 2, "two fill bytes"


def test_stray_bytes_between_segments_go():
    stream = baseline(PICTURE)
    assert bare_jpeg(before(stream, b"\xff\xda", NAME, b"\xff\0", NAME)) == stream
    assert bare_jpeg(before(stream, b"\xff\xda", b"\xff\xd3\xff\1", NAME)) == stream


def test_adobes_mark_stays_and_rgb_remains_rgb():
    stream = STREAMS["RGB"](PICTURE)
    assert b"Adobe" in stream
    assert b"Adobe" in bare_jpeg(first(stream, COMMENT))


def test_jfif_keeps_its_mark_and_loses_its_thumbnail():
    bare = bare_jpeg(TOLD["JFIF thumbnail"](baseline(PICTURE)))
    assert bare.startswith(SOI + segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\0\0"))


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda stream: stream[2:], "does not begin"),
        (lambda stream: NAME + stream, "does not begin"),
        (lambda stream: stream[:30], "ends"),
        (lambda stream: before(stream, EOI, b"\xff\xfe\xff\xff"), "ends inside a segment"),
        (lambda stream: before(stream, EOI, b"\xff\xfe\0\0"), "ends inside a segment"),
        (lambda stream: first(stream, segment(0xF1, NAME)), "no decoder knows its marker 0xf1"),
        (lambda stream: first(stream, SOI, COMMENT), "begins anew"),
        (lambda stream: b"", "does not begin"),
    ],
)
def test_markers_that_lead_nowhere_are_told(broken, why):
    with pytest.raises(ValueError, match=why):
        bare_jpeg(broken(baseline(PICTURE)))


def test_a_stream_cut_off_in_its_scan_stays_cut_off():
    stream = first(baseline(PICTURE), COMMENT)
    cut = stream[: len(stream) * 3 // 4]
    bare = bare_jpeg(cut)
    assert NAME not in bare
    assert not bare.endswith(EOI)
    assert np.array_equal(shown(bare), shown(cut))


@given(st.binary(max_size=60), st.integers(0, 2000))
def test_whatever_the_bytes_it_ends_and_never_grows(noise, at):
    stream = baseline(tissue(16))
    for data in (SOI + noise, stream[:at] + noise + stream[at:]):
        try:
            bare = bare_jpeg(data)
        except ValueError:
            continue
        assert len(bare) <= len(data)
        assert bare_jpeg(bare) == bare


def test_streams_made_alike_have_one_header():
    one, two = (baseline(tissue(64, seed)) for seed in (1, 2))
    header = jpeg_header(one)
    assert header is not None
    assert two.startswith(header)
    assert jpeg_header(TOLD["behind fill bytes"](one)) is not None
    assert jpeg_header(one[:40]) is None


@pytest.mark.parametrize("kind", ["baseline", "restart markers"])
def test_markers_are_counted_as_the_header_and_the_end_have_them(kind):
    stream = STREAMS[kind](PICTURE)
    header = jpeg_header(stream)
    assert header is not None
    num = num_markers(stream, restarts=False)
    assert num == num_markers(header) + 1
    assert (num_markers(stream) > num) == (kind == "restart markers")
    assert num_markers(before(stream, EOI, COMMENT), restarts=False) == num + 1


@pytest.mark.parametrize("part", [60_000, 100])
def test_a_profile_in_parts_is_found(part):
    assert embedded_profile(first(baseline(PICTURE), profile_segments(SRGB, part))) == SRGB


def test_half_a_profile_is_none():
    parts = profile_segments(SRGB, 200)
    assert embedded_profile(first(baseline(PICTURE), parts[:-218])) is None
    assert embedded_profile(baseline(PICTURE)) is None
    assert embedded_profile(b"") is None
