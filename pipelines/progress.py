"""One progress bar for all stages; silent where nobody watches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.terminal import shown

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOG_EVERY_S = 60.0  # for a batch system's log, with --verbose
# rich would have what others print meanwhile obeyed: it reads colours and links out of the text
_BAR: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}


@contextmanager
def progress_bar(
    console: Console | None, what: str, total: int
) -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(steps, note)``; draws a bar with ETA on a terminal and nothing elsewhere."""
    if console is None or not console.is_terminal:
        yield lambda steps, note: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, **_BAR) as progress:
        task = progress.add_task(shown(what), total=total, note="")

        def advance(steps: int, note: str) -> None:
            progress.update(task, advance=steps, note=shown(note))

        yield advance


@contextmanager
def counted(console: Console | None, what: str, items: Sequence[T]) -> Iterator[Iterator[T]]:
    """Yield ``items`` one by one, with a bar as :func:`progress_bar` draws it."""
    with progress_bar(console, what, len(items)) as advance:

        def one_by_one() -> Iterator[T]:
            for item in items:
                yield item
                advance(1, "")

        yield one_by_one()


class SlideTally:
    """How much of many slides is done, how fast it goes, and how long the rest will take.

    A slide that is being worked on counts for the part of its patches that is done. Thread-safe.

    Args:
        total: slides in all.
        before: slides that were finished before this began; they say nothing about speed.
        clock: seconds from some moment on.
    """

    def __init__(
        self, total: int, before: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = total
        self.num_finished = before
        self._before = before
        self._patches = 0
        self._working: dict[str, tuple[int, int]] = {}
        self._ended: set[str] = set()  # a cluster's reports may come after the slide itself
        self._clock = clock
        self._begun = clock()
        self._lock = threading.Lock()

    def working(self, slide_id: str, done: int, total: int) -> None:
        """A slide has ``done`` of its ``total`` patches."""
        with self._lock:
            if slide_id not in self._ended:
                self._working[slide_id] = (done, total)

    def finished(self, slide_id: str, num_patches: int) -> None:
        """A slide has ended, with so many patches."""
        with self._lock:
            _, reported = self._working.pop(slide_id, (0, 0))
            self._ended.add(slide_id)
            self._patches += max(num_patches, reported)  # several mpp: the row counts the main one
            self.num_finished += 1

    @property
    def completed(self) -> float:
        """Slides done, those being worked on in part."""
        with self._lock:
            parts = sum(done / max(total, 1) for done, total in self._working.values())
        return min(self.num_finished + parts, self.total)

    @property
    def patches_per_s(self) -> float:
        """Patches a second since this began."""
        with self._lock:
            patches = self._patches + sum(done for done, _ in self._working.values())
        return patches / max(self._clock() - self._begun, 1e-9)

    @property
    def slides_per_h(self) -> float:
        """Slides an hour since this began, those being worked on in part."""
        return (self.completed - self._before) * 3600 / max(self._clock() - self._begun, 1e-9)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last slide is done at this speed; None: nothing is done yet."""
        pace = self.slides_per_h / 3600
        return (self.total - self.completed) / pace if pace > 0 else None

    def sentence(self) -> str:
        """All of that, for people."""
        eta = "ETA unknown" if self.eta_s is None else f"ETA {duration(self.eta_s)}"
        return (
            f"{self.num_finished} of {self.total} slides, {self.patches_per_s:.0f} patches/s, "
            f"{self.slides_per_h:.0f} slides/h, {eta}"
        )


class SlideBar:
    """Shows a tally: as a bar on a terminal, as a line a minute in a log, else not at all."""

    def __init__(self, tally: SlideTally, progress: Progress | None, what: str) -> None:
        self._tally, self._progress, self._what = tally, progress, what
        self._task: TaskID | None = None
        if progress is not None:
            self._task = progress.add_task(shown(what), total=tally.total, note=tally.sentence())
        self._logged = time.monotonic()
        self._show()

    def working(self, slide_id: str, done: int, total: int) -> None:
        """A slide has ``done`` of its ``total`` patches."""
        self._tally.working(slide_id, done, total)
        self._show()

    def finished(self, slide_id: str, num_patches: int) -> None:
        """A slide has ended, with so many patches."""
        self._tally.finished(slide_id, num_patches)
        self._show()

    def _show(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=self._tally.completed, note=self._tally.sentence()
            )
        if time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._logged = time.monotonic()
            logger.info("%s: %s", self._what, self._tally.sentence())


@contextmanager
def slide_bar(
    console: Console | None, what: str, total: int, before: int = 0
) -> Iterator[SlideBar]:
    """Yield a bar over ``total`` slides, ``before`` of them finished earlier."""
    tally = SlideTally(total, before)
    if console is None or not console.is_terminal:
        yield SlideBar(tally, None, what)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, **_BAR) as progress:
        yield SlideBar(tally, progress, what)


def duration(seconds: float) -> str:
    """``1 d 2:03 h`` or ``2:03:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours}:{minutes:02} h" if days else f"{hours}:{minutes:02}:{rest:02}"
