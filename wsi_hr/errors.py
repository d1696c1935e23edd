"""What can go wrong in a way the user can mend. Every message says what, where and what next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WsiHrError(Exception):
    """Base of all errors that are the input's fault, not ours; the CLI prints no traceback."""


class SlideError(WsiHrError):
    """A slide cannot be opened, read or trusted (for instance: no plausible mpp)."""


class FileNameError(WsiHrError):
    """A name from a table, a store or a slide is not fit for a file, or a folder is not ours."""


class MaskError(WsiHrError):
    """A mask that somebody drew is damaged, unsafe, or does not fit its slide."""


class AnnotationError(WsiHrError):
    """Annotations that somebody drew are damaged, unsafe, or do not fit their slide or settings."""


class StoreError(WsiHrError):
    """A patch store is missing, damaged, incomplete or not ours."""


class LabelError(WsiHrError):
    """A labels table or manifest cannot be used as it is."""


class ConfigError(WsiHrError):
    """An option, recipe or ``--set`` is unknown or out of range."""


class CheckpointError(WsiHrError):
    """A run folder or checkpoint is damaged or does not fit what it is asked to do."""


class MidwayError(WsiHrError):
    """Work that was begun cannot be finished; what was finished is kept. The exit code is 1."""


class TrainingError(MidwayError):
    """Training cannot go on, for instance because the loss is no longer a number."""


class DeviceMemoryError(MidwayError):
    """The device's memory is too small for one patch at a time."""


class CoordsError(WsiHrError):
    """A file of patch coordinates is missing, damaged, or does not fit what is asked of it."""


class WriteError(MidwayError):
    """Something cannot be written: no room, no permission, a disk that is gone."""


class ReadError(MidwayError):
    """Something cannot be read just now: no permission, a disk or a share that fails."""


class StoreReadError(StoreError, ReadError):
    """A patch store cannot be read just now, which makes it neither damaged nor gone."""


@contextmanager
def reading(place: object, error: type[ReadError] = ReadError) -> Iterator[None]:
    """Tell what the operating system does not give of ``place``.

    Args:
        place: what is read, as the user is told of it.
        error: as which it is told.

    Raises:
        ReadError: instead of any ``OSError``.
    """
    try:
        yield
    except OSError as cause:
        raise error(
            f"{place}: cannot be read ({cause.strerror or cause}); see that the disk is there and "
            "lets you, then start the same command again"
        ) from cause


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Tell what the operating system does not take of ``place``, whoever found it out.

    Args:
        place: what is written, as the user is told of it. Of two such contexts the inner one tells.

    Raises:
        WriteError: instead of any ``OSError``.
    """
    try:
        yield
    except OSError as cause:
        raise WriteError(
            f"{place}: cannot be written ({cause.strerror or cause}); make room, or see that you "
            "may write there, then start the same command again"
        ) from cause
