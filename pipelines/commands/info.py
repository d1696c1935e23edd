"""``wsi-hr info``: what a slide is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import MppOverride
from pipelines.commands.outcome import EXIT_SOME_FAILED, complain
from pipelines.terminal import stdout
from wsi_hr.errors import WsiHrError


def info(
    slides: Annotated[list[Path], typer.Argument(help="Slide files.", show_default=False)],
    mpp_override: MppOverride = None,
) -> None:
    """Tell what a slide is: vendor, levels, mpp and whose word it is, problems."""
    from pipelines.info import print_info, slide_info
    from wsi_hr.cohort.manifest import require_inputs

    console = stdout()
    require_inputs(slides)
    failed = False
    for path in slides:
        try:
            print_info(slide_info(path, mpp_override=mpp_override), console)
        except WsiHrError as error:
            complain(str(error))
            failed = True
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)
