"""Whether a column of labels holds measurements, such as ages, of which nobody means classes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from wsi_hr.cohort.excel_damage import is_date, says_nothing

_FEWEST = 3  # different numbers; two are two classes
_HIGHEST_GRADE = 10
_MOST_CODES = 15
_LEAST_SLIDES = ((5, 2), (10, 5), (_MOST_CODES, 10))
"""Up to so many different numbers are classes if so many slides share one on average."""
_LEAST_SLIDES_OF_A_CLASS = 10  # where classes are numbered 0 or 1 to n
_MEASURED = re.compile(
    r"[<>≤≥~±]?=? ?([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?)\+?[ _]?([^\d\s,.]*)",
    re.IGNORECASE | re.ASCII,
)


def are_measured(labels: Sequence[str]) -> bool:
    """Whether labels are measurements rather than classes.

    They are, where all but those that say nothing (``NA``) are numbers of one unit or dates, and

    - more than 2 of them differ, and not all are whole numbers from 0 to 10, as grades are; and
    - few slides share a number, on average fewer than 2 where up to 5 numbers differ, than 5 where
      up to 10 do, than 10 where up to 15 do; where more differ, however many share one, unless they
      are the numbers of classes: 0 or 1 to n without a gap, 10 slides for each.

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
    if num < _FEWEST:
        return False
    if len(numbers) == num:
        lowest, highest = min(numbers), max(numbers)
        if lowest >= 0 and highest <= _HIGHEST_GRADE:
            return False
        if lowest in (0, 1) and highest - lowest == num - 1:
            return slides_each < _LEAST_SLIDES_OF_A_CLASS
    least = next((slides for most, slides in _LEAST_SLIDES if num <= most), math.inf)
    return slides_each < least


def _value_of(label: str) -> tuple[float | str, str] | None:
    """A label as a number, or as the date it is, and its unit; None: it is neither."""
    if is_date(label):
        return label, "date"
    found = _MEASURED.fullmatch(label)
    if not found:
        return None
    number = float(found[1].replace(",", "."))
    return (number, found[2].casefold()) if math.isfinite(number) else None
