"""What must be true of a command after any fault, as sentences about what is not.

Every function returns the violations it sees, none where all is well; ``test_oracles.py`` plants
the bug that each is for.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.command_runs import differences, read_rows, tree
from benchmarks.mutation_faults import row_problems
from wsi_hr.store.patch_store import PatchStore

DEADLINE_S = 60.0
"""Beyond it a command counts as hanging; the slowest here takes two seconds."""

STATES = ("done", "no_tissue", "skipped", "failed")


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it printed, how long it took."""

    code: int
    out: str
    err: str
    seconds: float


def fault(row: str, *values: object) -> object:
    """Values of a table of faults that prove a row of docs/faults.md."""
    return pytest.param(*values, marks=pytest.mark.fault(row), id=row)


def timed(cli: Callable[..., object], *args: object) -> Ended:
    """Run a command and see how long it takes."""
    begun = time.monotonic()
    ended = cli(*args)
    return Ended(ended.code, ended.out, ended.err, time.monotonic() - begun)  # pyright: ignore


def wrong_ending(ended: Ended, code: int, deadline_s: float = DEADLINE_S) -> list[str]:
    """Exit code, time, and whether what went wrong is told as a sentence."""
    problems = []
    if ended.code != code:
        problems.append(f"exit code {ended.code} instead of {code}")
    if ended.seconds > deadline_s:
        problems.append(f"hangs: took {ended.seconds:.0f} s of {deadline_s:.0f} s")
    said = ended.out + ended.err
    if "Traceback" in said or re.search(r'^ *File ".*", line \d', said, re.MULTILINE):
        problems.append("prints a traceback")
    if "please report it" in said:
        problems.append("an error that nobody expected")
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) != 1:
        problems.append(f"says {len(errors)} errors instead of one")
    if code not in (0, 2) and not errors and "failed: " not in ended.out:
        problems.append("does not say what failed")
    return problems


def wrong_table(table: Path, slide_ids: Iterable[str]) -> list[str]:
    """Whether each input slide stands in a table once, in one known state, with a reason."""
    rows = read_rows(table)
    problems = []
    for slide_id in sorted({*slide_ids, *(row["slide_id"] for row in rows)}):
        own = [row for row in rows if row["slide_id"] == slide_id]
        if len(own) != 1:
            problems.append(f"{slide_id} has {len(own)} rows in the table, not one")
        if slide_id not in set(slide_ids):
            problems.append(f"{slide_id} is in the table and was not asked for")
        problems += [f"{slide_id}: {what}" for row in own for what in _of_row(row)]
    return problems


def _of_row(row: Mapping[str, str]) -> list[str]:
    if row["status"] == "skipped":
        return [] if row["reason"] else ["has no reason"]
    return row_problems({"seconds": "", **row}, DEADLINE_S)


def wrong_tree(found: Path, wanted: Path, *only: str) -> list[str]:
    """What differs, hash by hash, from the folder of an undisturbed run.

    Args:
        found: a folder after a fault.
        wanted: the same without.
        only: slides to which it is limited; none: everything.
    """
    trees = []
    for folder in (found, wanted):
        names = tree(folder)
        trees.append({name: what for name, what in names.items() if not only or _of(name, only)})
    assert trees[1], "nothing to compare with"
    return differences(*trees)


def _of(name: str, slides: Iterable[str]) -> bool:
    return any(re.search(rf"(^|/){re.escape(slide)}\.\w+($|/)", name) for slide in slides)


def pixels(store: Path) -> dict[tuple[int, int], str]:
    """The digest of every readable patch of a store, by its corner at level 0."""
    opened = PatchStore.open(store)
    readable = np.flatnonzero(opened.valid)
    return {
        (int(x), int(y)): hashlib.sha256(patch.tobytes()).hexdigest()
        for (x, y), patch in zip(opened.grid.coords[readable], opened.read(readable), strict=True)
    }


def wrong_pixels(store: Path, wanted: Mapping[tuple[int, int], str], lost: int = 0) -> list[str]:
    """Whether the patches of a store are those that an undisturbed slide gives.

    Args:
        store: one store.
        wanted: of the undisturbed slide.
        lost: how many of them cannot be read.
    """
    found = pixels(store)
    problems = []
    if len(found) != len(wanted) - lost:
        problems.append(f"{len(found)} patches instead of {len(wanted) - lost}")
    changed = [corner for corner, digest in found.items() if wanted.get(corner) != digest]
    if changed:
        problems.append(f"{len(changed)} patches are changed: a silent change")
    return problems
