"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Slides = Annotated[
    list[Path],
    typer.Argument(help="Slide files, folders of them, or a manifest CSV (slide, mpp).",
                   show_default=False),
]  # fmt: skip
Recipe = Annotated[
    str | None, typer.Option(help="A shipped recipe by name, or a YAML file; see wsi-hr show.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=20. Repeatable."
    ),
]
Seed = Annotated[int | None, typer.Option(help="All randomness derives from it.", min=0)]
Mpp = Annotated[
    str | None,
    typer.Option(
        help="Micrometres per patch pixel; several for one store, the main one first: 0.5,1.0",
        show_default="0.5",
    ),
]
ScaleOfStore = Annotated[
    float | None,
    typer.Option(help="Which scale of the store, if it has several.", show_default="its first"),
]
PatchSize = Annotated[
    int | None, typer.Option(help="Patch edge in pixels at that mpp.", show_default="256")
]
MppOverride = Annotated[
    float | None,
    typer.Option(help="um/px at level 0 of these slides, instead of their own word.", min=0),
]
HashNames = Annotated[
    Path | None,
    typer.Option(
        metavar="KEYFILE",
        help="Call slides by salted hashes of their names. This file, made if need be, tells them "
        "back: keep it, and apart from the output.",
    ),
]
KeyOfNames = Annotated[
    Path | None,
    typer.Option(
        "--hash-names",
        metavar="KEYFILE",
        help="The key file that slides of hashed names were tiled with.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Slides tiled at a time.", min=1, show_default="all cores, if memory allows"),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A dask cluster whose workers tile: tcp://host:8786, or its scheduler file.",
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="dbps, ips, patchgd, gd, abmil or abmilx.", show_default="dbps"),
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help="Which patches an epoch sees: random_drop, windows, checkerboard, least_similar, "
        "attention or learned.",
        show_default="random_drop",
    ),
]
EncoderName = Annotated[
    str | None, typer.Option("--encoder", help="A timm model name.", show_default="resnet18")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="auto")]
