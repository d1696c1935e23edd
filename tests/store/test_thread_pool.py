from __future__ import annotations

import subprocess
import sys
import threading

from wsi_hr.store.thread_pool import LazyThreadPool


def test_one_pool_of_the_asked_size() -> None:
    pool = LazyThreadPool(2, "test-pool")
    assert pool.get() is pool.get()
    meeting = threading.Barrier(2, timeout=120)
    names = {task.result() for task in [pool.get().submit(_meet, meeting) for _ in range(2)]}
    assert len(names) == 2
    assert all(name.startswith("test-pool") for name in names)
    pool.get().shutdown()


def _meet(meeting: threading.Barrier) -> str:
    meeting.wait()
    return threading.current_thread().name


def test_a_forked_child_works_on() -> None:
    program = """
import os, sys, signal
from wsi_hr.store.thread_pool import LazyThreadPool
pool = LazyThreadPool(1, "p")
pool.get().submit(int).result()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(pool.get().submit(lambda: 42).result())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    assert subprocess.run(command, check=False).returncode == 0
