"""Every call by which a command changes files goes wrong once; the same command then goes on.

The k-th call is the process's death, half a write, a full disk, a failure that comes once; for
every k, no stride. Calls are counted by :mod:`benchmarks.crash_preload` in a process of one thread
(:mod:`benchmarks.crash_driver` says how it differs from a real run). A kill after a call leaves
what a kill before the next one does.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from benchmarks.command_runs import Report
from benchmarks.crash_commands import NAMES, Cohort, Command
from benchmarks.crash_lane import Lane, State, build_preload
from benchmarks.crash_modes import KINDS, MODES
from benchmarks.planted import plant

_TELL_EVERY = 200
_KILLS = ("kill", "tear")


def _commands(verb: str) -> tuple[str, ...]:
    return tuple(name for name in NAMES if name.partition(" ")[0] == verb)


SWEEPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "A5a": (_commands("tile"), _KILLS),
    "A5b": (_commands("train"), _KILLS),
    "A5c": (_commands("predict"), _KILLS),
    "A5d": (_commands("export"), _KILLS),
    "A5e": (_commands("sample"), _KILLS),
    "A6a": (NAMES, ("full", "ENOSPC", "short")),
    "A6b": (NAMES, ("EIO",)),
    "A6c": (NAMES, ("EACCES",)),
}
"""Rows of docs/faults.md: the commands that are disturbed, and how."""


@dataclass
class Swept:
    """What came of disturbing one command.

    Attributes:
        calls: it makes when undisturbed, by kind.
        cases: tried, by mode.
        states: different ones of the output folder from which the command went on.
        harmless: cases in which the failure did not matter: the command ended with 0.
        problems: what must not be, a sentence each.
    """

    calls: Counter[str] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)
    states: int = 0
    harmless: int = 0
    problems: list[str] = field(default_factory=list)


def crash_points(
    folder: Path,
    *,
    seed: int = 0,
    commands: Sequence[str] = NAMES,
    modes: Sequence[str] = tuple(MODES),
    calls: Collection[int] | None = None,
    planted: str = "",
    lanes: int = 2,
    deadline_s: float = 60.0,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """Disturb commands at every call, in every way in which that call can go wrong.

    Args:
        folder: empty; all is done there.
        seed: has no effect, for nothing is drawn.
        commands: of :data:`benchmarks.crash_commands.NAMES`.
        modes: of :data:`MODES`.
        calls: numbers of the calls that go wrong; None: every one.
        planted: source of a planted bug.
        lanes: commands disturbed at a time.
        deadline_s: after so long a command hangs.
        say: told how far it has come.

    Raises:
        NoCompilerError: there is no C compiler.
    """
    begun = time.monotonic()
    library = build_preload(folder)
    before = [str(plant(folder / "planted", planted))] if planted else []
    cohort, strace = Cohort(folder / "cohort"), shutil.which("strace")
    swept: dict[str, Swept] = {}
    missed: list[str] = []
    with ExitStack() as stack:
        row = [
            stack.enter_context(Lane(folder / f"lane{number}", number, library, before, deadline_s))
            for number in range(lanes)
        ]
        for name in commands:
            command = cohort.command(name)
            swept[name] = _sweep(row, command, modes, calls, partial(_said_of, say, name))
            if strace is not None:
                missed += [f"{name}: {one}" for one in row[0].not_seen_alike(command)]
            say(f"{name}: done, {len(swept[name].problems)} violations")
    every = swept.values()
    return Report(
        {
            "calls": sum(one.calls.total() for one in every),
            "cases": sum(one.cases.total() for one in every),
            "harmless": sum(one.harmless for one in every),
            "states": sum(one.states for one in every),
            "strace": "not installed" if strace is None else f"{len(missed)} differences",
            "commands": {
                name: {"calls": dict(one.calls), "cases": dict(one.cases), "states": one.states}
                for name, one in swept.items()
            },
            "seconds": round(time.monotonic() - begun, 1),
        },
        [f"{name}: {problem}" for name, one in swept.items() for problem in one.problems]
        + [f"only strace or only the library saw: {one}" for one in missed],
    )


def _said_of(say: Callable[[str], object], name: str, what: str) -> None:
    say(f"{name}: {what}")


def _sweep(
    row: Sequence[Lane],
    command: Command,
    modes: Sequence[str],
    calls: Collection[int] | None,
    say: Callable[[str], object],
) -> Swept:
    """Disturb one command; the arguments are those of :func:`crash_points`."""
    swept = Swept()
    resumed: dict[State, list[str]] = {}
    reference, swept.problems = row[0].undisturbed(command)
    second, _ = row[-1].undisturbed(command)
    if [one.call for one in reference] != [one.call for one in second]:
        swept.problems.append("undisturbed: makes other calls the second time")
    swept.calls.update(one.call.kind for one in reference)
    strange = swept.calls.keys() - KINDS
    assert not strange, f"no mode is for {strange}"
    if swept.problems:
        return swept
    cases = [
        (name, at)
        for name in modes
        for at, one in enumerate(reference)
        if MODES[name].fits(one) and (calls is None or at in calls)
    ]
    free: SimpleQueue[Lane] = SimpleQueue()
    for lane in row:
        free.put(lane)

    def tried(case: tuple[str, int]) -> tuple[bool, list[str]]:
        lane = free.get()
        try:
            return lane.disturbed(command, MODES[case[0]], case[1], reference, resumed)
        finally:
            free.put(lane)

    with ThreadPoolExecutor(len(row)) as pool:
        for number, ((name, at), (harmless, problems)) in enumerate(
            zip(cases, pool.map(tried, cases), strict=True)
        ):
            swept.cases[name] += 1
            swept.harmless += harmless
            where = f"{name} at call {at} ({reference[at].call})"
            for problem in problems:
                say(f"{where}: {problem}")
                swept.problems.append(f"{where}: {problem}")
            if number % _TELL_EVERY == 0:
                say(f"{number} of {len(cases)} cases, {len(swept.problems)} violations")
    swept.states = len(resumed)
    return swept
