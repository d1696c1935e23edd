"""``wsi-hr tile``: slides to stores, or what that would take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipelines.commands.options import (
    Assignments,
    HashNames,
    Mpp,
    MppOverride,
    PatchSize,
    Recipe,
    Scheduler,
    Slides,
    Workers,
)
from pipelines.commands.outcome import EXIT_BAD_REQUEST, EXIT_SOME_FAILED, finish
from pipelines.terminal import stdout

if TYPE_CHECKING:
    from pipelines.dry_run import DryRun
    from wsi_hr.remote import Place


def tile(
    slides: Slides,
    store: Annotated[
        str, typer.Option("-o", "--output", help="Folder for the patch stores, or s3://... .")
    ],
    mpp: Mpp = None,
    patch_size: PatchSize = None,
    resample: Annotated[
        str | None,
        typer.Option(
            help="fast: the JPEG decoder reduces; exact: areas are averaged.", show_default="fast"
        ),
    ] = None,
    mpp_override: MppOverride = None,
    coords: Annotated[
        Path | None,
        typer.Option(help="Folder of CLAM or TRIDENT .h5 files with the patches to cut."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of masks: SLIDE_ID.png, .geojson (QuPath) or .xml (ASAP)."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    hash_names: HashNames = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only tell patches, bytes and hours, and if the disk fits."),
    ] = False,
    recipe: Recipe = None,
    assignments: Assignments = None,
) -> None:
    """Cut slides into patch stores with tissue masks; every slide ends in STORE/status.csv."""
    from pipelines.settings import resolve, scales_option
    from pipelines.tile import tile_stage
    from wsi_hr.remote import place

    asked = {"tile.patch_size": patch_size, "tile.resample": resample, **scales_option(mpp)}
    config = resolve(recipe, asked, assignments)
    console, where = stdout(), place(store)
    if dry_run:
        from pipelines.dry_run import dry_run as look_ahead

        folder = _require_folder(where)
        plan = look_ahead(
            slides,
            folder,
            config.tile,
            mpp_override=mpp_override,
            coords=coords,
            masks=masks,
            workers=workers,
            scheduler=scheduler,
            hash_names=hash_names,
            console=console,
        )
        _tell(plan, folder, console)
        return
    rows = tile_stage(
        slides,
        where,
        config.tile,
        mpp_override=mpp_override,
        coords=coords,
        masks=masks,
        workers=workers,
        scheduler=scheduler,
        hash_names=hash_names,
        console=console,
    )
    finish(rows, where / "status.csv", console)


def _require_folder(store: Place) -> Path:
    if isinstance(store, Path):
        return store
    from wsi_hr.errors import ConfigError

    raise ConfigError(
        f"--dry-run -o {store}: looks whether a disk has room; give a folder for the plan"
    )


def _tell(plan: DryRun, store: Path, console: Console) -> None:
    """Say what tiling would take; exit 2 where the disk has no room, 1 where slides would fail."""
    from pipelines.dry_run import print_dry_run

    print_dry_run(plan, store, console)
    if not plan.fits:
        raise typer.Exit(EXIT_BAD_REQUEST)
    if any(row["status"] == "failed" for row in plan.rows):
        raise typer.Exit(EXIT_SOME_FAILED)
