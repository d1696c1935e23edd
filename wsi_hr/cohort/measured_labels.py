"""Whether a column of labels holds measurements, such as ages, of which nobody means classes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from wsi_hr.cohort.excel_damage import is_date, says_nothing

_MOST_GRADES = 5  # different numbers that are classes whatever they are
_HIGHEST_GRADE = 10
_MANY = 10
_MOST_CODES = 15
_LEAST_SLIDES_OF_FEW = 5  # for each number, on average
_LEAST_SLIDES_OF_MANY = 10
_MEASURED = re.compile(
    r"[<>≤≥~±]?=? ?([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?)\+?[ _]?([^\d\s,.]*)",
    re.IGNORECASE | re.ASCII,
)


def are_measured(labels: Sequence[str]) -> bool:
    """Whether labels are measurements rather than classes.

    They are, where all but those that say nothing (``NA``) are numbers of one unit or dates, and

    - more than 5 of them differ, and not all are whole numbers from 0 to 10, as grades are; and
    - fewer than 5 slides share a number on average; where more than 10 numbers differ, fewer than
      10 slides; where more than 15 differ, in any case, unless they are the numbers of classes: 0
      or 1 to n without a gap, 10 slides for each.

    Args:
        labels: one per slide.
    """
    values = [_value_of(label) for label in labels if not says_nothing(label)]
    measured = [value for value in values if value is not None]
    if len(measured) < len(values) or len({unit for _, unit in measured}) > 1:
        return False
    values_seen = {value for value, _ in measured}
    numbers = {value for value in values_seen if isinstance(value, float) and value.is_integer()}
    num, slides_each = len(values_seen), len(measured) / max(1, len(values_seen))
    if num <= _MOST_GRADES:
        return False
    if len(numbers) == num:
        lowest, highest = min(numbers), max(numbers)
        if lowest >= 0 and highest <= _HIGHEST_GRADE:
            return False
        if lowest in (0, 1) and highest - lowest == num - 1:
            return slides_each < _LEAST_SLIDES_OF_MANY
    if num > _MOST_CODES:
        return True
    return slides_each < (_LEAST_SLIDES_OF_MANY if num > _MANY else _LEAST_SLIDES_OF_FEW)


def _value_of(label: str) -> tuple[float | str, str] | None:
    """A label as a number, or as the date it is, and its unit; None: it is neither."""
    if is_date(label):
        return label, "date"
    found = _MEASURED.fullmatch(label)
    if not found:
        return None
    number = float(found[1].replace(",", "."))
    return (number, found[2].casefold()) if math.isfinite(number) else None
