"""Slides that are there twice under different names."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

from wsi_hr.cohort.label_report import listed
from wsi_hr.cohort.labels import LabelRow
from wsi_hr.errors import LabelError

Named = TypeVar("Named", bound=Hashable)


def same_content(digests_of: Mapping[Named, Iterable[str]]) -> list[tuple[Named, ...]]:
    """Groups of slides that share a digest, in the order of ``digests_of``.

    Args:
        digests_of: slide -> its digests; an empty one says nothing.
    """
    group_of: dict[str, dict[Named, None]] = {}
    for slide, digests in digests_of.items():
        known = [digest for digest in digests if digest]
        group = {slide: None}
        for digest in known:
            group |= group_of.get(digest, {})
        for digest in {*known, *(d for other in group for d in digests_of[other] if d)}:
            group_of[digest] = group
    groups = {id(group): group for group in group_of.values() if len(group) > 1}
    order = {slide: number for number, slide in enumerate(digests_of)}
    return sorted(
        (tuple(sorted(group, key=order.__getitem__)) for group in groups.values()),
        key=lambda group: order[group[0]],
    )


def check_same_content(
    rows: Sequence[LabelRow],
    split_of: Mapping[str, str],
    digests_of: Mapping[str, Iterable[str]],
) -> list[str]:
    """A warning for every slide that is there under several names and counts several times.

    Args:
        rows: the labelled slides.
        split_of: slide_id -> side.
        digests_of: slide_id -> its digests.

    Raises:
        LabelError: the same slide has two labels, is of two patients or on two sides.
    """
    row_of = {row.slide_id: row for row in rows}
    contradictions, warnings = [], []
    for group in same_content(digests_of):
        names = " and ".join(map(repr, group))
        for first, second in combinations((row_of[slide_id] for slide_id in group), 2):
            both = [
                f"{what} {one!r} and {other!r}"
                for what, one, other in (
                    ("label", first.label, second.label),
                    ("patient", first.patient_id, second.patient_id),
                    ("split", split_of[first.slide_id], split_of[second.slide_id]),
                )
                if one != other and not (what == "patient" and _both_unnamed(first, second))
            ]
            if both:
                contradictions.append(
                    f"{first.slide_id!r} and {second.slide_id!r} ({', '.join(both)})"
                )
        warnings.append(f"{names} have the same content, so this slide counts more than once")
    if contradictions:
        raise LabelError(
            f"slides with the same content are labelled or divided as if they were different ones: "
            f"{listed(contradictions)}; keep one of them in the labels, the right one"
        )
    return warnings


def _both_unnamed(first: LabelRow, second: LabelRow) -> bool:
    """Whether the labels say of neither slide whose it is."""
    return first.patient_id == first.slide_id and second.patient_id == second.slide_id
