"""Plain sentences for people, on a terminal and in a log file alike."""

from __future__ import annotations

from rich.console import Console


def say(console: Console | None, *sentences: str) -> None:
    """Print one sentence a line, as it is: never wrapped, coloured or taken for markup."""
    if console is not None:
        for sentence in sentences:
            console.print(sentence, highlight=False, markup=False, emoji=False, soft_wrap=True)
