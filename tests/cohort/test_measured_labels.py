from __future__ import annotations

import pytest

from wsi_hr.cohort.measured_labels import are_measured


def _spread(values: list[str], slides: int) -> list[str]:
    return [values[index % len(values)] for index in range(slides)]


def _numbers(low: int, high: int) -> list[str]:
    return [str(number) for number in range(low, high + 1)]


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(_spread(_numbers(40, 58), 24), id="19 ages on 24 slides"),
        pytest.param(_spread(_numbers(40, 58), 1000), id="19 ages on 1000 slides"),
        pytest.param(_spread(_numbers(50, 61), 70), id="12 ages on 70 slides"),
        pytest.param(_numbers(61, 68), id="8 ages on 8 slides"),
        pytest.param(["63", "71", "58"], id="3 ages on 3 slides"),
        pytest.param(["0.31", "0.87", "0.12", "0.44", "0.31"], id="4 parts on 5 slides"),
        pytest.param([f"{age}.0" for age in range(61, 80)], id="ages as pandas writes them"),
        pytest.param([f"{n / 10}" for n in range(3, 15)], id="millimetres"),
        pytest.param([f"{n},{n % 10}" for n in range(3, 15)], id="decimal commas"),
        pytest.param([f"{n}e-3" for n in range(12, 30)], id="scientific"),
        pytest.param([f"-{n}.5" for n in range(12)], id="negative"),
        pytest.param(_spread([f"{n}%" for n in range(0, 105, 5)], 400), id="percent"),
        pytest.param([f"{n} years" for n in range(50, 70)], id="with a unit"),
        pytest.param([*_numbers(60, 88), ">89", "<60", "90+"], id="with an open end"),
        pytest.param([*_numbers(60, 80), "NA", "nan", "#N/A", "unknown"], id="with gaps"),
        pytest.param([f"2024-01-{n:02}" for n in range(1, 20)], id="dates"),
        pytest.param([f"{n}/3/2024" for n in range(1, 20)], id="dates with slashes"),
        pytest.param([str(n) for n in range(44927, 44950)], id="serial numbers of dates"),
        pytest.param(_spread(_numbers(0, 24), 60), id="months from 0 on, few slides each"),
    ],
)
def test_measurements(labels: list[str]) -> None:
    assert are_measured(labels)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(["0", "1"], id="two classes"),
        pytest.param(_numbers(0, 5), id="ISUP, one slide each"),
        pytest.param(_spread(_numbers(0, 5), 8), id="ISUP"),
        pytest.param([f"{grade}.0" for grade in range(6)], id="ISUP as pandas writes it"),
        pytest.param(_numbers(2, 10), id="Gleason sums"),
        pytest.param(_numbers(0, 10), id="scores to 10"),
        pytest.param(["63", "71"], id="two ages"),
        pytest.param(_spread(["12.5", "7.25", "3.1"], 6), id="three doses"),
        pytest.param(_spread(["0.1", "0.5", "1", "5", "10"], 10), id="five doses"),
        pytest.param(_spread(["16", "18", "31", "33"], 9), id="four types"),
        pytest.param(
            _spread(["8070", "8140", "8500", "8120", "8720", "9440", "8310"], 70), id="codes"
        ),
        pytest.param(_spread(_numbers(0, 31), 400), id="32 classes by number"),
        pytest.param(_spread(_numbers(1, 20), 200), id="20 classes by number from 1"),
        pytest.param([f"site_{n}" for n in range(30)], id="names with numbers"),
        pytest.param([f"{n}a" if n % 2 else f"{n}b" for n in range(20)], id="stages with letters"),
        pytest.param(["3+4", "4+3", "4+4", "5+4", "3+3", "4+5", "5+5"], id="Gleason patterns"),
        pytest.param([*_numbers(60, 80), "benign"], id="a name among them"),
        pytest.param(["NA", "nan", "-"], id="nothing"),
        pytest.param([f"8{n}40/3" for n in range(10)], id="morphology codes"),
    ],
)
def test_classes(labels: list[str]) -> None:
    assert not are_measured(labels)
