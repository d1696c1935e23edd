from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Mpp, Pair, Point, Size
from wsi_hr.slides.mpp import WAY_OUT
from wsi_hr.slides.ome import read_ome
from wsi_hr.slides.openslide_reader import OpenSlideReader
from wsi_hr.slides.tiff import TiffReader, judge_tiff

REGIONS = [
    (Point(0, 0), Size(790, 531)),
    (Point(250, 130), Size(20, 200)),
    (Point(783, 523), Size(7, 8)),
]


def _write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, **{"photometric": "rgb", "metadata": None} | options)
    return path


def _check(path: Path, expected: np.ndarray, tolerance: int = 0) -> None:
    with TiffReader(path, slide_id="x") as slide:
        for (x, y), (w, h) in REGIONS:
            rgb, valid = slide.read_region(Point(x, y), 0, Size(w, h))
            off = np.abs(rgb.astype(int) - expected[y : y + h, x : x + w])
            assert off.max() <= tolerance
            assert valid.all()


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 128)},
        {"tile": (64, 64), "compression": "lzw", "predictor": True},
        {"tile": (64, 64), "compression": "zstd"},
        {"tile": (64, 64), "compression": "webp", "compressionargs": {"lossless": True}},
        {"tile": (64, 64), "compression": "zlib", "planarconfig": "separate"},
        {"tile": (64, 64), "compression": "jpeg2000"},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 531, "compression": "zlib"},
        {"rowsperstrip": 100, "planarconfig": "separate"},
        {"rowsperstrip": 531},
        {"rowsperstrip": 17},
        {"rowsperstrip": 531, "predictor": True, "compression": "lzw"},
        {"tile": (64, 64), "bigtiff": True, "byteorder": ">"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_lossless_pixels_come_out_as_they_went_in(tmp_path, noise, options):
    planar = options.get("planarconfig") == "separate"
    pixels = np.ascontiguousarray(noise.transpose(2, 0, 1)) if planar else noise
    _check(_write(tmp_path / "x.tif", pixels, **options), noise)


def test_bands_of_a_large_uncompressed_strip_fit_together(tmp_path, monkeypatch, noise):
    monkeypatch.setattr("wsi_hr.slides.tiff_page._BAND_BYTES", 10 * noise.shape[1] * 3)
    path = _write(tmp_path / "x.tif", noise, rowsperstrip=33)  # bands of 10 rows, cut at strips
    _check(path, noise)
    with TiffReader(path, slide_id="x") as slide:
        assert slide.level_tile_sizes == (Size(790, 10),)


def test_grey_is_expanded_as_its_photometric_says(tmp_path, noise):
    grey = noise[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    _check(_write(tmp_path / "a.tif", grey, photometric="minisblack", tile=(64, 64)), expected)
    _check(
        _write(tmp_path / "b.tif", grey, photometric="miniswhite", tile=(64, 64)), 255 - expected
    )


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_pixels_are_those_of_openslide(tmp_path, noise, photometric):
    smooth = np.repeat(np.repeat(noise[:67, :99], 8, axis=0), 8, axis=1)[:531, :790]
    options = {"photometric": photometric, "compression": "jpeg", "tile": (64, 64)}
    path = _write(tmp_path / "x.tif", smooth, **options)
    with OpenSlideReader(path, slide_id="x") as slide:
        expected, _ = slide.read_region(Point(0, 0), 0, Size(790, 531))
    _check(path, expected, tolerance=1)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_lies_over_white(tmp_path, kind):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, 32:] = (200, 100, 0, 128) if kind == "unassalpha" else (100, 50, 0, 128)
    path = _write(tmp_path / "x.tif", rgba, extrasamples=[kind], rowsperstrip=64)
    with TiffReader(path, slide_id="x") as slide:
        rgb, valid = slide.read_region(Point(0, 0), 0, Size(64, 64))
    assert (rgb[:, :32] == 255).all()
    assert np.abs(rgb[:, 32:].astype(int) - (227, 177, 127)).max() <= 1
    assert np.array_equal(valid, rgba[..., 3] > 0)


def test_an_unspecified_fourth_channel_is_left_out(tmp_path, noise):
    rgbx = np.concatenate([noise, noise[..., :1]], axis=2)
    _check(_write(tmp_path / "x.tif", rgbx, extrasamples=["unspecified"], tile=(64, 64)), noise)


def test_a_tile_without_bytes_holds_nothing(tmp_path, noise):
    tiles = [noise[:64, :64], None, noise[64:128, :64], noise[64:128, 64:128]]
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=(128, 128, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(64, 64),
        compression="zlib",
    )
    with TiffReader(path, slide_id="x") as slide:
        rgb, valid = slide.read_region(Point(0, 0), 0, Size(128, 128))
    assert not valid[:64, 64:].any()
    assert valid.sum() == 3 * 64 * 64
    assert (rgb[~valid] == 255).all()
    assert np.array_equal(rgb[64:], noise[64:128, :128])


def test_sub_images_of_an_ome_tiff_are_its_levels(tmp_path, noise):
    path = tmp_path / "x.ome.tif"
    halves = [noise[::2, ::2], noise[::4, ::4]]
    metadata = {
        "axes": "YXS",
        "PhysicalSizeX": 250,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.26,
        "PhysicalSizeYUnit": "µm",
    }
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
        writer.write(noise, subifds=2, metadata=metadata, **options)
        for half in halves:
            writer.write(half, subfiletype=1, **options)
    with TiffReader(path, slide_id="x") as slide:
        assert slide.vendor == "ome-tiff"
        assert slide.mpp == Mpp(0.25, 0.26, "ome.PhysicalSizeX")
        assert slide.level_dimensions == ((790, 531), (395, 266), (198, 133))
        assert slide.level_downsamples == tuple(Pair(n, n) for n in (1.0, 2.0, 4.0))
        rgb, _ = slide.read_region(Point(40, 80), 1, Size(100, 50))
        assert np.array_equal(rgb, halves[0][40:90, 20:120])
        rgb, _ = slide.read_region(Point(40, 80), 2, Size(100, 50))
        assert np.array_equal(rgb, halves[1][20:70, 10:110])


def test_later_pages_are_levels_only_where_they_fit_exactly(tmp_path, noise):
    """A label or macro picture must never pass for a level."""
    path = tmp_path / "x.tif"
    label = noise[:300, :200]
    with tifffile.TiffWriter(path) as writer:
        for image in (noise, noise[::2, ::2][:265, :395], label, noise[::4, ::4][:132, :197]):
            options = {"photometric": "rgb", "tile": (64, 64), "compression": "webp"}
            writer.write(image, subfiletype=int(image is not noise), **options)
    with TiffReader(path, slide_id="x") as slide:
        assert slide.level_dimensions == ((790, 531), (395, 265), (197, 132))


def test_aperio_s_own_words_are_heard_where_openslide_is_not(tmp_path, noise):
    description = "Aperio Image Library v1\r\n790x531|AppMag = 20|MPP = 0,4990|User = DOE_JANE"
    path = _write(tmp_path / "x.svs", noise, description=description, compression="webp")
    with TiffReader(path, slide_id="x") as slide:
        assert slide.mpp == Mpp(0.499, 0.499, "aperio.MPP")
        assert slide.objective_power == 20
        assert "DOE_JANE" not in repr(vars(slide))


def test_resolution_tags_are_believed_only_where_they_could_be_a_scanner_s(tmp_path, noise):
    fine = _write(
        tmp_path / "a.tif", noise, resolution=(40_000, 40_000), resolutionunit="CENTIMETER"
    )
    with TiffReader(fine, slide_id="x") as slide:
        assert slide.mpp == Mpp(0.25, 0.25, "tiff.XResolution")
    with TiffReader(
        _write(tmp_path / "b.tif", noise, resolution=(72, 72), resolutionunit="INCH"), slide_id="x"
    ) as slide:
        assert slide.mpp is None
        assert "72 dpi" in slide.mpp_problem
        assert slide.mpp_problem.endswith(WAY_OUT)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "why"),
    [
        ((64, 64, 3), "u2", {}, "16-bit samples"),
        ((64, 64), "u2", {"photometric": "minisblack"}, "16-bit samples"),
        ((64, 64), "f4", {"photometric": "minisblack"}, "32-bit samples"),
        ((64, 64, 5), "u1", {"planarconfig": "contig"}, "5 channels"),
        ((64, 64, 2), "u1", {"photometric": "minisblack", "planarconfig": "contig"}, "2 channels"),
        ((3, 64, 64), "u1", {"photometric": "minisblack"}, "3 planes of one size"),
        ((64, 64, 4), "u1", {"photometric": "separated"}, "its colours are SEPARATED"),
        ((64, 64, 3), "u1", {"photometric": "cielab"}, "its colours are CIELAB"),
        ((8, 16, 16, 3), "u1", {"volumetric": True, "tile": (8, 16, 16)}, "a volume"),
    ],
)
def test_what_could_only_be_guessed_at_is_refused(tmp_path, shape, dtype, options, why):
    path = tmp_path / "x.tif"
    picture = np.full(shape, np.nan if dtype == "f4" else 0, dtype)
    tifffile.imwrite(path, picture, **{"photometric": "rgb"} | options)
    with pytest.raises(SlideError, match=why):
        TiffReader(path, slide_id="x")
    with pytest.raises(SlideError, match=why):
        judge_tiff(path)


OME = (
    '<?xml version="1.0" encoding="UTF-8"?>{declaration}<OME '
    'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    'ID="P" DimensionOrder="XYCZT" Type="uint8" SizeX="790" SizeY="531" SizeC="{c}" SizeZ="{z}" '
    'SizeT="1" PhysicalSizeX="{mpp}"><Channel ID="C" SamplesPerPixel="3" {channel}/>'
    "</Pixels></Image></OME>"
)
PLAIN = {"declaration": "", "c": "3", "z": "1", "channel": "", "mpp": "0.25"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"channel": 'EmissionWavelength="461"'}, "tells of fluorescence"),
        ({"z": "7"}, "7 planes of one size"),
        ({"c": "12"}, "4 planes of one size"),
        ({"mpp": '1" <'}, "not well-formed"),
    ],
)
def test_an_ome_tiff_that_is_no_brightfield_picture_is_refused(tmp_path, noise, changed, why):
    description = OME.format(**PLAIN | changed)
    path = _write(tmp_path / "x.tif", noise, description=description, tile=(64, 64))
    with pytest.raises(SlideError, match=why):
        TiffReader(path, slide_id="x")


@pytest.mark.parametrize(("mpp", "why"), [("0", "not a positive"), ("9e9", "outside the plausib")])
def test_an_ome_pixel_size_that_cannot_be_true_is_refused(tmp_path, noise, mpp, why):
    description = OME.format(**PLAIN | {"mpp": mpp})
    path = _write(tmp_path / "x.tif", noise, description=description, tile=(64, 64))
    with TiffReader(path, slide_id="x") as slide:
        assert slide.mpp is None
        assert why in slide.mpp_problem


BOMB = "<!DOCTYPE b [" + '<!ENTITY e0 "ha">' + "".join(
    f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 20)
) + "]>"  # fmt: skip
THEFT = '<!DOCTYPE b [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
PARAMETER = '<!doctype b [<! ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]>'


@pytest.mark.parametrize("declaration", [BOMB, THEFT, PARAMETER], ids=["bomb", "theft", "fetch"])
def test_entities_are_never_expanded(tmp_path, noise, declaration):
    description = OME.format(**PLAIN | {"declaration": declaration, "mpp": "&e19;"})
    for options in ({"tile": (64, 64)}, {"rowsperstrip": 64}):
        path = _write(tmp_path / "x.tif", noise, description=description, **options)
        with pytest.raises(SlideError, match="declares XML entities"):
            TiffReader(path, slide_id="x")


@pytest.mark.parametrize("declaration", [BOMB, THEFT, PARAMETER], ids=["bomb", "theft", "fetch"])
def test_entities_are_refused_wherever_they_stand(tmp_path, noise, declaration):
    with pytest.raises(SlideError, match="declares XML entities"):
        read_ome(OME.format(**PLAIN | {"declaration": declaration}))
    path = _write(tmp_path / "x.tif", noise, description=f"<other>{declaration}</other>")
    with pytest.raises(SlideError, match="declares XML entities"):
        TiffReader(path, slide_id="x")


def test_a_damaged_strip_costs_only_itself(tmp_path, noise):
    path = _write(tmp_path / "x.tif", noise, rowsperstrip=100, compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages.first.dataoffsets[1], file.pages.first.databytecounts[1]
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(bytes(count))
    with TiffReader(path, slide_id="x") as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"x\.tif: level 0 .* damaged .*; copy the file"):
                slide.read_region(Point(0, 90), 0, Size(10, 20))
            rgb, _ = slide.read_region(Point(0, 200), 0, Size(790, 331))
            assert np.array_equal(rgb, noise[200:])


@pytest.mark.parametrize("name", ["TileOffsets", "TileByteCounts"])
def test_a_tile_behind_the_end_of_the_file_is_damaged_not_read(tmp_path, noise, patch_tags, name):
    path = _write(tmp_path / "x.tif", noise, tile=(256, 256), compression="zlib")
    with tifffile.TiffFile(path) as file:
        values = list(file.pages.first.tags[name].value)
    patch_tags(path, **{name: [2**32 - 1, *values[1:]]})
    with TiffReader(path, slide_id="x") as slide:
        with pytest.raises(SlideError, match="behind the end of the file"):
            slide.read_region(Point(0, 0), 0, Size(10, 10))
        rgb, _ = slide.read_region(Point(256, 0), 0, Size(256, 256))
        assert np.array_equal(rgb, noise[:256, 256:512])


def test_a_strip_that_would_fill_the_memory_is_refused(tmp_path, patch_tags, noise):
    path = _write(tmp_path / "x.tif", noise, rowsperstrip=531, compression="zlib")
    patch_tags(path, ImageWidth=60_000, ImageLength=60_000, RowsPerStrip=60_000)
    with pytest.raises(SlideError, match="60000 x 60000 px, more than can be decoded"):
        TiffReader(path, slide_id="x")


def test_the_cache_keeps_its_promise_of_memory(noise):
    from wsi_hr.slides.tiff_page import _CACHE_BYTES, SegmentCache

    cache = SegmentCache()
    large = np.zeros(_CACHE_BYTES // 4 + 1, np.uint8)
    for key in range(8):
        cache.put(key, large)
    assert [key for key in range(8) if cache.get(key)[0]] == [5, 6, 7]
    cache.put("huge", np.zeros(_CACHE_BYTES + 1, np.uint8))
    assert cache.get("huge")[0]
    assert not cache.get(7)[0]


def test_reading_a_closed_slide_is_a_wrong_argument(tmp_path, noise):
    slide = TiffReader(_write(tmp_path / "x.tif", noise), slide_id="x")
    slide.close()
    with pytest.raises(ValueError, match="was closed"):
        slide.read_region(Point(0, 0), 0, Size(8, 8))


@pytest.mark.data
def test_real_pixels_are_those_of_openslide(shared_data):
    path = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
    with OpenSlideReader(path, slide_id="x") as slide:
        expected, _ = slide.read_region(Point(0, 0), 0, slide.level_dimensions[0])
        mpp = slide.mpp
    with TiffReader(path, slide_id="x") as slide:
        rgb, valid = slide.read_region(Point(0, 0), 0, slide.level_dimensions[0])
        assert (slide.mpp.x, slide.mpp.y) == (mpp.x, mpp.y)
        assert len(slide.level_dimensions) == 1  # neither thumbnail nor label nor macro
    assert valid.all()
    assert np.array_equal(rgb, expected)
