"""``wsi-hr train``: stores and labels to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import (
    Assignments,
    Device,
    EncoderName,
    KeyOfNames,
    MethodName,
    Recipe,
    SamplerName,
    ScaleOfStore,
    Seed,
)
from pipelines.sentences import say
from pipelines.terminal import stdout


def train(
    store: Annotated[str, typer.Argument(help="What wsi-hr tile wrote.", show_default=False)],
    labels: Annotated[
        Path, typer.Option(help="CSV with a slide and a label column; optional: patient, split.")
    ],
    run: Annotated[Path, typer.Option("-o", "--output", help="Folder for the run.")],
    method: MethodName = None,
    sampler: SamplerName = None,
    encoder: EncoderName = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training slides.", show_default="50")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Slides per step.", show_default="4")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="0.0003")
    ] = None,
    slide_column: Annotated[str | None, typer.Option(help="Header of the slide column.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Header of the label column.")] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Header of the patient column.")
    ] = None,
    distinct_patients: Annotated[
        Path | None,
        typer.Option(
            help="CSV of patients who differ though their names hardly do, a pair a line."
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Folder of polygons: SLIDE_ID.geojson or .json (QuPath), .xml (ASAP)."),
    ] = None,
    mpp: ScaleOfStore = None,
    hash_names: KeyOfNames = None,
    device: Device = None,
    seed: Seed = None,
    recipe: Recipe = None,
    assignments: Assignments = None,
) -> None:
    """Train a slide classifier end to end; started again after a kill, it goes on."""
    from pipelines.figures import in_words
    from pipelines.settings import resolve
    from pipelines.train import LabelsSource, train_stage
    from wsi_hr.remote import place

    options = {
        "seed": seed,
        "method.name": method,
        "sampler.name": sampler,
        "encoder.name": encoder,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.device": device,
    }
    source = LabelsSource(labels, slide_column, label_column, patient_column, distinct_patients)
    console = stdout()
    config = resolve(recipe, options, assignments)
    report = train_stage(
        place(store),
        source,
        run,
        config,
        console,
        mpp=mpp,
        annotations=annotations,
        hash_names=hash_names,
    )
    if report.test:
        say(console, f"held-out slides: {in_words(report.test)}")
    say(console, f"next: wsi-hr predict {run} SLIDES -o OUT")
