"""A format that is recognised and refused is told by its name, and no other page is read for it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.slides.dicom_series import beside_series
from wsi_hr.slides.open import open_slide

LABEL = np.full((300, 200, 3), (20, 240, 110), np.uint8)
SLIDE = np.random.default_rng(0).integers(0, 200, (512, 512, 3), np.uint8)
STRIPS = {"rowsperstrip": 32, "compression": "lzw"}
TILES = {"tile": (256, 256), "compression": "zlib"}
SCN = (
    '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
    '<collection sizeX="9" sizeY="9"></collection></scn>'
)
ISCAN = b'<?xml version="1.0"?><Metadata><iScan Magnification="40" ScanRes="0.25"/></Metadata>'
# joined towards the left, which OpenSlide does not take
ENCODE_INFO = (
    b'<?xml version="1.0"?><EncodeInfo Ver="2"><SlideInfo><AoiInfo XIMAGESIZE="256" '
    b'YIMAGESIZE="512" NumRows="1" NumCols="2"/></SlideInfo><SlideStitchInfo><ImageInfo '
    b'AOIScanned="1" AOIIndex="0" NumRows="1" NumCols="2" Width="256" Height="512" Pos-X="0" '
    b'Pos-Y="0"><TileJointInfo FlagJoined="1" Confidence="100" Direction="LEFT" Tile1="1" '
    b'Tile2="2" OverlapX="0" OverlapY="0"/></ImageInfo></SlideStitchInfo><AoiOrigin><AOI0 '
    b'OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
)


def xmp(packet: bytes) -> dict[str, object]:
    return {"extratags": [(700, "B", len(packet), packet, True)]}


PHILIPS = {
    "software": "Philips DP v1.0",
    "description": '<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"></DataObject>',
}
NDPI = {"extratags": [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True)]}

FILES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "bif": ("Ventana BIF", xmp(ISCAN), {"description": "level=0 mag=40"} | xmp(ENCODE_INFO)),
    "bif, no word of iScan": ("Ventana BIF", {}, {"description": "level=0 mag=40 quality=90"}),
    "bif, iScan at the slide": ("Ventana BIF", {}, xmp(ISCAN)),
    "scn": ("Leica SCN", {"description": SCN}, {}),
    "philips": ("Philips TIFF", PHILIPS, {}),
    "ndpi": ("Hamamatsu NDPI", NDPI, {}),
    "ndpi, by a later page": ("Hamamatsu NDPI", {}, NDPI),
    "trestle": ("Trestle TIFF", {"software": "MedScan"}, {}),
}


@pytest.mark.fault("B53")
@pytest.mark.parametrize("how", [STRIPS, TILES], ids=["strips", "tiles"])
@pytest.mark.parametrize("kind", FILES)
def test_a_vendors_file_that_is_refused_is_not_read_as_a_tiff(tmp_path, kind, how):
    name, first, second = FILES[kind]
    path = tmp_path / "s.tif"
    base = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(LABEL, **base | how | first)
        writer.write(SLIDE, **base | TILES | second)
    with pytest.raises(SlideError) as refused:
        open_slide(path, mpp_override=0.25)
    sentence = str(refused.value)
    assert f"it is in the format {name}" in sentence
    assert "OpenSlide cannot open it (" in sentence or "OpenSlide does not know it" in sentence
    assert "mpp" not in sentence.removeprefix(str(path))
    assert "pyramidal TIFF" in sentence


def test_what_is_no_tiff_is_told_by_its_format_too(tmp_path):
    path = tmp_path / "s.vms"
    path.write_text("[Virtual Microscope Specimen]\nNoJpegColumns=1\nNoJpegRows=1\n")
    assert openslide.OpenSlide.detect_format(path) == "hamamatsu"
    with pytest.raises(SlideError, match="it is in the format Hamamatsu NDPI, VMS or VMU"):
        open_slide(path)


@pytest.mark.parametrize("compression", ["webp", "jpeg2000"])
def test_an_aperio_slide_of_another_compression_is_still_read(tmp_path, compression):
    """Its pages mean what those of a plain TIFF do; the label is told by its words."""
    path = tmp_path / "s.svs"
    how = {"photometric": "rgb", "metadata": None, "tile": (256, 256), "compression": compression}
    with tifffile.TiffWriter(path) as writer:
        said = "Aperio Image Library v11\r\n512x512 [0,0 512x512] (256x256) |AppMag = 40|MPP = 0.25"
        writer.write(SLIDE, **how, description=said)
        writer.write(LABEL, **how, description="Aperio Image Library v11\r\nlabel 200x300")
    assert openslide.OpenSlide.detect_format(path) == "aperio"
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(path)
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        assert slide.level_dimensions == ((512, 512),)
        assert slide.associated_images == ("label",)
        assert slide.mpp is not None
        assert slide.mpp.source == "aperio.MPP"


def test_an_olympus_vsi_is_its_label_and_is_refused(tmp_path):
    path = tmp_path / "s.vsi"
    tifffile.imwrite(path, LABEL, photometric="rgb")
    with pytest.raises(SlideError, match="holds only label and overview"):
        open_slide(path, mpp_override=0.5)


def dicom(path: Path, *values: str) -> Path:
    """The beginning of a DICOM file, up to its image type."""

    def element(group: int, number: int, vr: bytes, text: str) -> bytes:
        content = text.encode() + b" " * (len(text) % 2)
        return struct.pack("<HH2sH", group, number, vr, len(content)) + content

    syntax = element(2, 0x10, b"UI", "1.2.840.10008.1.2.1")
    path.write_bytes(bytes(128) + b"DICM" + syntax + element(8, 8, b"CS", "\\".join(values)))
    return path


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("ORIGINAL", "PRIMARY", "LABEL", "NONE"), "label"),
        (("ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"), "overview"),
        (("DERIVED", "PRIMARY", "THUMBNAIL", "RESAMPLED"), "thumbnail"),
        (("ORIGINAL", "PRIMARY", "VOLUME", "NONE"), None),
        (("ORIGINAL", "PRIMARY"), None),
        ((), None),
    ],
)
def test_the_image_type_of_a_dicom_file_tells_what_it_is(tmp_path, values, kind):
    assert beside_series(dicom(tmp_path / "s.dcm", *values)) == kind
    assert beside_series(tmp_path / "gone.dcm") is None


@pytest.mark.data
@pytest.mark.parametrize("kind", ["LABEL", "OVERVIEW", "THUMBNAIL"])
def test_a_dicom_file_that_holds_only_a_picture_beside_the_slide(tmp_path, shared_data, kind):
    content = (shared_data / "slides/dicom/boxes/boxes_0.dcm").read_bytes()
    at = content.index(b"VOLUME")
    start = content.rindex(b"\x08\x00\x08\x00CS", 0, at)
    length = struct.unpack("<H", content[start + 6 : start + 8])[0]
    text = content[start + 8 : start + 8 + length].rstrip().replace(b"VOLUME", kind.encode())
    text += b" " * (len(text) % 2)
    path = tmp_path / "s.dcm"
    head = content[: start + 6] + struct.pack("<H", len(text)) + text
    path.write_bytes(head + content[start + 8 + length :])
    with pytest.raises(
        SlideError, match=f"only what its file calls {kind.lower()}; give the files"
    ):
        open_slide(path, mpp_override=0.5)
