"""One progress bar for all stages; silent where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(
    console: Console | None, what: str, total: int
) -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(steps, note)``; draws a bar with ETA on a terminal and nothing elsewhere."""
    if console is None or not console.is_terminal:
        yield lambda steps, note: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, note="")

        def advance(steps: int, note: str) -> None:
            progress.update(task, advance=steps, note=note)

        yield advance
