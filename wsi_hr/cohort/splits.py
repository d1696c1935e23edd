"""Who trains, who validates, who is held out: whole patients, every class on every side."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from wsi_hr.cohort.label_entries import split_name
from wsi_hr.cohort.label_report import listed
from wsi_hr.cohort.labels import LabelRow
from wsi_hr.errors import LabelError
from wsi_hr.runtime import rng_for

TRAIN, VAL, TEST = "train", "val", "test"

_ATTEMPTS = 50  # only patients with slides of several classes can need more than one
_TOLERANCE = 1e-9  # of counts that are products of floats


def make_splits(rows: Sequence[LabelRow], *, val: float, test: float, seed: int) -> dict[str, str]:
    """Divide slides by patient, every class in proportion.

    The result depends on the set of rows and on ``seed``, not on their order. Where the rows say
    themselves, they are followed; if they then name no validation slides, these are drawn from
    the training patients, never from the others.

    Args:
        rows: labelled slides, each once.
        val: fraction of the patients that are divided, for validation.
        test: fraction of the patients that are divided, to hold out; not used where the rows say.
        seed: of the draw.

    Returns:
        slide_id -> ``train``, ``val`` or ``test``.

    Raises:
        LabelError: a patient is on two sides, some rows say and others do not, nothing is left to
            train on, or a class has too few patients to be on every side.
        ValueError: the fractions leave nothing to train on.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(f"val {val} and test {test} must be fractions with a sum below 1")
    classes_of: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        classes_of[row.patient_id].add(row.label)
    side_of = _given_sides(rows)
    if not side_of:
        side_of = _divide(classes_of, {VAL: val, TEST: test}, seed)
    else:
        _check_given(rows, side_of)
        if val > 0 and VAL not in side_of.values():
            training = {p: classes_of[p] for p, side in side_of.items() if side == TRAIN}
            side_of |= _divide(training, {VAL: val}, seed)
    return {row.slide_id: side_of[row.patient_id] for row in rows}


def _given_sides(rows: Sequence[LabelRow]) -> dict[str, str]:
    """Patient -> side as the rows say it; empty if none says anything.

    Raises:
        LabelError: a patient is on two sides, or only some rows say.
    """
    silent = sorted(row.slide_id for row in rows if not row.split)
    if len(silent) == len(rows):
        return {}
    if silent:
        raise LabelError(
            f"{len(silent)} labelled slide(s) have no split, the others have one: "
            f"{listed(map(repr, silent))}; fill in the split column everywhere, or remove it"
        )
    slides: dict[str, dict[str, str]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row.slide_id):
        side = split_name(row.split or "")
        if side is None:
            raise LabelError(
                f"slide {row.slide_id!r}: split {row.split!r} is not train, val or test"
            )
        slides[row.patient_id].setdefault(side, row.slide_id)
    for patient, slide_of in sorted(slides.items()):
        if len(slide_of) > 1:
            where = " and ".join(f"{side} (slide {slide!r})" for side, slide in slide_of.items())
            raise LabelError(
                f"patient {patient!r} is in {where}; give all slides of a patient one split"
            )
    return {patient: next(iter(slide_of)) for patient, slide_of in slides.items()}


def _check_given(rows: Sequence[LabelRow], side_of: Mapping[str, str]) -> None:
    """Refuse given splits from which not every class can be learned."""
    learned = {row.label for row in rows if side_of[row.patient_id] == TRAIN}
    unseen = sorted({row.label for row in rows} - learned)
    if unseen:
        raise LabelError(
            f"the split column has no slide in train of {listed(map(repr, unseen))}; every class "
            "must be in train: move some there, or remove the split column to have one drawn"
        )


def _divide(
    classes_of: Mapping[str, set[str]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Patient -> side: the fractions given, the rest to train.

    First every side gets a patient of every class, rare classes first; then each group of patients
    with equal classes is divided in proportion, and what does not divide goes where the total is
    still short. So totals are exact to the patient unless rare classes ask for more.
    """
    shares = {side: fraction for side, fraction in fractions.items() if fraction > 0}
    shares[TRAIN] = 1 - sum(shares.values())
    _check_sizes(classes_of, shares)
    patients = sorted(classes_of)
    for attempt in range(_ATTEMPTS):
        rng = rng_for(seed, "split", attempt)
        order = [patients[index] for index in rng.permutation(len(patients))]
        side_of = _cover(order, classes_of, shares)
        if side_of is not None:
            _fill(order, classes_of, shares, side_of)
            return side_of
    raise LabelError(
        f"no division into {', '.join(sorted(shares))} was found with every class on every side, "
        "because patients have slides of several classes; add a split column to the labels, or "
        "leave out a side, for instance with --set split.test=0"
    )


def _check_sizes(classes_of: Mapping[str, set[str]], shares: Mapping[str, float]) -> None:
    """Refuse classes with fewer patients than there are sides."""
    counts = Counter(label for labels in classes_of.values() for label in labels)
    small = sorted((count, label) for label, count in counts.items() if count < len(shares))
    if not small:
        return
    # sides that can go so that the smallest class suffices, held-out patients first
    drop = [side for side in (TEST, VAL) if side in shares][: len(shares) - small[0][0]]
    raise LabelError(
        f"too few patients to divide among {', '.join(sorted(shares))}: "
        + listed(f"class {label!r} has {count}" for count, label in small)
        + f", at least {len(shares)} are needed; add patients, leave the class out, or use "
        + " ".join(f"--set split.{side}=0" for side in drop)
    )


def _cover(
    order: Sequence[str], classes_of: Mapping[str, set[str]], shares: Mapping[str, float]
) -> dict[str, str] | None:
    """Patient -> side for so few patients that every class is on every side; None: none left."""
    counts = Counter(label for labels in classes_of.values() for label in labels)
    side_of: dict[str, str] = {}
    present: dict[str, set[str]] = {side: set() for side in shares}
    for label in sorted(counts, key=lambda label: (counts[label], label)):
        for side, there in present.items():
            if label in there:
                continue
            free = [p for p in order if label in classes_of[p] and p not in side_of]
            if not free:
                return None
            # a patient whose other classes are there already may be the last another side can get
            patient = min(free, key=lambda p: len(classes_of[p] & there))
            side_of[patient] = side
            there |= classes_of[patient]
    return side_of


def _fill(
    order: Sequence[str],
    classes_of: Mapping[str, set[str]],
    shares: Mapping[str, float],
    side_of: dict[str, str],
) -> None:
    """Give the remaining patients of ``order`` their side; ``side_of`` is completed."""
    num = len(order)
    missing = {side: _nearest(num * share) for side, share in shares.items() if side != TRAIN}
    missing[TRAIN] = num - sum(missing.values())
    for side in side_of.values():
        missing[side] -= 1
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient in order:
        groups[tuple(sorted(classes_of[patient]))].append(patient)
    undivided: list[tuple[str, dict[str, float]]] = []
    for _, members in sorted(groups.items()):
        short = {side: len(members) * share for side, share in shares.items()}
        for patient in members:
            if patient in side_of:
                short[side_of[patient]] -= 1
        free = [patient for patient in members if patient not in side_of]
        for side in shares:
            while short[side] > 1 - _TOLERANCE and free:
                side_of[free.pop()] = side
                short[side] -= 1
                missing[side] -= 1
        undivided += [(patient, short) for patient in free]
    for patient, short in undivided:  # ``short`` is shared by the patients of a group
        open_sides = [side for side in shares if missing[side] > 0]
        side = max(open_sides, key=lambda side: (short[side], missing[side]))
        side_of[patient] = side
        short[side] -= 1
        missing[side] -= 1


def _nearest(number: float) -> int:
    return math.floor(number + 0.5 + _TOLERANCE)
