"""Faults on purpose, through the real command line: what must survive, and whether it does.

    python -m benchmarks.faults kills --count 200
    python -m benchmarks.faults poison
    python -m benchmarks.faults rss --slides 200
    python -m benchmarks.faults mutations --count 10000
    python -m benchmarks.faults crash_points
    python -m benchmarks.faults prove

Each prints what it found as JSON (``--json FILE`` writes it too) and ends with 1 where something
was found that must not be. ``prove`` plants a bug for every oracle and ends with 1 where an oracle
does not find it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.command_runs import Report
from benchmarks.crash_commands import NAMES
from benchmarks.crash_lane import NoCompilerError
from benchmarks.crash_modes import MODES
from benchmarks.crash_points import crash_points
from benchmarks.mutation_faults import mutations
from benchmarks.planted import BUGS
from benchmarks.stage_faults import kills, poison, rss

Fault = Callable[..., Report]

_points = partial(crash_points, commands=("sample",))
_exports = partial(crash_points, commands=("export clam",))

PROOFS: tuple[tuple[str, Fault, str], ...] = (
    ("clock in the store", partial(kills, count=1, slides=2), "is different"),
    ("stray", partial(kills, count=1, slides=2), "left.zarr.tmp is a stray"),
    ("orphan", partial(kills, count=1, slides=1), "lives on"),
    ("one death for all", partial(poison, slides=12, kinds=("killed",)), "is missing"),
    ("orphan", partial(poison, slides=3, kinds=("exit",)), "lives on"),
    ("parent leaks", partial(rss, slides=32), "parent: grows"),
    ("server leaks", partial(rss, slides=32), "server: grows"),
    ("parent crashes", partial(mutations, count=4), "the parent died (exit code -6)"),
    ("parent hangs", partial(mutations, count=4, stall_s=30.0), "the parent hangs"),
    ("row lost", partial(mutations, count=20), "has 0 rows in the table"),
    ("bare traceback", partial(mutations, count=8), "not one sentence"),
    ("deadline ignored", partial(mutations, count=2, deadline_s=1), "its deadline was 1 s"),
    ("hash of another file", partial(mutations, count=40), "a silent change"),
    ("half a store", partial(mutations, count=8), "has 0 bytes instead"),
    ("written in place", partial(_points, modes=("tear",)), "is cut short"),
    ("name of its own", partial(_points, modes=("kill",)), "is a stray"),
    ("swallowed", partial(_exports, modes=("ENOSPC",)), "ended with 0, and"),
    ("not for users", partial(_points, modes=("full",)), "a bare traceback"),
    ("blames the request", partial(_points, modes=("full",)), "ended with 2"),
    ("tries for ever", partial(_points, modes=("full",), deadline_s=10.0), "hangs"),
    (
        "replaced too early",
        partial(crash_points, commands=("tile again",), modes=("kill",), calls=range(120)),
        "which was finished, is lost",
    ),
    ("past the library", partial(_exports, modes=()), "only strace or only the library saw"),
    ("by chance", partial(_exports, modes=()), "other calls the second time"),
)
"""A planted bug, the run that must find it, and in which words."""


def prove(folder: Path, *, seed: int, number: int) -> list[str]:
    """Plant one of the bugs; what the oracle says wrong about it, nothing if it finds it."""
    name, fault, words = PROOFS[number]
    report = fault(folder, seed=seed, planted=BUGS[name])
    if any(words in violation for violation in report.violations):
        return []
    return [f"{name}: not found as {words!r}, but {report.violations[:3]}"]


def main() -> None:
    """Run one kind of fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the findings there too")
    parser.add_argument("--work", type=Path, help="new folder to work in, kept; default: temporary")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("kills").add_argument("--count", type=int, default=200)
    commands.add_parser("poison").add_argument("--slides", type=int, default=40)
    commands.add_parser("rss").add_argument("--slides", type=int, default=200)
    many = commands.add_parser("mutations")
    many.add_argument("--count", type=int, default=10_000)
    many.add_argument("--first", type=int, default=0, help="number of the first mutant")
    points = commands.add_parser("crash_points")
    points.add_argument("--command", dest="names", action="append", choices=NAMES, help="only it")
    points.add_argument("--mode", dest="modes", action="append", choices=MODES, help="only it")
    points.add_argument("--call", dest="calls", action="append", type=int, help="only this number")
    points.add_argument("--lanes", type=int, default=2, help="commands at a time")
    commands.add_parser("prove")
    given = parser.parse_args()
    if given.work is not None:
        given.work.mkdir(parents=True)
    folder = given.work or Path(tempfile.mkdtemp(prefix="wsi-hr-faults-"))
    try:
        report = _run(given, folder)
    except NoCompilerError as error:
        parser.error(str(error))
    findings = {given.command: {**report.facts, "violations": report.violations}}
    text = json.dumps(findings, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    if report.violations:
        print(f"{len(report.violations)} violations; see {folder}", file=sys.stderr)
    elif given.work is None:
        shutil.rmtree(folder)
    sys.exit(bool(report.violations))


def _run(given: argparse.Namespace, folder: Path) -> Report:
    say = partial(print, file=sys.stderr)
    if given.command == "kills":
        return kills(folder, count=given.count, seed=given.seed)
    if given.command == "poison":
        return poison(folder, slides=given.slides, seed=given.seed)
    if given.command == "rss":
        return rss(folder, slides=given.slides, seed=given.seed)
    if given.command == "mutations":
        return mutations(folder, count=given.count, first=given.first, seed=given.seed, say=say)
    if given.command == "crash_points":
        return crash_points(
            folder,
            commands=given.names or NAMES,
            modes=given.modes or tuple(MODES),
            calls=given.calls,
            lanes=given.lanes,
            say=say,
        )
    report = Report({"proofs": len(PROOFS)})
    for number, (name, _, words) in enumerate(PROOFS):
        missed = prove(folder / str(number), seed=given.seed, number=number)
        report.violations += missed
        say(f"{name}: {'NOT FOUND' if missed else f'found ({words})'}")
    return report


if __name__ == "__main__":
    main()
