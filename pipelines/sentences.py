"""Plain sentences for people, on a terminal and in a log file alike."""

from __future__ import annotations

from rich.console import Console

from pipelines.terminal import shown


def say(console: Console | None, *sentences: str) -> None:
    """Print one sentence a line, as it is: never wrapped, coloured or taken for markup."""
    if console is not None:
        for sentence in sentences:
            text = shown(sentence)
            console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
