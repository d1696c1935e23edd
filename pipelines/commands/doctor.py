"""``wsi-hr doctor``: what is wrong with this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.outcome import EXIT_SOME_FAILED
from pipelines.terminal import stdout


def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="Where you mean to write; its disk is checked.")
    ] = None,
) -> None:
    """Check versions, GPU, codecs, disk and shared memory; say what is wrong and how to mend it."""
    from pipelines.doctor import print_checks, run_checks

    checks = run_checks(folder)
    print_checks(checks, stdout())
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(EXIT_SOME_FAILED)
