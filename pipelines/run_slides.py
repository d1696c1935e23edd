"""Which of the given slides are a run's: by what they hold, not by what they are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from pipelines.predict_inputs import PatchesFrom
from pipelines.run_folder import (
    DIGEST_COLUMNS,
    SPLITS,
    STORES,
    read_splits,
    read_stores,
)
from pipelines.sentences import say
from wsi_hr.cohort.label_report import listed
from wsi_hr.errors import ConfigError, FileNameError, StoreError, StoreReadError
from wsi_hr.prediction.exports.tables import PredictionRow
from wsi_hr.store.digests import read_digests

CLOSED = "of the run's test side, which stays closed until training has ended"


@dataclass(frozen=True)
class RunSlides:
    """The given slides that are a run's.

    Attributes:
        run_dir: of the run.
        rows: given slide -> its row of ``splits.csv``.
        copies: given slide -> the one of ``rows`` that holds the same, and counts for both.
        num_in: side -> how many slides the run has there.
    """

    run_dir: Path
    rows: Mapping[str, Mapping[str, str]]
    copies: Mapping[str, str]
    num_in: Mapping[str, int]

    def part_of(self, source: PatchesFrom, side: str, console: Console | None) -> PatchesFrom:
        """The slides of one side of the run.

        Raises:
            ConfigError: none of them is given.
        """
        chosen = {slide_id for slide_id, row in self.rows.items() if row["split"] == side}
        ids = tuple(slide_id for slide_id in source.slide_ids if slide_id in chosen)
        others = tuple(row for row in source.others if row.slide_id in chosen)
        num_absent = self.num_in.get(side, 0) - len(ids) - len(others)
        if not ids and not others:
            raise ConfigError(
                f"--split {side}: none of the given slides is in that part of "
                f"{self.run_dir / SPLITS}"
            )
        if num_absent > 0:
            say(
                console,
                f"warning: {num_absent} of the {self.num_in[side]} {side} slides of the run are "
                "not given",
            )
        return replace(source, slide_ids=ids, others=others)

    def without_test_side(self, source: PatchesFrom) -> PatchesFrom:
        """All but the slides of the test side, which get a row that says so."""
        rows = {**self.rows, **{copy: self.rows[first] for copy, first in self.copies.items()}}
        closed = {slide_id for slide_id, row in rows.items() if row["split"] == "test"}
        return replace(
            source,
            slide_ids=tuple(slide_id for slide_id in source.slide_ids if slide_id not in closed),
            others=(
                *source.others,
                *(PredictionRow(s, "skipped", CLOSED) for s in source.slide_ids if s in closed),
            ),
        )


def find_run_slides(run_dir: Path, source: PatchesFrom, console: Console | None) -> RunSlides:
    """Find the run's slides among those that are given, and say what their names hide.

    A slide is the run's if its file, or the pixels of its patches, are those of a slide that the
    run was made from. Slides that cannot be opened, and those of runs that kept no digests, go by
    name.

    Raises:
        LabelError: a table of the run is damaged.
    """
    splits = {row["slide_id"]: row for row in read_splits(run_dir)}
    stores = read_stores(run_dir)
    names_of: dict[str, list[str]] = defaultdict(list)
    for row in stores:
        for column in ("sha256", *DIGEST_COLUMNS):
            if row["slide_id"] in splits and row.get(column):
                names_of[row[column]].append(row["slide_id"])
    could_be = {
        slide_id: _names_in_run(source, slide_id, names_of) for slide_id in source.slide_ids
    }
    strangers = [
        slide_id for slide_id, names in could_be.items() if not names and slide_id in splits
    ]
    rows: dict[str, Mapping[str, str]] = {}
    copies: dict[str, str] = {}
    found: dict[str, str] = {}
    for slide_id in sorted(could_be, key=lambda slide_id: slide_id not in could_be[slide_id]):
        names = [name for name in could_be[slide_id] if name in splits]
        free = [name for name in names if name not in found]
        if free:
            name = slide_id if slide_id in free else free[0]
            found[name] = slide_id
            rows[slide_id] = splits[name]
        elif names:
            copies[slide_id] = found[names[0]]
    for row in source.others:
        if row.slide_id in splits and row.slide_id not in found:
            rows[row.slide_id] = splits[row.slide_id]
    _say_of(run_dir, console, stores, rows, copies, strangers)
    sides = [row["split"] for row in splits.values()]
    return RunSlides(run_dir, rows, copies, {side: sides.count(side) for side in sides})


def _names_in_run(
    source: PatchesFrom, slide_id: str, names_of: Mapping[str, list[str]]
) -> list[str]:
    """What the run calls a given slide; several names where it has the slide several times."""
    if not names_of:
        return [slide_id]
    try:
        digests = read_digests(source.bags.path(slide_id))
    except StoreReadError:
        raise  # it may be a slide of the test side, under another name
    except (StoreError, FileNameError):
        return [slide_id]  # its row will say what is wrong with it
    return next((names_of[digest] for digest in digests if digest in names_of), [])


def _say_of(
    run_dir: Path,
    console: Console | None,
    stores: list[dict[str, str]],
    rows: Mapping[str, Mapping[str, str]],
    copies: Mapping[str, str],
    strangers: list[str],
) -> None:
    """Say what the names of the given slides hide."""
    if not stores and rows:
        say(
            console,
            f"warning: {run_dir}: has no {STORES}, as an earlier wsi-hr left it, so its slides are "
            "known by their names only; another slide of such a name is taken for the run's",
        )
    elif stores and DIGEST_COLUMNS[0] not in stores[0]:
        say(
            console,
            f"warning: {run_dir / STORES}: of an earlier wsi-hr, without the SHA-256 of slides; "
            "the run's slides are known by their patches, cut as for the run",
        )
    renamed = [
        f"{slide_id!r} is {row['slide_id']!r}"
        for slide_id, row in rows.items()
        if row["slide_id"] != slide_id
    ]
    if renamed:
        say(console, f"slides of the run under another name: {len(renamed)}: {listed(renamed)}")
    if copies:
        both = (f"{copy!r} is {first!r}" for copy, first in copies.items())
        say(
            console,
            f"warning: slides that are given twice, and count once: {len(copies)}: {listed(both)}",
        )
    if strangers:
        say(
            console,
            "warning: slides that are called like one of the run and are another, so what the run "
            f"knows of that one is not held against them: {len(strangers)}: "
            + listed(map(repr, strangers)),
        )
