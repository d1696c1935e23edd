"""What OME-XML says about an image: pixel size, planes, kind of light."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from wsi_hr.errors import SlideError
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
    """Facts of the first image.

    Attributes:
        mpp: the claim of PhysicalSizeX and Y; None where it is absent.
        num_channels: samples of all channels together; 3 for RGB.
        num_frames: focal planes x time points.
        fluorescent: whether a channel has an emission or excitation wavelength.
        objective_power: nominal magnification, where told.
    """

    mpp: MppClaim | None
    num_channels: int
    num_frames: int
    fluorescent: bool
    objective_power: float | None


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
        SlideError: it declares entities, is not well-formed, or describes no image.
    """
    refuse_declarations(description)
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as cause:
        raise SlideError(f"its OME-XML is not well-formed ({cause})") from cause
    pixels = next(_named(root, "Pixels"), None)
    if pixels is None:
        raise SlideError("its OME-XML describes no image")
    power = next(
        (parse_number(found.get("NominalMagnification")) for found in _named(root, "Objective")),
        0.0,
    )
    return OmeFacts(
        mpp=_physical_size(pixels),
        num_channels=_count(pixels.get("SizeC")),
        num_frames=_count(pixels.get("SizeZ")) * _count(pixels.get("SizeT")),
        fluorescent=any(
            _FLUORESCENT & set(channel.attrib) for channel in _named(pixels, "Channel")
        ),
        objective_power=power if power > 0 else None,
    )


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


def _count(text: str | None) -> int:
    return int(text) if text is not None and _COUNT.fullmatch(text) else 1
