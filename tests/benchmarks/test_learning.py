"""The learning table at the tiniest scale: every figure is there, and none is made up."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.learning import PARTS, Scale, main
from benchmarks.learning_cohort import Cohort
from benchmarks.learning_memory import measure_memory
from benchmarks.learning_refresh import FIGURES
from benchmarks.learning_report import TARGETS, print_table, report_of
from benchmarks.learning_rows import ROWS
from benchmarks.measure import Target
from wsi_hr.errors import ConfigError

TINY = Scale(
    encoder="test_resnet", patch_px=16, num_bags=2, num_patches=24, pass_patches=64, repeats=2,
    memory_encoder="test_resnet", memory_px=8, memory_sizes=(10, 20),
    cohort=Cohort(num_slides=6, size_px=1024, epochs=1),
    refresh_cohort=Cohort(num_slides=6, size_px=6144, epochs=4),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_method_is_measured_and_written(tmp_path, capsys) -> None:
    path = tmp_path / "learning.json"
    main(["--json", str(path)], TINY)
    report = json.loads(path.read_text())
    assert set(report["parts"]) == set(PARTS)
    assert not any(part["missing"] for part in report["parts"].values())
    assert set(report["methods"]) == set(ROWS) >= {"gd", "ips", "dbps", "patchgd"}
    for name, found in report["methods"].items():
        assert found["ms_per_step"] > 0, name
        assert found["peak_mib"] > 0, name
        assert 0 <= found["metric"] <= 1, name
    for name, row in ROWS.items():
        assert (name in report["parts"]["flatness"]["memory"]) == (row.streaming is not None)
    not_over_100k = set(TARGETS) - {"memory_ratio_100k_1k"}
    assert all(report[name] > 0 for name in not_over_100k)
    assert report["memory_ratio_100k_1k"] is None  # no slide had 100,000 patches
    rounds = report["parts"]["steps"]["rounds"] | report["parts"]["passes"]["rounds"]
    for name, values in rounds.items():
        least, most = report["spread"][name]
        assert least == pytest.approx(min(values), rel=1e-4)
        assert most == pytest.approx(max(values), rel=1e-4)
    refresh = report["parts"]["refresh"]["refresh"]
    # the first two of four epochs explore, the next scores all patches: one is refreshed
    assert [len(refresh[name]) for name in FIGURES] == [1, 1, 1]
    found = report["refreshed_scan"]
    assert 0 < found["scored"] < 1
    assert 0 < found["salient"] <= 1
    assert 0 < found["sub_salient"] <= 1
    methods = report["methods"]
    each = np.divide(rounds["dbps_ms"], rounds["gd_ms"])
    assert report["dbps_vs_gd_time_x"] == pytest.approx(np.median(each), rel=1e-3)
    peaks = methods["dbps"]["peak_mib"] / methods["gd"]["peak_mib"]
    assert report["dbps_vs_gd_memory_x"] == pytest.approx(peaks, rel=1e-3)
    out = capsys.readouterr().out
    for row in ROWS.values():
        assert row.what in out
    assert "refreshed scan: scores" in out
    assert "not measured" not in out
    capsys.readouterr()
    main(["--json", str(path), "--only", "steps"], TINY)
    again = json.loads(path.read_text())
    changed = {name for name in PARTS if again["parts"][name] != report["parts"][name]}
    assert changed == {"steps"}


def test_what_was_not_measured_is_said(capsys) -> None:
    facts = {"gpu": None, "cpu": "a processor", "cores": 2}
    parts = {
        "peaks": {"machine": facts, "peaks": {"gd": 9.0}, "missing": {"dbps": "it was killed"}}
    }
    print_table(report_of(parts, asdict(TINY)))
    out = capsys.readouterr().out
    assert "not measured: peaks of dbps: it was killed" in out
    (line,) = (line for line in out.splitlines() if "scan, frozen" in line)
    assert "nan" in line
    assert line.endswith("missed")


def test_one_row_is_measured_anew(tmp_path, capsys) -> None:
    path = tmp_path / "learning.json"
    facts = {"gpu": None, "cpu": "a processor", "cores": 2}
    peaks = {"machine": facts, "peaks": {"gd": 9.0}, "missing": {"dbps": "killed", "ips": "killed"}}
    path.write_text(json.dumps(report_of({"peaks": peaks}, asdict(TINY))))
    main(["--json", str(path), "--only", "peaks", "--row", "dbps"], TINY)
    part = json.loads(path.read_text())["parts"]["peaks"]
    assert part["peaks"].keys() == {"gd", "dbps"}
    assert part["peaks"]["gd"] == 9
    assert part["missing"] == {"ips": "killed"}
    assert "not measured: peaks of ips: killed" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--row", "dbps"], TINY)


def test_parts_of_another_scale_are_not_mixed(tmp_path) -> None:
    path = tmp_path / "learning.json"
    path.write_text(json.dumps(report_of({}, asdict(Scale()))))
    with pytest.raises(SystemExit, match="another scale"):
        main(["--json", str(path), "--only", "steps"], TINY)


@pytest.mark.slow
def test_what_a_step_holds_is_found_in_its_peak() -> None:
    """All patches of a slide drawn at once are held with their activations; a scan holds none."""
    settings = ["encoder.name=test_resnet", "train.device=cpu"]
    held = ["method.name=patchgd", "method.sample=1", "method.max_sampled=100000"]
    few, many = measure_memory([*settings, *held], [50, 400], patch_px=64).above
    flat = measure_memory([*settings, "method.explore=none"], [50, 400], patch_px=64)
    flat_few, flat_many = flat.above
    assert flat.idle > 100  # MiB; Python and torch alone
    assert many > 3 * few
    assert flat_many < 1.5 * flat_few
    with pytest.raises(ConfigError, match="no_such"):
        measure_memory(["method.no_such=1"], [10], patch_px=16)


def test_a_target_that_is_missed_says_so() -> None:
    low, high = Target("time", 0.5, 0.4, low=True), Target("speed", 90, 97)
    assert not low.line(0.5, 0.4, 0.6).endswith("missed")
    assert low.line(0.51, 0.4, 0.6).endswith("missed")
    assert not high.line(90, 80, 95).endswith("missed")
    assert high.line(89, 80, 95).endswith("missed")
    assert low.line(math.nan, math.nan, math.nan).endswith("missed")
