"""``wsi-hr demo``: the whole way, on slides made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Assignments, Workers
from pipelines.commands.outcome import EXIT_SOME_FAILED
from pipelines.terminal import stdout


def demo(
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything.")],
    method: Annotated[str, typer.Option(help="dbps or patchgd.")] = "dbps",
    seed: Annotated[int, typer.Option(help="Another cohort, another start.", min=0)] = 0,
    workers: Workers = None,
    assignments: Assignments = None,
) -> None:
    """See it work: make slides with planted lesions, tile, train, predict, measure."""
    from pipelines.demo import print_report, run_demo

    console = stdout()
    report = run_demo(
        out,
        seed=seed,
        method=method,
        workers=workers,
        assignments=assignments or (),
        console=console,
    )
    print_report(report, out, console)
    if report.shortfalls:
        raise typer.Exit(EXIT_SOME_FAILED)
