"""The command line: a shell over the stages; its commands are files of ``pipelines.commands``."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from pipelines.commands.demo import demo
from pipelines.commands.doctor import doctor
from pipelines.commands.export import export
from pipelines.commands.info import info
from pipelines.commands.outcome import (
    EXIT_BAD_REQUEST,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    complain,
)
from pipelines.commands.predict import predict
from pipelines.commands.sample import sample
from pipelines.commands.show import show
from pipelines.commands.tile import tile
from pipelines.commands.train import train
from pipelines.commands.verify import verify
from pipelines.sentences import say
from pipelines.terminal import (
    flush_output,
    guard_crash,
    guard_streams,
    set_up_log,
    stderr,
    stdout,
    unguarded,
)
from wsi_hr import __version__
from wsi_hr.errors import MidwayError, WsiHrError

logger = logging.getLogger(__name__)

_NAME = "wsi-hr"  # whatever the file is called that starts it
_OUTPUT = "standard output"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)  # no file is named: it was a stream


class _Group(typer.core.TyperGroup):
    """The program, with its help in colour."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with unguarded():
            super().format_help(ctx, formatter)


class _Command(typer.core.TyperCommand):
    """A command, with its help in colour."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with unguarded():
            super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_Group,
    name=_NAME,
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


def _print_version(wanted: bool) -> None:
    if wanted:
        say(stdout(), f"wsi-hr {__version__}")
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
    set_up_log(logging.INFO if verbose else logging.WARNING)


COMMANDS: dict[Callable[..., None], str] = {
    tile: "wsi-hr tile slides/ -o store --mpp 0.5 --patch-size 256",
    verify: "wsi-hr verify store --slides slides/",
    export: "wsi-hr export store -o clam --format clam",
    sample: "wsi-hr sample store -o sample --sampler windows",
    train: "wsi-hr train store --labels labels.csv -o run --method dbps",
    predict: "wsi-hr predict run slides/ -o predictions",
    info: "wsi-hr info slide.svs",
    show: "wsi-hr show --recipe camelyon16 --set train.epochs=20",
    doctor: "wsi-hr doctor",
    demo: "wsi-hr demo -o demo",
}
"""The commands in the order of the help, each with its example."""

for _command, _example in COMMANDS.items():
    app.command(cls=_Command, epilog=f"Example: {_example}")(_command)


def main() -> None:
    """Run the command line; errors the user can mend are one sentence and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # what a scheduler sends ends a run as Ctrl-C does
    guard_streams()
    try:
        code = app(prog_name=_NAME, standalone_mode=False)
    except WsiHrError as error:
        complain(str(error))
        code = EXIT_BAD_REQUEST
        if isinstance(error, MidwayError):
            logger.info("it comes from", exc_info=True)
            code = EXIT_SOME_FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except OSError as error:
        # no disk, no space, no permission: nothing that a store or slide reports about itself
        logger.info("the operating system said", exc_info=True)
        where = error.filename or (_OUTPUT if error.errno in _FULL else "")
        said = f"{where}: {error.strerror}" if where else str(error.strerror or error)
        complain(f"{said}; mend that and start the same command again")
        code = EXIT_SOME_FAILED
    except Exception as error:
        if not _is_usage_error(error):
            guard_crash()
            raise
        _tell_usage(error)
        code = EXIT_BAD_REQUEST
    if code == EXIT_INTERRUPTED:  # typer turns most interruptions into this exit code itself
        complain("interrupted; the same command goes on where it stopped")
    sys.exit(_heard(code if isinstance(code, int) else EXIT_DONE))


def _heard(code: int) -> int:
    """The exit code, once all that was said has gone out; 1 where the disk is full."""
    try:
        flush_output()
    except OSError as error:
        if code == EXIT_DONE:  # else it has been told
            complain(f"{_OUTPUT}: {error.strerror}; mend that and start the same command again")
            return EXIT_SOME_FAILED
    return code


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _is_usage_error(error: Exception) -> bool:
    """Whether typer's own parser complains: it is not ours to word."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _tell_usage(error: Any) -> None:
    """Say what typer's parser complains of; typer itself would write arguments as they are."""
    sentence, context = error.format_message(), getattr(error, "ctx", None)
    if not sentence:  # no arguments at all: the help was shown
        return
    if context is not None:
        say(stderr(), *context.get_usage().splitlines(), f"Help: {context.command_path} -h")
    complain(sentence)
