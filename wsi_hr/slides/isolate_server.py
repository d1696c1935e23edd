"""The forking side of :mod:`wsi_hr.slides.isolate`: one clean process that forks a child per call.

It has the heavy imports done and no threads of its own, so a child starts in milliseconds and
inherits no lock that somebody held. A job lives exactly as long as the caller keeps its control
socket open: when the caller ends, by whatever death, the kernel closes it and the child is killed
from here, even one that is stuck in C code. If this process dies, the kernel kills the children.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from wsi_hr.slides.reporting import listen

REQUEST = struct.Struct("!d")  # seconds until the child is killed
REPORT = struct.Struct("!?i")  # whether the deadline killed it; its exit code, -N for signal N
NUM_FDS = 3  # with a request: the child's connection, its stderr, the control socket

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0  # the child's own alarm, should this process be stopped, rings this much later
_LONGEST_WAIT_S = 3600.0  # epoll counts milliseconds in 32 bits
_BYTES_PER_GIB = 1 << 30
_STATM_DATA = 5  # the field of /proc/self/statm that RLIMIT_DATA limits


@dataclass
class _Job:
    """A running child and the socket its caller holds the other end of."""

    pid: int
    control: socket.socket
    deadline: float
    timed_out: bool = False


def serve(listen_fd: int, preload: list[str]) -> None:
    """Fork children on request until the other end of ``listen_fd`` is closed."""
    for name in preload:
        with suppress(ImportError):  # what is really missing fails where it is used, and says so
            importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's affair
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    listener = socket.socket(fileno=listen_fd)
    jobs: dict[int, _Job] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            first = min((job.deadline for job in jobs.values()), default=math.inf)
            for key, _ in selector.select(min(max(0.0, first - time.monotonic()), _LONGEST_WAIT_S)):
                if key.fileobj is listener:
                    job = _accept(listener, [known.fd for known in selector.get_map().values()])
                    if job is None:
                        return  # and with this process end all children
                    jobs[job.pid] = job
                    selector.register(job.control, selectors.EVENT_READ, job)
                elif key.fileobj == wake_read:
                    with suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                else:  # the caller let go: it has its result, gave up, or is dead
                    _kill(key.data)
                    selector.unregister(key.fileobj)
            for job in jobs.values():
                if job.deadline <= time.monotonic():
                    job.timed_out, job.deadline = True, math.inf
                    _kill(job)
            _reap(jobs, selector)


def _accept(listener: socket.socket, own_fds: list[int]) -> _Job | None:
    """Start the job that was asked for; None where nobody can ask any more."""
    data, fds, _, _ = socket.recv_fds(listener, REQUEST.size, NUM_FDS)
    if len(data) < REQUEST.size or len(fds) < NUM_FDS:
        return None
    messages_fd, stderr_fd, control_fd = fds
    (deadline_s,) = REQUEST.unpack(data)
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        for fd in (*own_fds, control_fd):
            os.close(fd)
        _be_child(server, messages_fd, stderr_fd, deadline_s)
    os.close(messages_fd)
    os.close(stderr_fd)
    return _Job(pid, socket.socket(fileno=control_fd), time.monotonic() + deadline_s)


def _kill(job: _Job) -> None:
    """Kill a child that was not reaped yet: its number is still its own."""
    os.kill(job.pid, signal.SIGKILL)


def _reap(jobs: dict[int, _Job], selector: selectors.BaseSelector) -> None:
    """Tell the callers of the children that ended how they ended."""
    for pid in list(jobs):
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            continue
        job = jobs.pop(pid)
        with suppress(KeyError):
            selector.unregister(job.control)
        with suppress(OSError):
            job.control.send(REPORT.pack(job.timed_out, os.waitstatus_to_exitcode(status)))
        job.control.close()


def _be_child(server: int, messages_fd: int, stderr_fd: int, deadline_s: float) -> None:
    """Do one call and end; never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(code)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, deadline_s + _GRACE_S)
        os.dup2(stderr_fd, 1)  # nothing of a slide goes to the terminal but through the caller
        os.dup2(stderr_fd, 2)
        os.close(stderr_fd)
        _call(Connection(messages_fd, readable=True, writable=True))
        code = 0
    except BaseException:
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _call(messages: Connection) -> None:
    """Receive a call, make it, and send back what came of it."""
    path, log_level, memory_gib = messages.recv()
    sys.path[:] = path
    sender = _Sender(messages)
    logging.basicConfig(level=log_level, handlers=[sender], force=True)
    try:
        function, args = pickle.loads(messages.recv_bytes())
        _limit_memory(memory_gib)
        listen(lambda done, total: sender.send(("progress", (done, total))))
        outcome = ("returned", function(*args))
    except Exception as error:
        outcome = _as_message(error)
    try:
        sender.send(outcome)
    except Exception as error:  # for instance a result that cannot be pickled
        sender.send(_as_message(error))


def _limit_memory(memory_gib: float) -> None:
    """Let writable memory grow by so much; and no core dumps, which would hold pixels.

    Address space would be the wrong thing to limit: malloc reserves 64 MiB of it, and for a moment
    128, for each of many threads that never use them.
    """
    with open("/proc/self/statm", encoding="ascii") as handle:
        pages = int(handle.read().split()[_STATM_DATA])
    limit = pages * resource.getpagesize() + int(memory_gib * _BYTES_PER_GIB)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _as_message(error: Exception) -> tuple[str, Any]:
    """An error as something that surely arrives at the caller."""
    # the stack of a thread is writable memory before it is used
    no_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    if isinstance(error, MemoryError) or no_thread:
        return "memory", None
    # each message on one line, whatever names it quotes; frames begin with a blank
    trace = "".join(
        part if part[:1].isspace() else part.rstrip().replace("\n", "\\n") + "\n"
        for part in traceback.format_exception(error)
    )
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return "raised", (RuntimeError(f"{type(error).__name__}: {error}"), trace)
    return "raised", (error, trace)


class _Sender(logging.Handler):
    """Sends log records to the caller, where handlers are, and at last the outcome."""

    def __init__(self, messages: Connection):
        super().__init__()
        self._messages = messages
        self._sending = threading.Lock()
        self.setFormatter(logging.Formatter("%(message)s"))  # the caller adds the rest

    def send(self, message: tuple[str, Any]) -> None:
        """Send one message, whole, whichever threads send at the same time."""
        with self._sending:
            self._messages.send(message)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record with everything in it made text."""
        try:
            text = self.format(record)
            record.msg, record.args, record.exc_info, record.exc_text = text, None, None, None
            self.send(("log", record))
        except Exception:
            self.handleError(record)
