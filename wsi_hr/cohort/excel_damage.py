"""What spreadsheets make of identifiers, or put in their place: recognised, never undone."""

from __future__ import annotations

import re
from datetime import date, timedelta

_MONTHS = (
    "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
    "|january|february|march|april|june|july|august|september|october|november|december"
    "|mrz|mär|mai|okt|dez|januar|februar|märz|juni|juli|oktober|dezember"  # German
    "|janv|févr|mars|avr|juin|juil|août|sept|déc"  # French
    "|ene|abr|ago|dic"  # Spanish
)
_TIME = r"([ T]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AP]M)?Z?)?"
_DATES = [
    re.compile(pattern + _TIME, re.IGNORECASE)
    for pattern in (
        rf"\d{{1,2}}[-. /]+({_MONTHS})\.?([-. /]+\d{{2,4}})?",
        rf"({_MONTHS})\.?[-. /]+(\d{{1,2}},? +)?\d{{2,4}}",
        r"(19|20)\d\d([-./])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])",
        r"(0?[1-9]|[12]\d|3[01])([-./])(0?[1-9]|1[0-2])\2((19|20)?\d\d)",
        r"(0?[1-9]|1[0-2])([-./])(0?[1-9]|[12]\d|3[01])\2((19|20)?\d\d)",
    )
]
_SCIENTIFIC = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"\d+([.,]0+)?", re.ASCII)
_SERIAL = re.compile(r"(\d{5})([.,]\d+)?", re.ASCII)
_SERIALS = range(18264, 54789)  # 1950 to 2049
_DAY_0 = date(1899, 12, 30)
_ERROR = re.compile(r"#[^\W\d_].*[!?]|#[¡¿].*|#N/?A.*|#NV|#N/[DV]", re.IGNORECASE)
_NOTHING = frozenset(
    {
        "nan", "-nan", "na", "n/a", "n.a.", "n.a", "<na>", "nat", "none", "null", "nil", "missing",
        "unknown", "unk", "undefined", "not available", "not applicable", "not known", "no data",
        "1.#ind", "-1.#ind", "1.#qnan", "?", "-", "--", ".", "..",
    }
)  # fmt: skip


def damage_of(cell: str) -> str | None:
    """What Excel seems to have made of an identifier, as a clause; None: nothing that shows.

    A lost leading zero does not show in the cell itself: see :func:`bare_number`.
    """
    if _SCIENTIFIC.fullmatch(cell):
        return "Excel shortens long numbers like this and their last digits are lost"
    if is_date(cell):
        return "Excel makes dates like this of texts such as 2-1"
    serial = _SERIAL.fullmatch(cell)
    if serial and int(serial[1]) in _SERIALS:
        day = _DAY_0 + timedelta(days=int(serial[1]))
        return f"Excel keeps the date {day.isoformat()} as this number"
    return None


def is_date(cell: str) -> bool:
    """Whether a text is a date in a form that spreadsheets write."""
    return any(pattern.fullmatch(cell) for pattern in _DATES)


def says_nothing(cell: str) -> bool:
    """Whether programs and people write this where they have no value: ``nan``, ``#N/A``, ``-``."""
    return cell.casefold() in _NOTHING or _ERROR.fullmatch(cell) is not None


def bare_number(text: str) -> str | None:
    """What is left of a whole number without leading zeros: ``007``, ``7`` and ``7.0`` are ``7``.

    Returns:
        None: ``text`` is no whole number, so it has no zeros to lose.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        return None
    return re.split("[.,]", text)[0].lstrip("0") or "0"
