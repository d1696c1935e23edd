"""Thousands of damaged slides through one parent; each must end as what it is.

Slides go through the tile stage in batches: the next batch is damaged while one is tiled.
"""

from __future__ import annotations

import json
import selectors
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.anatomy import Anatomy, dissect
from benchmarks.command_runs import OF_ALL_SLIDES, Bench, Report, read_rows
from benchmarks.mutations import mutate
from benchmarks.victims import VICTIMS
from wsi_hr.config import TileConfig
from wsi_hr.errors import WsiHrError
from wsi_hr.runtime import rng_for, sha256_file
from wsi_hr.store.patch_store import PatchStore, verify_store
from wsi_hr.tiling.review import OUTLINES, PICTURES
from wsi_hr.tiling.tile import tile_slide

BATCH = 200
_STALL_S = 60.0  # beyond the deadline of a slide: the parent hangs
_GRACE_S = 10.0  # a row may say so much more than the deadline
_LONGEST_REASON = 1000
_END_S = 5.0
_DEADLINE_S = 10.0

# As aligned with the slides' tiles as can be, and as little; damage shall come through.
_LIMITS = {"max_unreadable": 0.6, "deadline_s": _DEADLINE_S, "memory_gib": 1.0}
CONFIGS: tuple[dict[str, object], ...] = (
    {"mpp": 0.5, "patch_size": 256, **_LIMITS},
    {"mpp": 0.7, "patch_size": 56, **_LIMITS},
)


@dataclass(frozen=True)
class Victim:
    """A sound slide and what the stage makes of it.

    Attributes:
        name: file name.
        data: its bytes.
        anatomy: where its parts are.
        sha256: of the bytes.
        stores: one per entry of :data:`CONFIGS`.
    """

    name: str
    data: bytes
    anatomy: Anatomy
    sha256: str
    stores: tuple[PatchStore, ...]


@dataclass(frozen=True)
class Mutant:
    """A damaged slide.

    Attributes:
        victim: what it was.
        kind: how it was damaged.
        path: the file.
        sha256: of its bytes.
    """

    victim: Victim
    kind: str
    path: Path
    sha256: str

    @property
    def slide_id(self) -> str:
        """As the stage names it."""
        return self.path.name.split(".")[0]

    @property
    def what(self) -> str:
        """What it is, in a clause."""
        return f"{self.path.name} ({self.kind} of {self.victim.name})"


def mutations(
    folder: Path,
    *,
    count: int,
    seed: int,
    first: int = 0,
    planted: str = "",
    batch: int = BATCH,
    deadline_s: float = _DEADLINE_S,
    stall_s: float = _STALL_S,
    say: Callable[[str], object] = lambda text: None,
) -> Report:
    """Tile ``count`` damaged slides; mutant k depends on the seed and on k alone.

    Mutants that end as they must not are kept in ``folder/offenders``.
    """
    victims = make_victims(folder / "victims", seed)
    bench, report = Bench(folder / "bench", planted), Report()
    for victim in victims:  # for the planted bug that lies about hashes
        bench.environment[f"WSI_HR_KNOWN_{victim.name[0]}"] = victim.sha256
    states: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {}
    late: list[str] = []
    slowest, begun, num_done = 0.0, time.monotonic(), 0
    parent: _Parent | None = None
    batches = [range(k, min(k + batch, first + count)) for k in range(first, first + count, batch)]
    try:
        prepared = make_mutants(folder / "batch0", victims, batches[0], seed)
        for number, numbers in enumerate(batches):
            which = number % len(CONFIGS)
            slides, store = folder / f"batch{number}", folder / f"store{number}"
            parent = parent or _Parent(bench)
            parent.begin(slides, store, {**CONFIGS[which], "deadline_s": deadline_s})
            mutants = prepared
            if number + 1 < len(batches):
                following = folder / f"batch{number + 1}"
                prepared = make_mutants(following, victims, batches[number + 1], seed)
            died = parent.end(store / "status.csv", deadline_s + stall_s)
            if died:
                report.violations.append(f"mutants {numbers.start} to {numbers.stop - 1}: {died}")
                _keep(folder, slides.iterdir())
                parent.stop()
                parent = None
            else:
                found = judge(mutants, store, which, deadline_s)
                for mutant in mutants:
                    state, problems = found[mutant.slide_id]
                    states[state] += 1
                    outcomes.setdefault(mutant.kind, Counter())[state] += 1
                    report.violations += [f"{mutant.what}: {problem}" for problem in problems]
                    if problems:
                        _keep(folder, [mutant.path])
                seconds = {
                    row["slide_id"]: float(row["seconds"] or 0)
                    for row in read_rows(store / "status.csv")
                }
                slowest = max([slowest, *seconds.values()])
                late += [one.what for one in mutants if seconds.get(one.slide_id, 0) >= deadline_s]
            shutil.rmtree(slides)
            shutil.rmtree(store, ignore_errors=True)
            num_done += len(numbers)
            say(f"{num_done} of {count}: {dict(states)}, {len(report.violations)} violations")
    finally:
        if parent is not None:
            parent.stop()
        bench.end()
    report.facts = {
        "mutants": count,
        "states": dict(states),
        "by_kind": {kind: dict(found) for kind, found in sorted(outcomes.items())},
        "stopped_at_the_deadline": late,
        "slowest_slide_s": slowest,
        "seconds": round(time.monotonic() - begun, 1),
    }
    return report


def make_victims(folder: Path, seed: int) -> list[Victim]:
    """Write the sound slides and tile them."""
    folder.mkdir(parents=True)
    victims = []
    for name, write in VICTIMS.items():
        path = folder / name
        write(path, seed)
        stores = []
        for number, config in enumerate(CONFIGS):
            store = folder / f"{number}" / f"{name}.zarr"
            store.parent.mkdir(exist_ok=True)
            result = tile_slide(path, "v", store, TileConfig(**config), None, "")  # pyright: ignore
            assert result.status == "done", f"{name} is sound"
            stores.append(PatchStore.open(store))
        data = path.read_bytes()
        victims.append(Victim(name, data, dissect(path), sha256_file(path), tuple(stores)))
    return victims


def make_mutants(folder: Path, victims: list[Victim], numbers: range, seed: int) -> list[Mutant]:
    """Write the mutants of these numbers; the first letter of their names is their victim's."""
    folder.mkdir()
    mutants = []
    for number in numbers:
        rng = rng_for(seed, "mutant", number)
        victim = victims[int(rng.integers(len(victims)))]
        kind, data = mutate(victim.data, victim.anatomy, rng)
        path = folder / f"{victim.name[0]}{number:06d}.{victim.name.partition('.')[2]}"
        path.write_bytes(data)
        mutants.append(Mutant(victim, kind, path, sha256_file(path)))
    return mutants


def judge(
    mutants: list[Mutant], store: Path, which: int, deadline_s: float
) -> dict[str, tuple[str, list[str]]]:
    """How each mutant of a batch ended, and what is wrong with that."""
    rows: dict[str, list[dict[str, str]]] = {mutant.slide_id: [] for mutant in mutants}
    strange = []
    for row in read_rows(store / "status.csv"):
        rows.get(row["slide_id"], strange).append(row)
    found = {}
    for mutant in mutants:
        own = rows[mutant.slide_id]
        problems = [] if len(own) == 1 else [f"has {len(own)} rows in the table, not one"]
        state = "lost"
        for row in own:
            state = row["status"]
            problems += row_problems(row, deadline_s)
        path = store / f"{mutant.slide_id}.zarr"
        if state == "done":
            state, more = store_problems(path, mutant, which)
            problems += more
        elif path.exists():
            problems.append(f"is {state} and has a store")
        found[mutant.slide_id] = (state, problems)
    expected = {f"{slide_id}.zarr" for slide_id in rows} | OF_ALL_SLIDES
    expected |= {"tile.json", "run.json", PICTURES, OUTLINES}
    there = {path.name for path in store.iterdir()}
    strays = sorted(name for name in there - expected if not name.startswith("contact_sheet_"))
    if strays or strange:
        found[mutants[-1].slide_id][1].append(
            f"its batch leaves {strays} and {len(strange)} strange rows behind"
        )
    return found


def row_problems(row: Mapping[str, str], deadline_s: float) -> list[str]:
    """What is wrong with a row of the status table, whatever the slide was."""
    reason, problems = row["reason"], []
    if row["status"] not in ("done", "no_tissue", "failed"):
        problems.append(f"status is {row['status']}")
    if row["status"] != "done" and not reason:
        problems.append("has no reason")
    if "\n" in reason or "Traceback" in reason or 'File "' in reason:
        problems.append(f"its reason is not one sentence but {reason[:200]!r}")
    if "please report it" in reason:
        problems.append(f"an error that nobody expected: {reason[:300]}")
    if len(reason) > _LONGEST_REASON:
        problems.append(f"its reason has {len(reason)} letters")
    if float(row["seconds"] or 0) > deadline_s + _GRACE_S:
        problems.append(f"took {row['seconds']} s, its deadline was {deadline_s:g} s")
    return problems


def store_problems(path: Path, mutant: Mutant, which: int) -> tuple[str, list[str]]:
    """Whether a mutant's store equals the victim's, and what is wrong with it.

    Damage that no decoder notices gives other pixels. Then the store must carry the hash of the
    very bytes it was made of, which is not the hash that the sound slide is known by.
    """
    problems = list(verify_store(path))
    if problems:
        return "done, unsound", problems
    try:
        made, known = PatchStore.open(path), mutant.victim.stores[which]
        same = _same_pixels(made, known)
    except WsiHrError as error:
        return "done, unsound", [str(error)]
    if made.info.source_sha256 != mutant.sha256:
        problems.append("its store names the hash of other bytes than it was made of")
    if not same and made.info.source_sha256 == known.info.source_sha256:
        problems.append("its pixels have changed and its hash has not: a silent change")
    return "done, equal" if same else "done, other pixels", problems


def _same_pixels(made: PatchStore, known: PatchStore) -> bool:
    """Whether all valid patches of a store are patches of the other, pixel by pixel."""
    place = {corner: k for k, corner in enumerate(map(tuple, known.grid.coords.tolist()))}
    mine = np.flatnonzero(made.valid)
    theirs = [place.get(tuple(corner)) for corner in made.grid.coords[mine].tolist()]
    if made.info.plan != known.info.plan or None in theirs:
        return False
    return np.array_equal(made.read(mine), known.read(np.array(theirs, dtype=np.int64)))


class _Parent:
    """One process that tiles batch after batch."""

    def __init__(self, bench: Bench) -> None:
        with (bench.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.mutation_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=bench.environment,
                cwd=bench.folder,
                start_new_session=True,
            )

    def begin(self, slides: Path, store: Path, config: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(slides), str(store), config]) + "\n")
        self._process.stdin.flush()

    def end(self, table: Path, stall_s: float) -> str | None:
        """Wait until the batch is done; what happened instead, if something did.

        A parent that lives adds a row to the table at least every ``stall_s`` seconds.
        """
        assert self._process.stdout is not None
        seen, since = -1, time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(0.2):
                    if self._process.stdout.readline() == "tiled\n":
                        return None
                    return f"the parent died (exit code {self._process.wait(10)})"
                rows = len(read_rows(table))
                if rows != seen:
                    seen, since = rows, time.monotonic()
                if time.monotonic() - since > stall_s:
                    return f"the parent hangs ({rows} rows after {stall_s:g} s without a new one)"

    def stop(self) -> None:
        """Let it end, as it does when nothing more is asked; kill it where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # it may be dead, with a request still in the pipe
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _keep(folder: Path, paths: Iterable[Path]) -> None:
    (folder / "offenders").mkdir(exist_ok=True)
    for path in paths:
        shutil.copy(path, folder / "offenders")
