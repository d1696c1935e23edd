"""``wsi-hr verify``: stores read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import KeyOfNames
from pipelines.commands.outcome import EXIT_SOME_FAILED
from pipelines.sentences import say
from pipelines.terminal import stdout


def verify(
    stores: Annotated[
        list[str],
        typer.Argument(help="What wsi-hr tile wrote, or single stores.", show_default=False),
    ],
    slides: Annotated[
        list[Path] | None,
        typer.Option(help="Also compare the slides with those that were tiled. Repeatable."),
    ] = None,
    hash_names: KeyOfNames = None,
) -> None:
    """Read every file of the stores back and say what is missing, changed or left over."""
    from pipelines.verify import verify_stage
    from wsi_hr.remote import place

    console = stdout()
    report = verify_stage(
        [place(store) for store in stores], slides or (), hash_names=hash_names, console=console
    )
    say(console, *report.sentences, report.summary)
    if report.sentences:
        raise typer.Exit(EXIT_SOME_FAILED)
