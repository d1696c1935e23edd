"""How a command ends: what it says, and its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pipelines.sentences import say
from pipelines.terminal import stderr

if TYPE_CHECKING:
    from rich.console import Console

    from wsi_hr.remote import Place

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_BAD_REQUEST = 2
EXIT_INTERRUPTED = 130


def finish(rows: list[dict[str, str]], table: Place, console: Console) -> None:
    """Say how many slides ended how, list the failures, and exit 1 if there are any."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    for row in rows:
        if row["status"] != "done":
            say(console, f"{row['status']}: {row['slide_id']}: {row['reason']}")
    total = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    say(console, f"{len(rows)} slides: {total}; see {table}")
    if counts.get("failed"):
        raise typer.Exit(EXIT_SOME_FAILED)


def complain(sentence: str) -> None:
    """Say what went wrong, where it does not mix with results."""
    say(stderr(), f"error: {sentence}")
