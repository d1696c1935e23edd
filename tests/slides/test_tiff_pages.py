"""Label and macro, whatever marks them, become no level and no slide, by either reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from openslide import OpenSlide

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Point, Size
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.slide import Slide

GREEN = np.array([20, 240, 110], np.uint8)
TILED = {"tile": (64, 64), "compression": "zlib"}
STRIPS = {"rowsperstrip": 32, "compression": "lzw"}
APERIO = "Aperio Image Library v11.2.1\r\n"
BASE = f"{APERIO}512x512 [0,0 512x512] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
Page = tuple[np.ndarray, dict[str, object]]


def tissue(edge: int) -> np.ndarray:
    """No px of it is near GREEN."""
    rows, columns = np.mgrid[0:edge, 0:edge] * (512 // edge)
    return np.dstack([150 + rows % 97, 40 + columns % 89, 120 + (rows + columns) % 90]).astype("u1")


def striking(width: int, height: int) -> np.ndarray:
    return np.broadcast_to(GREEN, (height, width, 3)).copy()


def write(path: Path, *pages: Page) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for pixels, options in pages:
            writer.write(pixels, **{"photometric": "rgb", "metadata": None} | options)
    return path


def shows_green(pixels: np.ndarray) -> bool:
    return bool((np.abs(pixels.astype(int) - GREEN).max(axis=2) < 40).any())


def check(slide: Slide) -> None:
    """All levels, and the thumbnail, show tissue alone, and the slide is the large one."""
    assert slide.level_dimensions[0] == (512, 512)
    for level, size in enumerate(slide.level_dimensions):
        pixels, _ = slide.read_region(Point(0, 0), level, size)
        assert not shows_green(pixels), level
    for edge in (64, 100, 128, 256, 512):
        assert not shows_green(slide.thumbnail(edge)), edge


MARKS: dict[str, dict[str, object]] = {
    "word": {"description": "label", "subfiletype": 1},
    "words": {"description": "Macro image"},
    "aperio": {"description": f"{APERIO}macro 128x128", "subfiletype": 9},
    "flag 9": {"subfiletype": 9},
    "ventana": {"description": "Label_Image"},
    "perkin elmer": {"description": "<Q><ImageType>Label</ImageType></Q>", "subfiletype": 1},
    "page name": {"extratags": [(285, "s", 0, "macro", True)], "subfiletype": 1},
    "json": {"description": '{"name": "label"}', "subfiletype": 1},
}


@pytest.mark.parametrize("layout", ["tiles", "strips", "webp"])
@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("size", [(128, 128), (96, 160), (256, 256), (640, 200)])
@pytest.mark.parametrize("mark", MARKS)
def test_a_marked_picture_is_no_level_wherever_it_stands(tmp_path, mark, size, order, layout):
    """Even where its size would make it one, and where OpenSlide takes it for one."""
    how = {"tiles": TILED, "strips": STRIPS, "webp": TILED | {"compression": "webp"}}[layout]
    slide_how = TILED if layout == "strips" else how
    beside: Page = (striking(*size), how | MARKS[mark])
    pages: list[Page] = [
        (tissue(512), slide_how),
        (tissue(256), slide_how | {"subfiletype": 1}),
    ]
    pages.insert(0 if order == "first" else 2, beside)
    with open_slide(write(tmp_path / "s.tif", *pages)) as slide:
        check(slide)
        assert slide.associated_images


def test_openslide_alone_would_show_it(tmp_path):
    """The proof that the tests above can fail."""
    pages: list[Page] = [(tissue(512), TILED), (striking(128, 128), TILED | MARKS["word"])]
    with OpenSlide(write(tmp_path / "s.tif", *pages)) as seen:
        assert seen.level_count == 2
        assert shows_green(np.asarray(seen.read_region((0, 0), 1, (9, 9)))[..., :3])


@pytest.mark.parametrize("colour", [GREEN, np.array([250, 250, 250], np.uint8)])
def test_an_unmarked_macro_of_another_shape_is_no_level(tmp_path, colour):
    macro = np.broadcast_to(colour, (160, 128, 3)).copy()
    path = write(tmp_path / "s.tif", (tissue(512), TILED), (macro, TILED | {"subfiletype": 1}))
    with open_slide(path) as slide:
        assert slide.reader == "OpenSlide"
        assert slide.level_dimensions == ((512, 512),)
        check(slide)


@pytest.mark.parametrize("how", [TILED, STRIPS])
def test_a_reduced_copy_in_front_of_the_slide_is_its_level_at_most(tmp_path, how):
    path = write(tmp_path / "s.tif", (tissue(128), how | {"subfiletype": 1}), (tissue(512), TILED))
    with open_slide(path) as slide:
        check(slide)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_a_tiled_macro_of_an_aperio_slide_is_no_level(tmp_path, size, position):
    pages: list[Page] = [
        (tissue(512), TILED | {"description": BASE}),
        (tissue(256), TILED | {"description": f"{BASE} -> 256x256"}),
    ]
    how = {"description": f"{APERIO}macro {size[0]}x{size[1]}", "subfiletype": 9}
    pages.insert(position, (striking(*size), TILED | how))
    with open_slide(write(tmp_path / "s.svs", *pages)) as slide:
        check(slide)
        assert slide.mpp is not None
        assert slide.reader == ("OpenSlide" if position == 2 else "tifffile"), (
            "it refuses the order"
        )
        assert slide.associated_images == ("macro",)
        assert (256, 256) in slide.level_dimensions


@pytest.mark.parametrize("how", [TILED, STRIPS, TILED | {"compression": "webp"}])
@pytest.mark.parametrize("mark", MARKS)
def test_a_file_that_holds_only_a_marked_picture_is_refused_by_name(tmp_path, mark, how):
    path = write(tmp_path / "s.tif", (striking(400, 300), how | MARKS[mark]))
    with pytest.raises(
        SlideError, match="it holds no slide, only what its file calls (label|macro)"
    ):
        open_slide(path, mpp_override=0.5)


@pytest.mark.parametrize("how", [TILED, STRIPS])
def test_reduced_copies_of_nothing_are_no_slide(tmp_path, how):
    pages = [(striking(width, 300), how | {"subfiletype": 1}) for width in (400, 200)]
    path = write(tmp_path / "s.tif", *pages)
    with pytest.raises(
        SlideError, match="it holds no slide, only what its file calls reduced copy"
    ):
        open_slide(path, mpp_override=0.5)


@pytest.mark.parametrize("how", [TILED, STRIPS])
def test_label_and_macro_alone_are_refused_by_both_names(tmp_path, how):
    path = write(
        tmp_path / "s.tif",
        (striking(400, 300), how | {"description": "Label"}),
        (striking(500, 200), how | {"description": "Macro"}),
    )
    with pytest.raises(SlideError, match="only what its file calls label, macro; give the file"):
        open_slide(path, mpp_override=0.5)


def ome(*images: str) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f"{''.join(images)}</OME>"
    )


def image(number: int, name: str, edge: int, um: float | None, page: int | None) -> str:
    size = "" if um is None else f'PhysicalSizeX="{um}" PhysicalSizeY="{um}"'
    place = "" if page is None else f'<TiffData IFD="{page}" PlaneCount="1"/>'
    return (
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="P:{number}" DimensionOrder="XYCZT" '
        f'Type="uint8" SizeX="{edge}" SizeY="{edge}" SizeC="3" SizeZ="1" SizeT="1" {size}>'
        f'<Channel ID="C:{number}" SamplesPerPixel="3"/>{place}</Pixels></Image>'
    )


def write_ome(path: Path, description: str, *pages: np.ndarray) -> Path:
    first, *others = [(pixels, dict(TILED)) for pixels in pages]
    return write(path, (first[0], first[1] | {"description": description}), *others)


OME_NAMES: dict[str, Callable[[], tuple[str, list[np.ndarray]]]] = {
    "label last": lambda: (
        ome(image(0, "a.svs", 512, 0.5, 0), image(1, "label image", 128, None, 1)),
        [tissue(512), striking(128, 128)],
    ),
    "label last, place not told": lambda: (
        ome(image(0, "a.svs", 512, 0.5, None), image(1, "label image", 128, None, None)),
        [tissue(512), striking(128, 128)],
    ),
    "macro first": lambda: (
        ome(image(0, "macro", 256, 16, 0), image(1, "a.svs", 512, 0.5, 1)),
        [striking(256, 256), tissue(512)],
    ),
    "macro first, finer by its word": lambda: (
        ome(image(0, "macro", 256, 0.1, 0), image(1, "a.svs", 512, 0.5, 1)),
        [striking(256, 256), tissue(512)],
    ),
    "macro first in the XML, last in the file": lambda: (
        ome(image(0, "macro image", 256, 16, 1), image(1, "a.svs", 512, 0.5, 0)),
        [tissue(512), striking(256, 256)],
    ),
    "slide first in the XML, last in the file": lambda: (
        ome(image(0, "a.svs", 512, 0.5, 1), image(1, "label", 256, None, 0)),
        [striking(256, 256), tissue(512)],
    ),
    "unnamed macro first": lambda: (
        ome(image(0, "", 300, 16, 0), image(1, "", 512, 0.5, 1)),
        [striking(300, 300), tissue(512)],
    ),
}


@pytest.mark.parametrize("names", OME_NAMES)
def test_of_the_images_of_an_ome_tiff_the_slide_is_read(tmp_path, names):
    description, pages = OME_NAMES[names]()
    with open_slide(write_ome(tmp_path / "s.ome.tif", description, *pages)) as slide:
        check(slide)
        assert slide.level_dimensions == ((512, 512),)
        assert slide.mpp is not None
        assert slide.mpp.x == 0.5


def test_an_ome_tiff_whose_finer_image_is_in_another_file_is_the_first_one(tmp_path):
    description = ome(image(0, "a", 512, 0.5, 0), image(1, "b", 900, 0.25, 0))
    with open_slide(write_ome(tmp_path / "s.ome.tif", description, tissue(512))) as slide:
        check(slide)


@pytest.mark.parametrize(
    ("description", "why"),
    [
        (ome(image(0, "label", 512, 0.5, 0)), "only what its OME-XML calls label"),
        (
            ome(image(0, "label", 512, 0.5, 0), image(1, "Macro Image", 512, 0.5, 1)),
            "only what its OME-XML calls label, macro; give the file",
        ),
        (
            ome(image(0, "label", 512, 0.5, 0), image(1, "a", 512, 0.5, None)),
            "does not tell where the slide lies",
        ),
        (ome(image(0, "label", 512, 0.5, 0), image(1, "a", 512, 0.5, 7)), "it holds no image"),
    ],
)
def test_an_ome_tiff_without_a_slide_that_can_be_found_is_refused(tmp_path, description, why):
    path = write_ome(tmp_path / "s.ome.tif", description, striking(512, 512))
    with pytest.raises(SlideError, match=why):
        open_slide(path, mpp_override=0.5)


def test_a_sub_image_that_is_named_a_thumbnail_is_no_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        options = {"photometric": "rgb", "metadata": None, **TILED, "compression": "webp"}
        writer.write(tissue(512), subifds=2, **options)
        writer.write(striking(128, 128), subfiletype=1, description="thumbnail", **options)
        writer.write(tissue(256), subfiletype=1, **options)
    with open_slide(tmp_path / "s.tif") as slide:
        check(slide)
        assert slide.level_dimensions == ((512, 512), (256, 256))


def test_levels_of_a_long_slide_are_kept_whatever_the_rounding(tmp_path):
    """15 of 15.6 px across: by that alone the level seems to be 4 % too long."""
    rows = np.random.default_rng(0).integers(0, 255, (20_000, 1_000, 1), np.uint8)
    long = np.repeat(rows, 3, axis=2)
    small = np.ascontiguousarray(long[::64, ::64][:312, :15])
    path = write(tmp_path / "s.tif", (long, TILED), (small, TILED | {"subfiletype": 1}))
    with open_slide(path) as slide:
        assert slide.reader == "OpenSlide"
        assert slide.level_dimensions == (Size(1000, 20_000), Size(15, 312))
