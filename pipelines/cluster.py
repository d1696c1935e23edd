"""Where slides are worked on: threads of this process, or the workers of any dask cluster.

Tasks come back as they finish and carry a few lines of text each; pixels never travel.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wsi_hr import __version__
from wsi_hr.errors import ConfigError, WsiHrError
from wsi_hr.slides.isolate import stop_isolated

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

J = TypeVar("J")
R = TypeVar("R")
OnProgress = Callable[[str, int, int], None]

# dask opens its HTTP servers even without a dashboard: on loopback then, at ports nobody else has.
_NO_DASHBOARD: dict[str, Any] = {
    "dashboard_address": "127.0.0.1:0",
    "worker_dashboard_address": "127.0.0.1:0",
    "scheduler_kwargs": {"dashboard": False},
}
_CONNECT_S = 20.0
_WORKERS_WITHIN_S = 60.0  # a batch system may need that long to start the first
_ALONE_S = 600.0  # so long a run waits for workers after the last one left
_SEEN_WITHIN_S = 10.0  # a network file system shows a new file late
_STOPPED_WITHIN_S = 15.0
_POLL_S = 0.1

_interrupted = threading.Event()  # read by the tasks of this process; dask cannot carry it to them
_active: Counter[str] = Counter()  # tasks of each run at work in this process
_active_lock = threading.Lock()


@dataclass(frozen=True)
class Where:
    """What does the work.

    Attributes:
        workers: tasks at a time on this machine; a cluster's workers have their own number.
        scheduler: address or scheduler file of a dask cluster; None: this machine.
    """

    workers: int
    scheduler: str | None = None


@dataclass(frozen=True)
class Shared:
    """What every worker of a cluster must see as this process does.

    Attributes:
        lock: the file that this run holds in the output folder.
        slide: one of the slides.
    """

    lock: Path
    slide: Path


@dataclass(frozen=True)
class _Ticket:
    """What a worker is told of a run: its name, and how to know that it fits the run."""

    run: str
    version: str
    lock: str
    holder: str
    slide: str


class TaskContext:
    """What a task may ask and tell while it runs.

    Args:
        run: name of the run it belongs to.
    """

    def __init__(self, run: str) -> None:
        from distributed import get_worker

        self._run = run
        self._worker: Worker = get_worker()
        self._key = self._worker.get_current_task()

    def cancelled(self) -> bool:
        """Whether nobody waits for the task any more: its run was stopped, or ended somehow."""
        if _interrupted.is_set() or self._worker.status.name in ("closing", "closed", "failed"):
            return True
        task = self._worker.state.tasks.get(self._key)
        return task is None or task.state == "cancelled"

    def report(self, slide_id: str, done: int, total: int) -> None:
        """Tell how far a slide has come."""
        self._worker.log_event(self._run, (slide_id, done, total))


def run_tasks(
    task: Callable[[J, TaskContext], R],
    jobs: Sequence[J],
    where: Where,
    shared: Shared,
    *,
    lost: Callable[[J, str], R],
    on_progress: OnProgress,
) -> Iterator[R]:
    """Call ``task(job, context)`` for every job; yields the results as they come.

    When the caller is interrupted, all tasks are stopped before the interruption goes on. A worker
    of a cluster that dies has its tasks done by others.

    Args:
        task: a function of a module; raises ``CancelledError`` where its context says so.
        jobs: can be pickled.
        where: what does the work.
        shared: what a cluster's workers must see.
        lost: the result of a job that no worker could do, and why.
        on_progress: slide, patches done and patches in all, as tasks report them; called from
            another thread.

    Raises:
        ConfigError: the cluster cannot be used.
        ConnectionError: the cluster was lost on the way.
    """
    if not jobs:
        return
    # Imported here: dask takes most of a second, and a run with nothing to do needs none of it.
    from distributed import as_completed

    _quiet("distributed")
    _interrupted.clear()
    run = f"wsi-hr-{uuid.uuid4().hex}"
    with _client(where, min(where.workers, len(jobs))) as client:
        ticket = None if where.scheduler is None else _issue(client, run, where.scheduler, shared)
        client.subscribe_topic(run, lambda event: on_progress(*event[1]))
        futures: list[Future] = client.map(
            _run_task,
            jobs,
            key=[f"{run}-{number}" for number in range(len(jobs))],
            task=task,
            run=run,
            ticket=ticket,
            pure=False,
        )
        job_of = {future.key: job for future, job in zip(futures, jobs, strict=True)}
        try:
            for future in _finished(client, as_completed(futures, loop=client.loop), where):
                yield _result(future, job_of[future.key], lost, where)
        except BaseException:
            _interrupted.set()
            if where.scheduler is None:
                stop_isolated()
            client.cancel(futures)
            _await_stop(client, run)
            raise
        finally:
            client.unsubscribe_topic(run)


def num_slots(where: Where) -> int:
    """Tasks that are done at a time.

    Raises:
        ConfigError: the cluster cannot be used.
    """
    if where.scheduler is None:
        return where.workers
    _quiet("distributed")
    with _connect(where.scheduler) as client:
        return max(1, sum(cast(dict[str, int], client.nthreads()).values()))


def _run_task(job: J, task: Callable[[J, TaskContext], R], run: str, ticket: _Ticket | None) -> R:
    """Do one job on a worker.

    Raises:
        ConfigError: this worker does not fit the run; it may have come late.
    """
    problem = _misfit(ticket) if ticket is not None else ""
    if problem:
        raise ConfigError(problem)
    context = TaskContext(run)
    with _active_lock:
        _active[run] += 1
    try:
        return task(job, context)
    finally:
        with _active_lock:
            _active[run] -= 1


@contextmanager
def _client(where: Where, threads: int) -> Iterator[Client]:
    """A client of the cluster, or of one in this process whose threads only wait."""
    from distributed import Client, LocalCluster

    if where.scheduler is not None:
        client = _connect(where.scheduler)
        with client:
            yield client
        return
    with (
        tempfile.TemporaryDirectory(prefix="wsi-hr-") as scratch,
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            memory_limit=0,
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            **_NO_DASHBOARD,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connect(scheduler: str) -> Client:
    """A client of the scheduler at an address or named by its file.

    Raises:
        ConfigError: it does not answer, or has no workers.
    """
    from distributed import Client

    is_file = "://" not in scheduler and (Path(scheduler).is_file() or ":" not in scheduler)
    if is_file and not Path(scheduler).is_file():
        raise ConfigError(
            f"--scheduler {scheduler}: no such scheduler file; give the one that dask scheduler "
            "wrote, or an address such as tcp://host:8786"
        )
    place: dict[str, Any] = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
    try:
        client = Client(**place, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError, KeyError) as cause:
        raise ConfigError(
            f"--scheduler {scheduler}: no dask scheduler answers there; start one with dask "
            "scheduler, or leave the option out to work on this machine"
        ) from cause
    try:
        client.wait_for_workers(1, timeout=_WORKERS_WITHIN_S)
    except TimeoutError as cause:
        client.close()
        raise ConfigError(
            f"--scheduler {scheduler}: has no workers; start some with dask worker {scheduler}"
        ) from cause
    except BaseException:
        client.close()
        raise
    return client


def _issue(client: Client, run: str, scheduler: str, shared: Shared) -> _Ticket:
    """A ticket that every worker there is now fits.

    Raises:
        ConfigError: another version of wsi-hr somewhere, or files that are not seen there.
    """
    found: dict[str, object] = {"the scheduler": _asked_scheduler(client)}
    found |= _asked_workers(client, version_here)
    for place, version in sorted(found.items()):
        if version != __version__:
            said = version if isinstance(version, str) else "none, or one that is too old"
            raise ConfigError(
                f"--scheduler {scheduler}: {place} has another wsi-hr ({said}) than this machine "
                f"({__version__}); install the same version everywhere"
            )
    lock = shared.lock.absolute()
    ticket = _Ticket(
        run, __version__, str(lock), lock.read_text(encoding="utf-8"), str(shared.slide.absolute())
    )
    until = time.monotonic() + _SEEN_WITHIN_S
    while True:
        problems = sorted(filter(None, map(str, _asked_workers(client, _misfit, ticket).values())))
        if not problems:
            return ticket
        if time.monotonic() > until:
            raise ConfigError(f"--scheduler {scheduler}: {problems[0]}")
        time.sleep(1)


def version_here() -> str:
    """The version of wsi-hr that a process of the cluster runs."""
    return __version__


def _asked_scheduler(client: Client) -> object:
    try:
        return client.run_on_scheduler(version_here)
    except Exception as error:  # whatever unpickling a function of ours raises there
        return error


def _asked_workers(
    client: Client, question: Callable[..., object], *args: object
) -> dict[str, object]:
    """What every worker there is now answers, or the error it has instead, by its address."""
    answers = client.run(question, *args, on_error="return")
    return cast(dict[str, object], answers)


def _misfit(ticket: _Ticket) -> str:
    """Why this process cannot work for a run; empty where it can."""
    host, lock = socket.gethostname(), Path(ticket.lock)
    if ticket.version != __version__:
        return (
            f"the worker on {host} has wsi-hr {__version__}, the run {ticket.version}; install the "
            "same version everywhere"
        )
    try:
        os.listdir(lock.parent)  # makes a network file system look again
        seen = lock.read_text(encoding="utf-8") == ticket.holder
    except OSError:
        seen = False
    if not seen or not os.access(lock.parent, os.W_OK):
        return (
            f"the worker on {host} does not see the output folder {lock.parent}, or may not write "
            "there; choose one that all workers mount under the same path"
        )
    if not os.access(ticket.slide, os.R_OK):
        return (
            f"the worker on {host} cannot read {ticket.slide}; give slides that all workers mount "
            "under the same path"
        )
    return ""


def _finished(client: Client, futures: Any, where: Where) -> Iterator[Future]:
    """The futures as they finish.

    Raises:
        ConnectionError: no worker is left, and none came for a long time.
    """
    worked = time.monotonic()
    while not futures.is_empty():
        if futures.has_ready():
            yield from futures.next_batch(block=False)
            worked = time.monotonic()
            continue
        time.sleep(_POLL_S)
        if client.scheduler_info(n_workers=1)["workers"]:
            worked = time.monotonic()
        elif time.monotonic() - worked > _ALONE_S:
            raise ConnectionError(
                f"{where.scheduler}: the dask cluster has had no worker for {_ALONE_S:g} s"
            )


def _result(future: Future, job: J, lost: Callable[[J, str], R], where: Where) -> R:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return lost(
            job,
            f"every worker that took it died, the last one was {error.last_worker.name}; see that "
            "worker's log, then run again",
        )
    except WsiHrError as error:
        return lost(job, str(error))
    except CancelledError as cause:
        raise ConnectionError(
            f"{where.scheduler}: the dask scheduler ended, or was restarted"
        ) from cause


def _await_stop(client: Client, run: str) -> None:
    """Wait, not for ever, until no process of a cluster works for a run any more."""
    until = time.monotonic() + _STOPPED_WITHIN_S
    while time.monotonic() < until and client.status == "running":
        answers = _asked_workers(client, num_active, run).values()
        if not any(isinstance(answer, int) and answer for answer in answers):
            return
        time.sleep(_POLL_S)


def num_active(run: str) -> int:
    """Tasks of a run at work in this process."""
    return _active[run]


def _quiet(library: str) -> None:
    """Keep a library's log from the user; it says nothing that a row does not."""
    for name in (library, *logging.root.manager.loggerDict):
        if name == library or name.startswith(f"{library}."):
            logging.getLogger(name).setLevel(logging.CRITICAL)
