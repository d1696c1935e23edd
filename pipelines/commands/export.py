"""``wsi-hr export``: stores to files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import ScaleOfStore
from pipelines.commands.outcome import finish
from pipelines.terminal import stdout


def export(
    store: Annotated[str, typer.Argument(help="What wsi-hr tile wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="clam or trident: coordinates; webdataset, png or jpeg: pixels."
        ),
    ],
    mpp: ScaleOfStore = None,
) -> None:
    """Write patches as files of other programs; what is there already is kept."""
    from pipelines.export import EXPORT_FILE, export_stage
    from wsi_hr.remote import place

    console = stdout()
    rows = export_stage(place(store), out, form, mpp=mpp, console=console)
    finish(rows, out / EXPORT_FILE, console)
