"""How many micrometres a pixel is, and whose word that is.

A slide may say it several times over. The claims are heard in order of authority; the first that
is a number at all decides. If it cannot be true, nothing else is believed in its place: the user
is asked, because every size in every result hangs on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Mpp

WAY_OUT = "give it with --mpp-override or in an mpp column of a manifest"

_STATED_UM = (0.05, 100.0)  # an overview scan may be coarse, and its maker knows
_TAGGED_UM = (0.05, 10.0)  # resolution tags are mostly a printer's or screen's: 300, 96, 72 dpi
_MAX_ANISOTROPY = 1.1  # no scanner's pixels are more oblong than 10 %
_UM_AT_1X = 10.0  # a 40x objective gives 0.25 um/px, a 20x one 0.5
_MAX_OBJECTIVE_FACTOR = 3.0  # cameras and doublers differ from that rule by less
_UM_PER_INCH = 25_400.0
_UM_PER_CM = 10_000.0
_CM_PER_INCH = _UM_PER_INCH / _UM_PER_CM
_UNIT_TOLERANCE = 0.1
_NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class MppClaim:
    """What one place says, as numbers.

    Attributes:
        x: um per level-0 px along x; NaN where it is not a number.
        y: the same along y.
        source: the place, e.g. ``openslide.mpp-x``.
        tagged: whether it is a TIFF resolution, which programs fill in without knowing.
    """

    x: float
    y: float
    source: str
    tagged: bool = False


class MppVerdict(NamedTuple):
    """The mpp, or why there is none (one clause that names the way out)."""

    mpp: Mpp | None
    problem: str | None


def parse_number(text: str | None) -> float:
    """A number with decimal point or comma; NaN for anything else."""
    text = (text or "").strip()
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan


def stated(source: str, x: str | None, y: str | None = None, *, unit_um: float = 1.0) -> MppClaim:
    """A claim in plain words: ``x`` and ``y`` in units of ``unit_um``; y as x where not told."""
    x_um = parse_number(x) * unit_um
    return MppClaim(x_um, x_um if y is None else parse_number(y) * unit_um, source)


def resolution(x: float, y: float, unit: str | None) -> MppClaim | None:
    """A TIFF's resolution as a claim.

    Args:
        x: px per unit along x; NaN where absent.
        y: px per unit along y.
        unit: ``inch``, ``centimeter``, or anything else, which has no length.

    Returns:
        The claim; None where the tags say nothing about length.
    """
    um = {"inch": _UM_PER_INCH, "centimeter": _UM_PER_CM}.get((unit or "").lower())
    if um is None or math.isnan(x):
        return None
    y = x if math.isnan(y) else y
    return MppClaim(
        um / x if x else math.nan, um / y if y else math.nan, "tiff.XResolution", tagged=True
    )


def judge_mpp(claims: Sequence[MppClaim], objective_power: float | None) -> MppVerdict:
    """Believe the first claim that is a number, if it can be true.

    Args:
        claims: in order of authority.
        objective_power: magnification of the objective, if known; a claim is held against it.
    """
    empty = []
    for claim in claims:
        if not all(math.isfinite(value) and value > 0 for value in (claim.x, claim.y)):
            empty.append(f"{claim.source} is not a positive number")
            continue
        reason = _implausible(claim, objective_power)
        if reason is not None:
            return MppVerdict(None, f"{reason}; {WAY_OUT}")
        return MppVerdict(Mpp(claim.x, claim.y, claim.source), None)
    return MppVerdict(None, f"{empty[0] if empty else 'no mpp in its metadata'}; {WAY_OUT}")


def overriding_mpp(value: float, source: str, path: Path) -> Mpp:
    """The user's own word, which stands above the slide's.

    Raises:
        SlideError: it cannot be um/px, for instance because it is in nanometres.
    """
    low, high = _STATED_UM
    if not low <= value <= high:
        raise SlideError(
            f"{path}: {source} gives {value:g} um/px, outside the plausible {low:g} to {high:g}; "
            "give micrometres per level-0 pixel, e.g. 0.25"
        )
    return Mpp(value, value, source)


def _implausible(claim: MppClaim, objective_power: float | None) -> str | None:
    """Why a claim cannot be true, one clause; None where it can."""
    low, high = _TAGGED_UM if claim.tagged else _STATED_UM
    said = f"{claim.source} says {claim.x:.4g} x {claim.y:.4g} um/px"
    if min(claim.x, claim.y) < low or max(claim.x, claim.y) > high:
        dpi = f" ({_UM_PER_INCH / claim.x:.4g} dpi)" if claim.tagged else ""
        return f"{said}{dpi}, outside the plausible {low:g} to {high:g}"
    if max(claim.x, claim.y) > _MAX_ANISOTROPY * min(claim.x, claim.y):
        return f"{said}, more oblong than any scanner's pixels"
    if objective_power is None or not objective_power > 0:
        return None
    expected = _UM_AT_1X / objective_power
    factor = (claim.x + claim.y) / 2 / expected
    against = f"{said}, but an objective of {objective_power:g}x gives about {expected:.3g}"
    if not 1 / _MAX_OBJECTIVE_FACTOR <= factor <= _MAX_OBJECTIVE_FACTOR:
        return against
    for confusion in (_CM_PER_INCH, 1 / _CM_PER_INCH):
        if claim.tagged and abs(factor / confusion - 1) < _UNIT_TOLERANCE:
            return f"{against}: px per inch and px per cm are confused"
    return None
