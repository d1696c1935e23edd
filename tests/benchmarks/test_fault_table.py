"""The table of faults says what tests say, of every row, and nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import fault_table
from benchmarks.crash_points import SWEEPS
from benchmarks.fault_table import rows_of, trials_of, trials_of_sweep

PAGE = """# Faults
## A. Crash
| row | what is done | what must come out |
|---|---|---|
| A1 | a | b |
| A5a | a | b |
## Not there yet
| C9 | a | b |
"""


def case(name: str, *rows: str, end: str = "") -> str:
    told = "".join(f'<property name="fault" value="{row}"/>' for row in rows)
    return f'<testcase classname="t" name="{name}"><properties>{told}</properties>{end}</testcase>'


def written(path: Path, *cases: str) -> Path:
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def swept(**changed: object) -> dict:
    names = {name for commands, _ in SWEEPS.values() for name in commands}
    modes = {mode: 3 for _, modes in SWEEPS.values() for mode in modes}
    return {"commands": {name: {"cases": modes} for name in names}, "violations": [], **changed}


def reported(monkeypatch, tmp_path: Path, *words: object) -> tuple[int, str]:
    page = tmp_path / "faults.md"
    page.write_text(f"{PAGE}<!-- results: written by make faults -->\n<!-- end of results -->\n")
    monkeypatch.setattr(fault_table, "PAGE", page)
    monkeypatch.setattr(fault_table, "RESULTS", tmp_path / "faults.json")
    monkeypatch.setattr(sys, "argv", ["fault_table", "--write", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        fault_table.main()
    return int(ended.value.code or 0), page.read_text()


def test_rows_have_their_sections_and_what_is_not_there_yet_does_not_count():
    found = {row.name: (row.section, row.counted) for row in rows_of(PAGE)}
    assert found["A1"] == ("A. Crash", True)
    assert found["C9"] == ("Not there yet", False)


def test_a_row_survives_when_all_that_tried_it_passed(tmp_path):
    trials, nameless = trials_of(
        written(
            tmp_path / "j.xml",
            case("one", "A1"),
            case("two", "A1", "A2", end="<failure/>"),
            case("three", "A3", end="<skipped/>"),
            case("four", end="<error/>"),
        )
    )
    assert nameless == ["t::four"]
    assert {name: (t.tests, t.skipped, t.survived) for name, t in trials.items()} == {
        "A1": (2, 0, False),
        "A2": (1, 0, False),
        "A3": (0, 1, False),
    }


def test_the_rows_of_calls_that_go_wrong_come_from_their_sweep():
    assert all(trial.survived for trial in trials_of_sweep(swept()).values())
    some = swept()
    del some["commands"]["train"]
    gone = {row for row, trial in trials_of_sweep(some).items() if not trial.survived}
    assert gone == {"A5b", "A6a", "A6b", "A6c"}
    wrong = swept(violations=["sample: EIO at call 3 (write x): another tree"])
    assert {row for row, t in trials_of_sweep(wrong).items() if t.failed} == {"A6b"}
    undisturbed = swept(violations=["tile: undisturbed: makes other calls the second time"])
    assert {row for row, t in trials_of_sweep(undisturbed).items() if t.failed} == {
        *("A5a", "A6a", "A6b", "A6c")
    }


def test_results_of_several_runs_are_one_table(tmp_path, monkeypatch, capsys):
    junit = [
        written(tmp_path / "a.xml", case("one", "A1")),
        written(tmp_path / "b.xml", case("two", "A1")),
    ]
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps({"crash_points": swept()}))
    words = [word for file in junit for word in ("--junit", file)]
    code, page = reported(monkeypatch, tmp_path, *words)
    assert (code, "| A. Crash | 2 | 1 | 1 |" in page) == (1, True)
    code, page = reported(monkeypatch, tmp_path, *words, "--sweep", sweep)
    assert code == 1, "rows of the sweep that are not on the page"
    assert re.search(r"\| A\. Crash \| 2 \| 2 \| 2 \|", page)
    missed = swept(violations=["only strace or only the library saw: train: write x"])
    sweep.write_text(json.dumps({"crash_points": missed}))
    reported(monkeypatch, tmp_path, *words, "--sweep", sweep)
    assert "only strace" in capsys.readouterr().out
    kept = json.loads((tmp_path / "faults.json").read_text())["tests"]
    assert kept["A1"] == 2
    assert kept["A5a"] == 3 * len(SWEEPS["A5a"][0]) * len(SWEEPS["A5a"][1])
