"""Work on a slide in a process of its own, which may crash, hang or eat memory harmlessly.

OpenSlide and its decoders are C: a damaged file can abort the process, loop in it, or ask for
gigabytes. So a slide is read in a child with a deadline and a memory limit.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, TypeVar

from wsi_hr.errors import SlideError, WsiHrError, writing
from wsi_hr.scratch import temporary_folder
from wsi_hr.slides.isolate_server import REPORT, REQUEST
from wsi_hr.slides.reporting import Listener

logger = logging.getLogger(__name__)

T = TypeVar("T")

PRELOAD = ("wsi_hr.tiling.tile", "wsi_hr.tiling.spans")
"""Imported once by the process that forks the children; names only, so that nothing is imported
here."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from wsi_hr.slides.isolate_server import serve; serve(int(sys.argv[2]), sys.argv[3:])"
)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads do not fork well
_LONGEST_S = 1e8  # three years; the system's timers know no infinity
_MOST_GIB = 2.0**20
_LAST_WORDS = 65_536  # bytes of a dead child's stderr that are looked at
_OUT_OF_MEMORY = (b"MemoryError", b"failed to allocate", b"out of memory", b"bad_alloc")
_REPORT_S = 10.0  # a killed child is reaped in milliseconds, unless its disk hangs
_STOP_S = 5.0
_CANCEL_POLL_S = 0.25


def run_isolated(
    fn: Callable[..., T],
    /,
    *args: Any,
    deadline_s: float,
    memory_gib: float,
    on_progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> T:
    """Call ``fn(*args)`` in a child process and return what it returns.

    Several threads may do so at once, in any kind of process. The child is killed at its deadline,
    and when the caller is interrupted or dies. Its log records are handled here.

    Args:
        fn: a function of a module, known by its name there.
        args: can be pickled, as the result can; the first path among them names the slide in
            messages.
        deadline_s: seconds after which the child is killed.
        memory_gib: GiB by which its writable memory may grow.
        on_progress: told what ``fn`` reports by :func:`wsi_hr.slides.reporting.report_progress`.
        cancelled: asked several times a second; once it is true the child is killed.

    Raises:
        SlideError: the child died, took too long or used too much memory.
        WriteError: ``TMPDIR`` is full.
        CancelledError: ``cancelled`` was true.
        Exception: what ``fn`` raised, with the child's traceback as a note unless it is a
            ``WsiHrError``.
    """
    what = next((str(arg) for arg in args if isinstance(arg, Path)), getattr(fn, "__name__", "?"))
    call = pickle.dumps((fn, args))
    deadline_s, memory_gib = min(deadline_s, _LONGEST_S), min(memory_gib, _MOST_GIB)
    with writing(temporary_folder()):
        stderr = tempfile.TemporaryFile()  # noqa: SIM115, it is closed below
    with stderr:
        try:
            messages, control = _server().start(stderr, deadline_s)
        except OSError as cause:
            raise SlideError(f"{what}: no process could be started for it ({cause})") from cause
        try:
            with suppress(OSError):  # a child that is dead already shows when we listen to it
                messages.send((sys.path, logging.getLogger().getEffectiveLevel(), memory_gib))
                messages.send_bytes(call)
            kind, value = _outcome(messages, on_progress, cancelled)
            timed_out, code = _report(control) if kind == "died" else (False, 0)
        finally:
            messages.close()
            control.close()  # the server kills what is still running
        if kind == "returned":
            return value
        if kind == "raised":
            error, trace = value
            if not isinstance(error, WsiHrError):
                error.add_note(f"in the process that read {what!r}:\n{trace}")
            raise error
        last_words = _tail(stderr)
        if last_words:
            logger.debug("%s: %s", what, last_words.decode(errors="replace"))
        starved = kind == "memory" or any(sign in last_words for sign in _OUT_OF_MEMORY)
        raise SlideError(
            f"{what}: {_cause_of_death(timed_out, starved, code, deadline_s, memory_gib)}"
        )


class _Server:
    """The caller's end of the process that forks."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-c", _START),
                    *(json.dumps(sys.path), str(theirs.fileno())),
                    *PRELOAD,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ONE_THREAD},
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, stderr: IO[bytes], deadline_s: float) -> tuple[Connection, socket.socket]:
        """Have a child forked; its messages, and the socket that keeps it alive."""
        messages, child_messages = socket.socketpair()
        control, child_control = socket.socketpair()
        with child_messages, child_control, self._lock:
            fds = [child_messages.fileno(), stderr.fileno(), child_control.fileno()]
            socket.send_fds(self._socket, [REQUEST.pack(deadline_s)], fds)
        return Connection(messages.detach()), control

    def stop(self) -> None:
        """End the process; its children are killed with it."""
        with self._lock:
            self._socket.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_servers: dict[int, _Server] = {}
_servers_lock = threading.Lock()


def _server() -> _Server:
    """The server of this process; one that was inherited by a fork is not ours."""
    with _servers_lock:
        server = _servers.get(os.getpid())
        if server is None or not server.alive:
            server = _servers[os.getpid()] = _Server()
        return server


@atexit.register
def stop_isolated() -> None:
    """Kill the children of all calls of this process, whichever threads wait for them.

    Those threads get a ``SlideError``. A later call starts anew.
    """
    with _servers_lock:
        server = _servers.pop(os.getpid(), None)
    if server is not None:
        server.stop()


def _outcome(
    messages: Connection, on_progress: Listener | None, cancelled: Callable[[], bool] | None
) -> tuple[str, Any]:
    """What the child says last; log records and progress on the way are handled."""
    while True:
        try:
            while cancelled is not None and not messages.poll(_CANCEL_POLL_S):
                if cancelled():
                    raise CancelledError
            kind, value = messages.recv()
        except (EOFError, OSError):
            return "died", None
        if kind == "progress":
            if on_progress is not None:
                on_progress(*value)
            continue
        if kind != "log":
            return kind, value
        target = logging.getLogger(value.name)
        if target.isEnabledFor(value.levelno):
            target.handle(value)


def _report(control: socket.socket) -> tuple[bool, int]:
    """Whether the deadline killed the child, and its exit code, -N for signal N."""
    control.settimeout(_REPORT_S)
    try:
        data = control.recv(REPORT.size)
    except TimeoutError:
        return True, -signal.SIGKILL
    if len(data) < REPORT.size:  # the server is gone, and all its children with it
        return False, -signal.SIGKILL
    return REPORT.unpack(data)


def _tail(stderr: IO[bytes]) -> bytes:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _LAST_WORDS))
    return stderr.read()


def _cause_of_death(
    timed_out: bool, starved: bool, code: int, deadline_s: float, memory_gib: float
) -> str:
    if timed_out or code == -signal.SIGALRM:
        return (
            f"took longer than {deadline_s:g} s and was stopped; raise tile.deadline_s if the "
            "slide is sound"
        )
    if starved:
        return (
            f"ran out of its memory limit of {memory_gib:g} GiB; raise tile.memory_gib, or save "
            "the slide as a tiled pyramid"
        )
    if code == -signal.SIGKILL:
        return (
            "the process that read it was killed by SIGKILL, as the system does when memory runs "
            "out; use fewer workers"
        )
    if code < 0:
        return (
            f"the process that read it was killed by {signal.Signals(-code).name}; the file is "
            "damaged, copy it again from its source"
        )
    return (
        f"the process that read it ended with exit code {code} and without a result; the file is "
        "damaged, copy it again from its source"
    )
