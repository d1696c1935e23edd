"""``wsi-hr predict``: a run and slides to predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Device, HashNames, MppOverride, Workers
from pipelines.commands.outcome import finish
from pipelines.sentences import say
from pipelines.terminal import stdout


def predict(
    run: Annotated[Path, typer.Argument(help="What wsi-hr train wrote.", show_default=False)],
    inputs: Annotated[
        list[str],
        typer.Argument(help="One store folder, or slides as for wsi-hr tile.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for the predictions.")],
    split: Annotated[
        str | None, typer.Option(help="Only this part of the run's splits: train, val or test.")
    ] = None,
    mpp_override: MppOverride = None,
    heatmap_px: Annotated[
        int | None, typer.Option(help="Longest edge of a heatmap.", min=128, max=8192)
    ] = None,
    workers: Workers = None,
    hash_names: HashNames = None,
    device: Device = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="tile.segmenter=MODULE:FUNCTION, where the run was tiled with a function of yours "
            "and slides are to be tiled; nothing else can be set.",
        ),
    ] = None,
) -> None:
    """Predict slides and draw what was salient; slides are tiled on the way as the run's were."""
    from pipelines.figures import in_words
    from pipelines.predict import PREDICTIONS, predict_stage
    from pipelines.settings import segmenter_option
    from wsi_hr.prediction.heatmap import RESEARCH_USE
    from wsi_hr.remote import place

    segmenter = segmenter_option(assignments)
    console = stdout()
    say(console, RESEARCH_USE)
    report = predict_stage(
        run,
        [place(given) for given in inputs],
        out,
        split=split,
        device=device or "auto",
        mpp_override=mpp_override,
        workers=workers,
        hash_names=hash_names,
        heatmap_px=heatmap_px,
        segmenter=segmenter,
        console=console,
    )
    if report.metrics:
        say(console, f"held-out slides: {in_words(report.metrics)}")
    rows = [
        {"slide_id": row.slide_id, "status": row.status, "reason": row.reason}
        for row in report.rows
    ]
    finish(rows, out / PREDICTIONS, console)
