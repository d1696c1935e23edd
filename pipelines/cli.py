"""The command line: a shell over the stages. Everything heavy is imported inside a command."""

from __future__ import annotations

import io
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from pipelines.sentences import say
from wsi_hr import __version__
from wsi_hr.errors import TrainingError, WsiHrError

if TYPE_CHECKING:
    from wsi_hr.config import TileConfig
    from wsi_hr.remote import Place

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_BAD_REQUEST = 2
EXIT_INTERRUPTED = 130

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="wsi-hr",
    help="Train on gigapixel whole-slide images end to end, and see what the model saw.\n\n"
    "Slides -> [bold]tile[/bold] -> patch stores -> [bold]train[/bold] -> run -> "
    "[bold]predict[/bold] -> predictions and heatmaps.\n\n"
    "Exit codes: 0 all done, 1 some slides failed (listed), 2 the request was wrong, "
    "130 interrupted (the same command goes on).",
    epilog="First time here? wsi-hr demo -o demo   For Research Use Only.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
Workers = Annotated[
    int | None, typer.Option(help="Slides tiled at a time.", min=1, show_default="all cores")
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


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"wsi-hr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    stderr = _stderr()
    # a log file gets whole lines; only a terminal gets them wrapped and in colour
    handler = (
        RichHandler(console=stderr, show_path=False, show_time=False)
        if stderr.is_terminal
        else logging.StreamHandler()
    )
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s" if stderr.is_terminal else "%(levelname)s: %(message)s",
        handlers=[handler],
        force=True,
    )


@app.command(epilog="Example: wsi-hr tile slides/ -o store --mpp 0.5 --patch-size 256")
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
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only tell patches, bytes and hours, and if the disk fits."),
    ] = False,
    recipe: Recipe = None,
    assignments: Assignments = None,
) -> None:
    """Cut slides into patch stores with tissue masks; every slide ends in STORE/status.csv."""
    from pipelines.settings import scales_option
    from pipelines.tile import tile_stage
    from wsi_hr.remote import place

    asked = {"tile.patch_size": patch_size, "tile.resample": resample, **scales_option(mpp)}
    config = _resolve(recipe, asked, assignments)
    console, where = _stdout(), place(store)
    if dry_run:
        _tell_plan(
            slides, where, config.tile, mpp_override, coords, masks, workers, scheduler, console
        )
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
        console=console,
    )
    _finish(rows, where / "status.csv", console)


@app.command(epilog="Example: wsi-hr verify store --slides slides/")
def verify(
    stores: Annotated[
        list[str],
        typer.Argument(help="What wsi-hr tile wrote, or single stores.", show_default=False),
    ],
    slides: Annotated[
        list[Path] | None,
        typer.Option(help="Also compare the slides with those that were tiled. Repeatable."),
    ] = None,
) -> None:
    """Read every file of the stores back and say what is missing, changed or left over."""
    from pipelines.verify import verify_stage
    from wsi_hr.remote import place

    console = _stdout()
    report = verify_stage([place(store) for store in stores], slides or (), console=console)
    say(console, *report.sentences, report.summary)
    if report.sentences:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command(epilog="Example: wsi-hr export store -o clam --format clam")
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

    console = _stdout()
    rows = export_stage(place(store), out, form, mpp=mpp, console=console)
    _finish(rows, out / EXPORT_FILE, console)


@app.command(epilog="Example: wsi-hr sample store -o sample --sampler windows")
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
    from wsi_hr.remote import place

    config = _resolve(recipe, {"seed": seed, "sampler.name": sampler}, assignments)
    console = _stdout()
    rows = sample_stage(place(store), out, config, epoch=epoch, mpp=mpp, console=console)
    _finish(rows, out / SAMPLE_FILE, console)


@app.command(epilog="Example: wsi-hr train store --labels labels.csv -o run --method dbps")
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
    annotations: Annotated[
        Path | None,
        typer.Option(help="Folder of polygons: SLIDE_ID.geojson or .json (QuPath), .xml (ASAP)."),
    ] = None,
    mpp: ScaleOfStore = None,
    device: Device = None,
    seed: Seed = None,
    recipe: Recipe = None,
    assignments: Assignments = None,
) -> None:
    """Train a slide classifier end to end; started again after a kill, it goes on."""
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
    source = LabelsSource(labels, slide_column, label_column, patient_column)
    console = _stdout()
    config = _resolve(recipe, options, assignments)
    report = train_stage(
        place(store), source, run, config, console, mpp=mpp, annotations=annotations
    )
    if report.test:
        say(console, f"held-out slides: {_metrics(report.test)}")
    say(console, f"next: wsi-hr predict {run} SLIDES -o OUT")


@app.command(epilog="Example: wsi-hr predict run slides/ -o predictions")
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
    device: Device = None,
) -> None:
    """Predict slides and draw what was salient; slides are tiled on the way as the run's were."""
    from pipelines.predict import PREDICTIONS, predict_stage
    from wsi_hr.prediction.heatmap import RESEARCH_USE
    from wsi_hr.remote import place

    console = _stdout()
    say(console, RESEARCH_USE)
    report = predict_stage(
        run,
        [place(given) for given in inputs],
        out,
        split=split,
        device=device or "auto",
        mpp_override=mpp_override,
        workers=workers,
        heatmap_px=heatmap_px,
        console=console,
    )
    if report.metrics:
        say(console, f"held-out slides: {_metrics(report.metrics)}")
    rows = [
        {"slide_id": row.slide_id, "status": row.status, "reason": row.reason}
        for row in report.rows
    ]
    _finish(rows, out / PREDICTIONS, console)


@app.command(epilog="Example: wsi-hr info slide.svs")
def info(
    slides: Annotated[list[Path], typer.Argument(help="Slide files.", show_default=False)],
    mpp_override: MppOverride = None,
) -> None:
    """Tell what a slide is: vendor, levels, mpp and whose word it is, problems."""
    from pipelines.info import print_info, slide_info

    console = _stdout()
    failed = False
    for path in slides:
        try:
            print_info(slide_info(path, mpp_override=mpp_override), console)
        except WsiHrError as error:
            _complain(str(error))
            failed = True
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command(epilog="Example: wsi-hr show --recipe camelyon16 --set train.epochs=20")
def show(
    recipe: Recipe = None,
    assignments: Assignments = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the shipped recipes.")] = False,
) -> None:
    """Print the resolved settings, as YAML that --recipe takes back."""
    from pipelines.settings import recipe_names
    from wsi_hr.config import dump_config

    if recipes:
        print("\n".join(recipe_names()))
        return
    print(dump_config(_resolve(recipe, {}, assignments)), end="")


@app.command(epilog="Example: wsi-hr doctor")
def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="Where you mean to write; its disk is checked.")
    ] = None,
) -> None:
    """Check versions, GPU, codecs, disk and shared memory; say what is wrong and how to mend it."""
    from pipelines.doctor import print_checks, run_checks

    checks = run_checks(folder)
    print_checks(checks, _stdout())
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command(epilog="Example: wsi-hr demo -o demo")
def demo(
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything.")],
    method: Annotated[str, typer.Option(help="dbps or patchgd.")] = "dbps",
    seed: Annotated[int, typer.Option(help="Another cohort, another start.", min=0)] = 0,
    workers: Workers = None,
    assignments: Assignments = None,
) -> None:
    """See it work: make slides with planted lesions, tile, train, predict, measure."""
    from pipelines.demo import print_report, run_demo

    console = _stdout()
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


def main() -> None:
    """Run the command line; errors the user can mend are one sentence and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # what a scheduler sends ends a run as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = app(standalone_mode=False)
    except WsiHrError as error:
        _complain(str(error))
        code = EXIT_SOME_FAILED if isinstance(error, TrainingError) else EXIT_BAD_REQUEST
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except OSError as error:
        # no disk, no space, no permission: nothing that a store or slide reports about itself
        logger.info("the operating system said", exc_info=True)
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}; mend that and start the same command again")
        code = EXIT_SOME_FAILED
    except Exception as error:
        if not _is_usage_error(error):
            raise
        error.show()  # pyright: ignore[reportAttributeAccessIssue]
        code = EXIT_BAD_REQUEST
    if code == EXIT_INTERRUPTED:  # typer turns most interruptions into this exit code itself
        _complain("interrupted; the same command goes on where it stopped")
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _is_usage_error(error: Exception) -> bool:
    """Whether typer's own parser complains: it is not ours to word, only its exit code is."""
    return hasattr(error, "show") and hasattr(error, "exit_code")


def _resolve(recipe: str | None, options: dict[str, Any], assignments: list[str] | None):
    from pipelines.settings import resolve

    return resolve(recipe, options, assignments)


def _finish(rows: list[dict[str, str]], table: Place, console: Console) -> None:
    """Say how many slides ended how, list the failures, and exit 1 if there are any."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    for row in rows:
        if row["status"] != "done":
            say(console, f"{row['status']}: {row['slide_id']}: {row['reason']}")
    total = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    say(console, f"{len(rows)} slides: {total}; see {table}")
    if counts.get("failed"):
        raise typer.Exit(EXIT_SOME_FAILED)


def _tell_plan(
    slides: list[Path],
    store: Place,
    config: TileConfig,
    mpp_override: float | None,
    coords: Path | None,
    masks: Path | None,
    workers: int | None,
    scheduler: str | None,
    console: Console,
) -> None:
    """Say what tiling would take; exit 2 where the disk has no room, 1 where slides would fail."""
    from pipelines.dry_run import dry_run, print_dry_run
    from wsi_hr.errors import ConfigError

    if not isinstance(store, Path):
        raise ConfigError(
            f"--dry-run -o {store}: looks whether a disk has room; give a folder for the plan"
        )
    plan = dry_run(
        slides,
        store,
        config,
        mpp_override=mpp_override,
        coords=coords,
        masks=masks,
        workers=workers,
        scheduler=scheduler,
        console=console,
    )
    print_dry_run(plan, store, console)
    if not plan.fits:
        raise typer.Exit(EXIT_BAD_REQUEST)
    if any(row["status"] == "failed" for row in plan.rows):
        raise typer.Exit(EXIT_SOME_FAILED)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def _complain(sentence: str) -> None:
    say(_stderr(), f"error: {sentence}")


def _stdout() -> Console:
    return Console()


def _stderr() -> Console:
    return Console(stderr=True)
