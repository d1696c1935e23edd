"""The real command line in one process and one thread, forked anew for every case.

A server has everything imported; for each request, a line of JSON, it forks a child that calls
``pipelines.cli.main`` under :mod:`benchmarks.crash_preload`, and answers with how that ended. So
that the k-th call of a command is always the same one, the child differs from a real run in this,
and in nothing else:

- a slide is read in this process, not in a child of its own (``run_isolated``);
- slides are worked on one after the other, not by threads of dask (``run_tasks``);
- a pool of threads does each task when it is given (``ThreadPoolExecutor``);
- tables that are written every two seconds are written at every slide;
- it runs on one core, and ends without Python's own farewell.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

HOW = {"kill": 0, "tear": 1, "short": 2, "once": 3, "on": 4}
"""How a call goes wrong: as in ``crash_preload.c``."""


@dataclass(frozen=True)
class Fault:
    """One call that goes wrong.

    Attributes:
        at: number of the call, from 0.
        how: ``kill``: the process is killed before it; ``tear``: killed when half of a write is
            done; ``short``: half of a write is done; ``once``: it fails; ``on``: it fails, and so
            do all later ones of ``kinds``.
        error: the errno of a failure.
        kinds: of calls, for ``on``.
    """

    at: int
    how: str
    error: int = 0
    kinds: Sequence[str] = ()


@dataclass(frozen=True)
class Request:
    """A command to run.

    Attributes:
        argv: its arguments.
        folders: below which calls are counted.
        scratch: its ``TMPDIR``.
        log: file for what it says.
        calls: file for the calls it makes.
        deadline_s: it is killed then.
        fault: what goes wrong; None: nothing.
    """

    argv: list[str]
    folders: list[str]
    scratch: str
    log: str
    calls: str
    deadline_s: float
    fault: Fault | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, -N for signal N.
        seconds: it took.
        timed_out: its deadline killed it.
    """

    code: int
    seconds: float
    timed_out: bool = False


class AtOnce(Executor):
    """A pool without threads: a task is done when it is given."""

    def __init__(self, *args: object, **settings: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **more))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class _Context:
    """What a task may ask and tell, as :class:`pipelines.tasks.TaskContext`."""

    told: list[object] = field(default_factory=list)

    def cancelled(self) -> bool:
        return False

    def report(self, *progress: object) -> None:
        self.told.append(progress)


def _run_isolated(fn: Callable[..., Any], /, *args: Any, **limits: object) -> Any:
    return fn(*args)


def _run_tasks(
    task: Callable[..., Any], jobs: Sequence[Any], where: object, shared: object, **more: object
) -> Iterator[Any]:
    for job in jobs:
        yield task(job, _Context())


def _replace(module: str, name: str, value: object) -> None:
    """Exchange what a module of the program has under a name that it must have."""
    found = importlib.import_module(module)
    if not hasattr(found, name):
        raise AttributeError(f"{module} has no {name} any more; adapt crash_driver.py")
    setattr(found, name, value)


def prepare(number: int) -> None:
    """Import all of the program, and exchange what would need other threads or processes.

    Args:
        number: which of the drivers at work this is, and so which core is its own.
    """
    concurrent.futures.ThreadPoolExecutor = AtOnce  # pyright: ignore[reportAttributeAccessIssue]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    for package in ("wsi_hr", "pipelines"):
        path = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(path, f"{package}."):
            importlib.import_module(module.name)
    _replace("pipelines.tile_jobs", "run_isolated", _run_isolated)
    _replace("pipelines.tile_jobs", "run_tasks", _run_tasks)
    _replace("pipelines.status", "_WRITE_EVERY_S", -1.0)
    _replace("pipelines.predict", "_TABLE_EVERY_S", -1.0)
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


def serve(number: int) -> NoReturn:
    """Answer requests on stdin until it is closed; the first line says that all is ready."""
    prepare(number)
    print("ready", flush=True)
    with suppress(BrokenPipeError):  # whoever asked is gone
        for line in sys.stdin:
            given = json.loads(line)
            fault = given.pop("fault")
            request = Request(**given, fault=Fault(**fault) if fault else None)
            print(json.dumps(asdict(_run(request))), flush=True)
    os._exit(0)  # libraries take seconds to say goodbye


def _run(request: Request) -> Ended:
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_command(request)
    ending = os.pidfd_open(pid)
    timed_out = not select.select([ending], [], [], request.deadline_s)[0]
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(ending)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, round(time.monotonic() - begun, 3), timed_out)


def _be_command(request: Request) -> NoReturn:
    """Be ``wsi-hr ARGV...``; never returns."""
    code = 1
    try:
        calls = os.open(request.calls, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        said = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["TMPDIR"] = tempfile.tempdir = request.scratch
        sys.argv = ["wsi-hr", *request.argv]
        from pipelines.cli import main

        preload = ctypes.CDLL(None)
        preload.crash_watch("\n".join(request.folders).encode(), calls)
        if request.fault is not None:
            kinds = f",{','.join(request.fault.kinds)},".encode()
            fault = request.fault
            preload.crash_fault(ctypes.c_long(fault.at), HOW[fault.how], fault.error, kinds)
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
