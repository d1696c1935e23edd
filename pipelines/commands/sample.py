"""``wsi-hr sample``: what an epoch would see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Assignments, Recipe, SamplerName, ScaleOfStore, Seed
from pipelines.commands.outcome import finish
from pipelines.terminal import stdout


def sample(
    store: Annotated[str, typer.Argument(help="What wsi-hr tile wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for tables and pictures.")],
    sampler: SamplerName = None,
    epoch: Annotated[int, typer.Option(help="Which epoch, counted from 0.", min=0)] = 0,
    mpp: ScaleOfStore = None,
    seed: Seed = None,
    recipe: Recipe = None,
    assignments: Assignments = None,
) -> None:
    """Show what an epoch of training would see: patches kept and dropped, drawn and listed."""
    from pipelines.sample import SAMPLE_FILE, sample_stage
    from pipelines.settings import resolve
    from wsi_hr.remote import place

    config = resolve(recipe, {"seed": seed, "sampler.name": sampler}, assignments)
    console = stdout()
    rows = sample_stage(place(store), out, config, epoch=epoch, mpp=mpp, console=console)
    finish(rows, out / SAMPLE_FILE, console)
