"""Where slides are worked on: threads of this process, or the workers of any dask cluster."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wsi_hr import __version__
from wsi_hr.errors import ConfigError
from wsi_hr.remote import Place, place
from wsi_hr.scratch import scratch_folder

if TYPE_CHECKING:
    from distributed import Client

# dask opens its HTTP servers even without a dashboard: on loopback then, at ports nobody else has.
_NO_DASHBOARD: dict[str, Any] = {
    "dashboard_address": "127.0.0.1:0",
    "worker_dashboard_address": "127.0.0.1:0",
    "scheduler_kwargs": {"dashboard": False},
}
_CONNECT_S = 20.0
_WORKERS_WITHIN_S = 60.0  # a batch system may need that long to start the first
_SEEN_WITHIN_S = 10.0  # a network file system shows a new file late


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

    lock: Place
    slide: Path


@dataclass(frozen=True)
class Ticket:
    """What a worker is told of a run: its name, and how to know that it fits the run."""

    run: str
    version: str
    lock: str
    holder: str
    slide: str


def num_slots(where: Where) -> int:
    """Tasks that are done at a time.

    Raises:
        ConfigError: the cluster cannot be used.
    """
    if where.scheduler is None:
        return where.workers
    _quiet("distributed")
    with _connect(where.scheduler) as client:
        return sum(cast(dict[str, int], client.nthreads()).values())


@contextmanager
def open_client(where: Where, threads: int) -> Iterator[Client]:
    """A client of the cluster, or of one in this process whose threads only wait."""
    # Imported here: dask takes most of a second, and a run with nothing to do needs none of it.
    import dask.config
    from distributed import Client, LocalCluster

    _quiet("distributed")
    if where.scheduler is not None:
        client = _connect(where.scheduler)
        with client:
            yield client
        return
    with (
        scratch_folder() as scratch,
        # the scheduler has a folder too, which dask would leave in TMPDIR
        dask.config.set({"temporary-directory": str(scratch)}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            memory_limit=0,
            local_directory=str(scratch),
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


def issue(client: Client, run: str, where: Where, shared: Shared) -> Ticket:
    """A ticket that every worker there is now fits.

    Raises:
        ConfigError: another version of wsi-hr somewhere, or files that are not seen there.
    """
    found: dict[str, object] = {"the scheduler": _asked_scheduler(client)}
    found |= asked_workers(client, version_here)
    for node, version in sorted(found.items()):
        if version != __version__:
            said = version if isinstance(version, str) else "none, or one that is too old"
            raise ConfigError(
                f"--scheduler {where.scheduler}: {node} has another wsi-hr ({said}) than this "
                f"machine ({__version__}); install the same version everywhere"
            )
    lock = shared.lock.absolute()
    ticket = Ticket(
        run=run,
        version=__version__,
        lock=str(lock),
        holder=lock.read_text(encoding="utf-8"),
        slide=str(shared.slide.absolute()),
    )
    until = time.monotonic() + _SEEN_WITHIN_S
    while True:
        problems = sorted(filter(None, map(str, asked_workers(client, misfit, ticket).values())))
        if not problems:
            return ticket
        if time.monotonic() > until:
            raise ConfigError(f"--scheduler {where.scheduler}: {problems[0]}")
        time.sleep(1)


def version_here() -> str:
    """The version of wsi-hr that a process of the cluster runs."""
    return __version__


def _asked_scheduler(client: Client) -> object:
    try:
        return client.run_on_scheduler(version_here)
    except Exception as error:  # whatever unpickling a function of ours raises there
        return error


def asked_workers(
    client: Client, question: Callable[..., object], *args: object
) -> dict[str, object]:
    """What every worker there is now answers, or the error it has instead, by its address."""
    answers = client.run(question, *args, on_error="return")
    return cast(dict[str, object], answers)


def misfit(ticket: Ticket) -> str:
    """Why this process cannot work for a run; empty where it can."""
    host, lock = socket.gethostname(), place(ticket.lock)
    if ticket.version != __version__:
        return (
            f"the worker on {host} has wsi-hr {__version__}, the run {ticket.version}; install the "
            "same version everywhere"
        )
    try:
        if isinstance(lock, Path):
            os.listdir(lock.parent)  # makes a network file system look again
        seen = lock.read_text(encoding="utf-8") == ticket.holder
    except OSError:
        seen = False
    if not seen or (isinstance(lock, Path) and not os.access(lock.parent, os.W_OK)):
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


def _quiet(library: str) -> None:
    """Keep a library's log from the user; it says nothing that a row does not."""
    for name in (library, *logging.root.manager.loggerDict):
        if name == library or name.startswith(f"{library}."):
            logging.getLogger(name).setLevel(logging.CRITICAL)
