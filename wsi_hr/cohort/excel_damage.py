"""What Excel does to identifiers when a CSV is opened and saved again: recognised, never undone."""

from __future__ import annotations

import re

_MONTHS = (
    "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
    "|mrz|mär|mai|okt|dez"  # German
    "|janv|févr|mars|avr|juin|juil|août|sept|déc"  # French
    "|ene|abr|ago|dic"  # Spanish
)
_DATE = re.compile(
    rf"\d{{1,2}}[-. ]+({_MONTHS})\.?([-. ]+\d{{2,4}})?|({_MONTHS})\.?[-. ]+\d{{2,4}}",
    re.IGNORECASE,
)
_SCIENTIFIC = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"\d+([.,]0+)?", re.ASCII)


def damage_of(cell: str) -> str | None:
    """What Excel seems to have made of an identifier, as a clause; None: nothing that shows.

    A lost leading zero does not show in the cell itself: see :func:`bare_number`.
    """
    if _SCIENTIFIC.fullmatch(cell):
        return "Excel shortens long numbers like this and their last digits are lost"
    if _DATE.fullmatch(cell):
        return "Excel makes dates like this of texts such as 2-1"
    return None


def bare_number(text: str) -> str | None:
    """What is left of a whole number without leading zeros: ``007``, ``7`` and ``7.0`` are ``7``.

    Returns:
        None: ``text`` is no whole number, so it has no zeros to lose.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        return None
    return re.split("[.,]", text)[0].lstrip("0") or "0"
