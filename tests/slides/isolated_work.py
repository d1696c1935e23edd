"""What the children of test_isolate.py do; a module, so that they can find it by name."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np
import openslide

from wsi_hr.errors import LabelError
from wsi_hr.slides.isolate import run_isolated
from wsi_hr.slides.reporting import report_progress


class TwoPartError(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} {second}")


def add(a: int, b: int) -> int:
    return a + b


def megabytes(count: int) -> bytes:
    return bytes(count << 20)


def pid_of() -> int:
    return os.getpid()


def refuse(path: Path) -> NoReturn:
    raise LabelError(f"{path}: refused")


def fail() -> NoReturn:
    raise KeyError("the child's own")


def fail_unpicklably() -> NoReturn:
    raise TwoPartError("one", "two")


def unpicklable() -> object:
    return lambda: None


def kill_self(path: Path, number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(path: Path, code: int) -> None:
    os._exit(code)


def sleep(path: Path, seconds: float, pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    time.sleep(seconds)


def stop_self(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def allocate(path: Path, gib: float) -> int:
    return int(np.ones(int(gib * 2**30), np.uint8).sum())


def start_threads(path: Path, number: int) -> int:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(number)]
    try:
        for thread in threads:
            thread.start()
    finally:
        done.set()
    return number


def allocate_in_threads(path: Path, number: int) -> int:
    """Each thread holds a little while all others do, for which malloc reserves 64 MiB."""
    together = threading.Barrier(number, timeout=20)

    def hold() -> int:
        little = bytearray(10_000)
        together.wait()
        return len(little)

    with ThreadPoolExecutor(number) as pool:
        return sum(future.result() for future in [pool.submit(hold) for _ in range(number)])


def abort_for_memory(path: Path) -> None:
    os.write(2, b"GLib-ERROR: failed to allocate 4294967296 bytes\n")
    os.abort()


def warn(text: str) -> None:
    logging.getLogger("wsi_hr.tests").warning("said by %s", text)
    logging.getLogger("wsi_hr.tests").debug("not said")


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def imported() -> list[str]:
    return list(sys.modules)


def report_isolated(send: Connection) -> None:
    send.send(run_isolated(add, 2, 3, deadline_s=60, memory_gib=1))
    send.close()


def read_with_openslide(path: Path) -> float:
    return float(np.asarray(openslide.OpenSlide(path).read_region((0, 0), 0, (64, 64))).mean())


def report(count: int) -> int:
    for number in range(count + 1):
        report_progress(number, count)
    return count
