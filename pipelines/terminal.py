r"""The one door to the terminal: whatever names and tables hold is shown there, never obeyed.

File names, labels, class names, cells, what a vendor wrote into a slide, and messages that quote
them may hold characters that command a terminal (ESC and other controls), turn the text around
them (directions), or are not seen (zero width). People are shown an escape such as ``\x1b`` or
``\u202e`` instead. Letters of all scripts stay as they are. Joiners (U+200C, U+200D), which some
scripts write with, are shown too: who compares two names must see in what they differ. Files keep
the true names.

Everything goes through here: sentences and tables through a :class:`ShownConsole`, logs through a
:class:`ShownFormatter`, and what goes around them, such as warnings of libraries and tracebacks,
through the streams that :func:`guard_streams` puts in the place of the process's own. Only what a
console adds, its colours and the movements of a progress bar, is written as it is.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import re
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment

_PRINTABLE_ASCII = re.compile(r"[ -~]*")
_LAYOUT = "\n\t"  # of the program itself; names have neither, see ``shown``


def shown(text: object) -> str:
    """``text`` as one line that commands nothing: whatever is no visible character is escaped.

    These are the categories of Unicode that begin with C (controls, formats, surrogates, private,
    unassigned), and the separators of lines and paragraphs.
    """
    return _escaped(str(text), "")


def _escaped(text: str, kept: str) -> str:
    if _PRINTABLE_ASCII.fullmatch(text):
        return text
    return "".join(
        character if character in kept or _is_seen(character) else _escape(character)
        for character in text
    )


@lru_cache(maxsize=4096)
def _is_seen(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class ShownConsole(Console):
    """A console of rich that writes its own control sequences, and nobody else's.

    Text is never taken for markup or emoji codes. Line breaks stay: sentences that hold names go
    through :func:`pipelines.sentences.say`, which has one line for each.

    Args:
        file: where it writes.
        options: of the console, for tests.
    """

    def __init__(self, file: TextIO, **options: Any) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What rich would write, its texts escaped."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _escaped(text, _LAYOUT), style, control)


class ShownFormatter(logging.Formatter):
    """Log records as lines: a message is one, whatever names it quotes."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of a traceback below it."""
        record = copy.copy(record)  # other handlers get what was logged
        record.msg, record.args, record.exc_text = shown(record.getMessage()), (), None
        return super().format(record)

    def formatException(  # noqa: N802, logging calls it so
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """A traceback."""
        return "" if ei[1] is None else _shown_traceback(ei[1]).rstrip("\n")


class ShownStream:
    """A stream that escapes whatever is written to it; line breaks and tabs stay.

    Args:
        beneath: the stream that it writes to.
    """

    def __init__(self, beneath: TextIO) -> None:
        self.beneath = beneath

    def write(self, text: str) -> int:
        """Write it, escaped; as many characters as were given count as written."""
        self.beneath.write(_escaped(text, _LAYOUT))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):  # ways around
            raise AttributeError(name)
        return getattr(self.beneath, name)


def guard_streams() -> None:
    """Put a :class:`ShownStream` in the place of the process's output and error streams.

    Log handlers that hold one of them get the new one. Warnings are one line each, whatever names
    they quote. More than once is as good as once.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, ShownStream):
            continue
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # letters that this terminal has not
        guarded = ShownStream(stream)
        setattr(sys, name, guarded)
        for handler in _handlers():
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(guarded)
    warnings.formatwarning = _shown_warning
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # drawn with carriage returns


def guard_crash() -> None:
    """Have the traceback of what now ends the process told like one in a log.

    Typer puts a hook of its own there whenever it starts.
    """
    sys.excepthook = _show_crash


def guard_worker() -> None:
    """Do as :func:`guard_streams` in a process that others started, and give it a log if need be.

    A worker of a dask cluster logs what it is told of slides to wherever it was started.
    """
    guard_streams()
    if not logging.getLogger().handlers:
        set_up_log(logging.WARNING)


def _handlers() -> Iterator[logging.Handler]:
    """Those of all loggers."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        yield from getattr(logger, "handlers", ())


@contextmanager
def unguarded() -> Iterator[None]:
    """For output in which there is nothing but the program's own words and colours: its help."""
    guarded = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_beneath, guarded)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = guarded


def stdout() -> ShownConsole:
    """Where results are said; made anew each time, for the stream may have been exchanged."""
    return ShownConsole(_beneath(sys.stdout))


def stderr() -> ShownConsole:
    """Where logs and errors are said."""
    return ShownConsole(_beneath(sys.stderr), stderr=True)


def _beneath(stream: TextIO) -> TextIO:
    return cast(ShownStream, stream).beneath if isinstance(stream, ShownStream) else stream


def set_up_log(level: int) -> None:
    """Log to the error stream; a file gets whole lines, a terminal wrapped ones in colour."""
    console = stderr()
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_time=False)
        handler.setFormatter(ShownFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def flush_output() -> None:
    """Have all that was said go out.

    Raises:
        OSError: it cannot; it is not tried again when the process ends.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _show_crash(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    sys.stderr.write(_shown_traceback(error))


def _shown_traceback(error: BaseException) -> str:
    """The lines of a traceback, each message in it on one."""
    return "".join(
        # what begins with a blank is a frame, or stands between two tracebacks
        _escaped(part, _LAYOUT) if part[:1].isspace() else f"{shown(part.rstrip())}\n"
        for part in traceback.format_exception(error)
    )


def _shown_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    return f"{shown(filename)}:{lineno}: {category.__name__}: {shown(message)}\n"
