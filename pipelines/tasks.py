"""Tasks on a cluster: they come back as they finish, and stop when nobody waits for them.

What travels is a few lines of text a task; pixels never do.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipelines.cluster import Shared, Ticket, Where, asked_workers, issue, misfit, open_client
from pipelines.terminal import guard_worker
from wsi_hr.errors import ConfigError, WsiHrError
from wsi_hr.slides.isolate import stop_isolated

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

J = TypeVar("J")
R = TypeVar("R")
OnProgress = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)

_ALONE_S = 600.0  # so long a run waits for workers after the last one left
_STOPPED_WITHIN_S = 15.0
_POLL_S = 0.1

_interrupted = threading.Event()  # read by the tasks of this process; dask cannot carry it to them
_active: Counter[str] = Counter()  # tasks of each run at work in this process
_active_lock = threading.Lock()


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


class Tasks(Generic[J, R]):
    """Tasks of one run; more may be added while results come.

    Args:
        client: of the cluster.
        run: name of the run.
        task: what is called for every job.
        ticket: of the run; None: the cluster is this process.
        lost: the result of a job that no worker could do, and why.
        where: what does the work.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        task: Callable[[J, TaskContext], R],
        ticket: Ticket | None,
        lost: Callable[[J, str], R],
        where: Where,
    ) -> None:
        # Imported here: dask takes most of a second, and a run with nothing to do needs none of it.
        from distributed import as_completed

        self._client, self._run, self._ticket = client, run, ticket
        self._task, self._lost, self._where = task, lost, where
        self._finished = as_completed(loop=client.loop)
        self._waiting: dict[Any, tuple[Future, J]] = {}
        self._num_added = 0

    def add(self, jobs: Sequence[J], priority: int = 0) -> None:
        """Have more jobs done, those of a higher priority before others."""
        if not jobs:
            return
        keys = [f"{self._run}-{self._num_added + number}" for number in range(len(jobs))]
        self._num_added += len(jobs)
        futures: list[Future] = self._client.map(
            _run_task,
            jobs,
            key=keys,
            priority=priority,
            task=self._task,
            run=self._run,
            ticket=self._ticket,
            pure=False,
        )
        for future, job in zip(futures, jobs, strict=True):
            self._waiting[future.key] = future, job
        self._finished.update(futures)

    def results(self) -> Iterator[R]:
        """The results of all jobs that were added, as they come.

        Raises:
            ConnectionError: the cluster was lost on the way.
        """
        for future in _finished(self._client, self._finished, self._where):
            _, job = self._waiting.pop(future.key)
            yield _result(future, job, self._lost, self._where)

    def cancel(self) -> None:
        """Have no worker go on."""
        self._client.cancel([future for future, _ in self._waiting.values()])


@contextmanager
def running(
    task: Callable[[J, TaskContext], R],
    where: Where,
    shared: Shared,
    *,
    at_a_time: int,
    lost: Callable[[J, str], R],
    on_progress: OnProgress,
) -> Iterator[Tasks[J, R]]:
    """Tasks that call ``task(job, context)``.

    When the caller is interrupted, all tasks are stopped before the interruption goes on. A worker
    of a cluster that dies has its tasks done by others.

    Args:
        task: a function of a module; raises ``CancelledError`` where its context says so.
        where: what does the work.
        shared: what a cluster's workers must see.
        at_a_time: tasks that this machine has need of doing at a time.
        lost: the result of a job that no worker could do, and why.
        on_progress: slide, patches done and patches in all, as tasks report them; called from
            another thread.

    Raises:
        ConfigError: the cluster cannot be used.
    """
    _interrupted.clear()
    run = f"wsi-hr-{uuid.uuid4().hex}"
    with open_client(where, min(where.workers, at_a_time)) as client:
        ticket = None if where.scheduler is None else issue(client, run, where, shared)
        client.subscribe_topic(run, lambda event: on_progress(*event[1]))
        tasks = Tasks(client, run, task, ticket, lost, where)
        try:
            yield tasks
        except BaseException:
            _interrupted.set()
            if where.scheduler is None:
                stop_isolated()
            with _perhaps_gone():
                tasks.cancel()
                _await_stop(client, run)
            raise
        finally:
            with _perhaps_gone():
                client.unsubscribe_topic(run)


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

    Arguments and errors are those of :func:`running`; jobs can be pickled.

    Raises:
        ConnectionError: the cluster was lost on the way.
    """
    if not jobs:
        return
    with running(
        task, where, shared, at_a_time=len(jobs), lost=lost, on_progress=on_progress
    ) as tasks:
        tasks.add(jobs)
        yield from tasks.results()


def _run_task(job: J, task: Callable[[J, TaskContext], R], run: str, ticket: Ticket | None) -> R:
    """Do one job on a worker.

    Raises:
        ConfigError: this worker does not fit the run; it may have come late.
    """
    context = TaskContext(run)
    if ticket is None:
        return _counted(task, job, context, run)
    guard_worker()
    problem = misfit(ticket)
    if problem:
        raise ConfigError(problem)
    return _counted(task, job, context, run)


def _counted(task: Callable[[J, TaskContext], R], job: J, context: TaskContext, run: str) -> R:
    with _active_lock:
        _active[run] += 1
    try:
        return task(job, context)
    finally:
        with _active_lock:
            _active[run] -= 1


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
        if client.scheduler_info(n_workers=1).get("workers"):
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


@contextmanager
def _perhaps_gone() -> Iterator[None]:
    """Let go of a cluster that may be gone: then there is nothing to let go of."""
    from distributed.client import ClosedClientError

    try:
        yield
    except (OSError, ClosedClientError) as error:  # a comm that is closed is an OSError
        logger.info("the dask cluster does not answer any more (%s)", error)


def _await_stop(client: Client, run: str) -> None:
    """Wait, not for ever, until no process of a cluster works for a run any more."""
    until = time.monotonic() + _STOPPED_WITHIN_S
    while time.monotonic() < until and client.status == "running":
        answers = asked_workers(client, num_active, run).values()
        if not any(isinstance(answer, int) and answer for answer in answers):
            return
        time.sleep(_POLL_S)


def num_active(run: str) -> int:
    """Tasks of a run at work in this process."""
    return _active[run]
