"""What OME-XML says about an image: pixel size, planes, kind of light."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from wsi_hr.errors import SlideError
from wsi_hr.slides.beside import named_beside
from wsi_hr.slides.mpp import MppClaim, parse_number, stated

_UNIT_UM = {
    "pm": 1e-6,
    "\u00c5": 1e-4,  # angstrom
    "nm": 1e-3,
    "\u00b5m": 1.0,  # micro sign
    "\u03bcm": 1.0,  # Greek mu
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25_400.0,
}
_FLUORESCENT = frozenset({"EmissionWavelength", "ExcitationWavelength", "Fluor"})
_DECLARATION = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,9}")
_OME_ROOT = re.compile(r"<(\w+:)?OME[\s>]")


@dataclass(frozen=True)
class OmeFacts:
    """Facts of the image that is the slide.

    Attributes:
        page: page of the TIFF at which it begins.
        beside: pages of pictures beside the slide, and which they are.
        mpp: the claim of PhysicalSizeX and Y; None where it is absent.
        num_channels: samples of all channels together; 3 for RGB.
        num_frames: focal planes x time points.
        fluorescent: whether a channel has an emission or excitation wavelength.
        objective_power: nominal magnification, where told.
    """

    page: int
    beside: dict[int, str]
    mpp: MppClaim | None
    num_channels: int
    num_frames: int
    fluorescent: bool
    objective_power: float | None


@dataclass(frozen=True)
class _Image:
    """One of the images that OME-XML describes.

    Attributes:
        pixels: its element Pixels.
        beside: which picture beside the slide it is by its name; None: none of them.
        page: page of the TIFF at which it begins; None: in another file, or that is not told.
    """

    pixels: ElementTree.Element
    beside: str | None
    page: int | None

    @property
    def um(self) -> float:
        """Pixel size along x, um; infinite where it is not told."""
        claim = _physical_size(self.pixels)
        return claim.x if claim is not None and claim.x > 0 else math.inf


def refuse_declarations(description: str) -> None:
    """Make sure that no entity can be declared, hence none expanded and none fetched.

    Raises:
        SlideError: the text has a DOCTYPE or an ENTITY; no writer of slides puts one there.
    """
    if _DECLARATION.search(description):
        raise SlideError(
            "its description declares XML entities, which slides do not do and attacks do; get "
            "the file again from a source you trust"
        )


def is_ome(description: str) -> bool:
    """Whether a TIFF's description is OME-XML."""
    return _OME_ROOT.search(description[:4096]) is not None


def read_ome(description: str) -> OmeFacts:
    """Read OME-XML.

    Raises:
        SlideError: it declares entities, is not well-formed, or describes no image, or none that is
            no picture beside the slide.
    """
    refuse_declarations(description)
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as cause:
        raise SlideError(f"its OME-XML is not well-formed ({cause})") from cause
    images = _images(root)
    if not images:
        raise SlideError("its OME-XML describes no image")
    page, pixels = _slide_among(images)
    power = next(
        (parse_number(found.get("NominalMagnification")) for found in _named(root, "Objective")),
        0.0,
    )
    return OmeFacts(
        page=page,
        beside={
            number if image.page is None else image.page: image.beside
            for number, image in enumerate(images)
            if image.beside is not None
        },
        mpp=_physical_size(pixels),
        num_channels=_count(pixels.get("SizeC")),
        num_frames=_count(pixels.get("SizeZ")) * _count(pixels.get("SizeT")),
        fluorescent=any(
            _FLUORESCENT & set(channel.attrib) for channel in _named(pixels, "Channel")
        ),
        objective_power=power if power > 0 else None,
    )


def _images(root: ElementTree.Element) -> list[_Image]:
    """The images in their order. No two begin at one page: the second is in another file."""
    images: list[_Image] = []
    for image in _named(root, "Image"):
        pixels = next(_named(image, "Pixels"), None)
        if pixels is None:
            continue
        told = [
            _count(data.get("IFD"), 0) for data in _named(pixels, "TiffData") if data.get("IFD")
        ]
        page = min(told, default=None if images else 0)
        if page in [other.page for other in images]:
            page = None
        images.append(_Image(pixels, named_beside(image.get("Name", "")), page))
    return images


def _slide_among(images: list[_Image]) -> tuple[int, ElementTree.Element]:
    """Page and Pixels of the first image that is no picture beside the slide, or of a finer one.

    For a macro without a name is coarser than the slide.
    """
    slides = [image for image in images if image.beside is None]
    if not slides:
        kinds = ", ".join(dict.fromkeys(str(image.beside) for image in images))
        raise SlideError(
            f"it holds no slide, only what its OME-XML calls {kinds}; give the file that has the "
            "scan"
        )
    here = [(image.page, image) for image in slides if image.page is not None]
    if not here:
        raise SlideError(
            "its first image is not the slide, and its OME-XML does not tell where the slide lies; "
            "save the slide as a file of its own"
        )
    page, image = here[0]
    if image.um < math.inf:
        page, image = min(here, key=lambda found: found[1].um)
    return page, image.pixels


def _physical_size(pixels: ElementTree.Element) -> MppClaim | None:
    x, y = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")
    if x is None:
        return None
    unit_x = pixels.get("PhysicalSizeXUnit", "um")
    unit_y = pixels.get("PhysicalSizeYUnit", unit_x)
    along_x = stated("ome.PhysicalSizeX", x, unit_um=_UNIT_UM.get(unit_x, float("nan")))
    if y is None:
        return along_x
    along_y = stated("ome.PhysicalSizeX", y, unit_um=_UNIT_UM.get(unit_y, float("nan")))
    return MppClaim(along_x.x, along_y.x, along_x.source)


def _named(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Elements of a local name, whatever the schema's year makes their namespace."""
    return (found for found in root.iter() if found.tag.rpartition("}")[2] == name)


def _count(text: str | None, default: int = 1) -> int:
    return int(text) if text is not None and _COUNT.fullmatch(text) else default
