"""The table of faults: which rows of docs/faults.md were tried, and which have survived.

    python -m benchmarks.fault_table              # run every test that names a row, and report
    python -m benchmarks.fault_table --write      # and keep the figures, in docs and in results
    python -m benchmarks.fault_table --junit FILE ... --sweep benchmarks/results/crash_points.json

The third runs nothing: it reports what runs of pytest left (``--junitxml``), and, for the rows of
calls that go wrong, what ``python -m benchmarks.faults --json FILE crash_points`` did.
Ends with 1 unless every row was tried and has survived. Rows of the container need root and
buildah; where that is missing they are not tried.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.crash_points import SWEEPS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faults.md"
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
PROPERTY = "fault"
"""As which a test's report names the rows it proves; written by tests/conftest.py."""

_OUTSIDE = "Not there yet"
_BEGIN, _END = "<!-- results: written by make faults -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        name: ``B17``.
        section: heading under which it stands.
        counted: whether the product has what it is about.
    """

    name: str
    section: str
    counted: bool


@dataclass
class Trial:
    """What became of the tests that prove a row.

    Attributes:
        tests: that ran, to whatever end.
        skipped: that did not.
        failed: by name.
    """

    tests: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether something tried, and all that did passed."""
        return self.tests > 0 and not self.failed


def rows_of(page: str) -> Iterator[Row]:
    """The rows of a page, in its order."""
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif found := re.match(r"\| ([A-H]\d+[a-z]?) \| .+ \| .+ \|$", line):
            yield Row(found[1], section, section != _OUTSIDE)


def trials_of(junit: Path) -> tuple[dict[str, Trial], list[str]]:
    """Trials by row, from a JUnit file; and what failed without the name of a row."""
    trials: dict[str, Trial] = {}
    nameless = []
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        failed = case.find("failure") is not None or case.find("error") is not None
        rows = [p.get("value", "") for p in case.iter("property") if p.get("name") == PROPERTY]
        for row in rows:
            trial = trials.setdefault(row, Trial())
            if case.find("skipped") is not None:
                trial.skipped += 1
            else:
                trial.tests += 1
            if failed:
                trial.failed.append(name)
        if failed and not rows:
            nameless.append(name)
    return trials, nameless


def trials_of_sweep(report: Mapping[str, Any]) -> dict[str, Trial]:
    """Trials by row, from what the crash points of all commands came to.

    A row counts as tried when every command of it was disturbed in every way of it.
    """
    trials = {}
    for row, (commands, modes) in SWEEPS.items():
        trial = trials[row] = Trial()
        done = report["commands"]
        if all(mode in done.get(name, {}).get("cases", {}) for name in commands for mode in modes):
            trial.tests = sum(done[name]["cases"][mode] for name in commands for mode in modes)
        trial.failed = [
            problem
            for problem in report["violations"]
            if problem.partition(": ")[0] in commands
            and problem.partition(": ")[2].partition(" ")[0] in (*modes, "undisturbed:")
        ]
    return trials


def figures_of(rows: Sequence[Row], trials: Mapping[str, Trial]) -> dict[str, dict[str, int]]:
    """Rows, tried and survived by section and of all together, of the rows that count."""
    figures: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.counted:
            trial = trials.get(row.name, Trial())
            for section in (row.section, "All"):
                sums = figures.setdefault(section, {"rows": 0, "tried": 0, "survived": 0})
                sums["rows"] += 1
                sums["tried"] += trial.tests > 0
                sums["survived"] += trial.survived
    figures["All"] = figures.pop("All")  # last
    return figures


def problems_of(rows: Sequence[Row], trials: Mapping[str, Trial]) -> list[str]:
    """What keeps the table from being whole, a line each."""
    counted = {row.name for row in rows if row.counted}
    problems = [
        f"{name}: no such row is counted in {PAGE.name}" for name in trials.keys() - counted
    ]
    for row in rows:
        trial = trials.get(row.name)
        if not row.counted:
            continue
        if trial is None:
            problems.append(f"{row.name}: no test")
        elif trial.failed:
            problems.append(f"{row.name}: {', '.join(trial.failed)}")
        elif not trial.tests:
            problems.append(f"{row.name}: not tried, {trial.skipped} test(s) were skipped")
    return problems


def table_of(figures: Mapping[str, Mapping[str, int]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| section | rows | tried | survived |", "|---|---|---|---|"]
    lines += [
        f"| {section} | {sums['rows']} | {sums['tried']} | {sums['survived']} |"
        for section, sums in figures.items()
    ]
    return "\n".join(lines)


def with_table(page: str, table: str) -> str:
    """The page with another table in its place."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table}\n{_END}{after}"


def add(trials: dict[str, Trial], more: Mapping[str, Trial]) -> None:
    """What another run found, to the rest."""
    for row, trial in more.items():
        known = trials.setdefault(row, Trial())
        known.tests += trial.tests
        known.skipped += trial.skipped
        known.failed += trial.failed


def run_tests(junit: Path, more: Sequence[str]) -> int:
    """Run all tests that name a row; pytest's exit code."""
    container = {"WSI_HR_DOCKER": "1"} if shutil.which("buildah") else {}
    call = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "fault"]
    call += [f"--junitxml={junit}", *more]
    return subprocess.run(call, cwd=ROOT, env=os.environ | container, check=False).returncode


def main() -> None:
    """Try every row, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument(
        "--junit", type=Path, action="append", help="report these results, run nothing; repeatable"
    )
    parser.add_argument("--sweep", type=Path, help="with --junit: findings of crash_points")
    given, more = parser.parse_known_args()
    code = 0
    trials: dict[str, Trial] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        files = given.junit or [Path(folder) / "faults.xml"]
        if not given.junit:
            code = run_tests(files[0], more)
        for file in files:
            found, nameless = trials_of(file)
            add(trials, found)
            problems += nameless
    if given.sweep is not None:
        sweep = json.loads(given.sweep.read_text())["crash_points"]
        found = trials_of_sweep(sweep)
        add(trials, found)
        named = {problem for trial in found.values() for problem in trial.failed}
        problems += [problem for problem in sweep["violations"] if problem not in named]
    page = PAGE.read_text(encoding="utf-8")
    rows = list(rows_of(page))
    problems += problems_of(rows, trials)
    figures = figures_of(rows, trials)
    table = table_of(figures)
    print(table, *problems, sep="\n")
    if given.write:
        tests = {row.name: trials.get(row.name, Trial()).tests for row in rows if row.counted}
        found = {"sections": figures, "tests": tests}
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(with_table(page, table), encoding="utf-8")
    sys.exit(bool(problems or code))


if __name__ == "__main__":
    main()
