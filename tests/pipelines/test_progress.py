"""Rates and ETA: what is done counts, also inside a slide; what was done before says nothing."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from pipelines import progress
from pipelines.progress import SlideTally, counted, slide_bar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_and_eta_follow_from_what_is_done():
    clock = Clock()
    tally = SlideTally(12, before=2, clock=clock)
    assert tally.eta_s is None
    clock.now += 50
    tally.working("a", 500, 1000)
    assert (tally.completed, tally.patches_per_s) == (2.5, 10)
    assert tally.eta_s == pytest.approx(50 * 9.5 / 0.5)
    clock.now += 50
    tally.finished("a", 1000)
    tally.finished("b", 200)
    assert (tally.num_finished, tally.completed) == (4, 4)
    assert tally.patches_per_s == pytest.approx(12)
    assert tally.slides_per_h == pytest.approx(2 * 36)
    assert tally.eta_s == pytest.approx(8 * 50)
    assert tally.sentence() == "4 of 12 slides, 12 patches/s, 72 slides/h, ETA 0:06:40"


def test_a_report_that_comes_after_its_slide_counts_no_more():
    tally = SlideTally(2)
    tally.finished("a", 10)
    tally.working("a", 9, 10)
    assert tally.completed == 1


def test_a_terminal_sees_rates_and_a_file_sees_nothing():
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=200)
        with slide_bar(console, "tiling", 3, 1) as bar:
            bar.working("a", 1, 2)
            bar.finished("a", 2)
        assert ("2 of 3 slides" in file.getvalue()) == terminal
        assert ("slides/h, ETA" in file.getvalue()) == terminal


def test_items_are_counted_on_a_terminal_and_come_in_their_order_anyway():
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=200)
        with counted(console, "looking", ["a", "b", "c"]) as items:
            assert [next(items), next(items), next(items)] == ["a", "b", "c"]
            assert next(items, "") == ""
        assert ("3/3" in file.getvalue()) == terminal
    with counted(None, "looking", [1]) as items:
        assert list(items) == [1]


def test_a_log_gets_a_line_a_minute(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO), slide_bar(None, "tiling", 3) as bar:
        bar.finished("a", 2)
    assert "tiling: 1 of 3 slides" in caplog.text


def test_days_are_told_as_days():
    assert progress.duration(59.6) == "0:01:00"
    assert progress.duration(90_000) == "1 d 1:00 h"
