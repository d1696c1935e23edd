"""Which process this is, in a word by which another one can tell that it is gone."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from uuid import uuid4


def kernel() -> str:
    """A word for the kernel that runs this process, from one boot to the next: 12 characters.

    Processes of one kernel see each other's locks. Where it cannot be told, no two processes have
    the same word.
    """
    return _kernel()[:12]


def this_process() -> str:
    """A word for this process: kernel, pid namespace, pid, and when it began; fits a file name."""
    pid = os.getpid()
    return f"{kernel()}-{_namespace()}-{pid}-{_began(pid)}"


def lives(process: str) -> bool | None:
    """Whether the process of that name still lives; None where nobody here can know.

    That is so on another machine, and in another container with pids of its own.
    """
    where, _, began = process.rpartition("-")
    where, _, number = where.rpartition("-")
    if where != f"{kernel()}-{_namespace()}" or not (number.isdecimal() and began.isdecimal()):
        return None
    pid = int(number)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    except OverflowError:  # it is no pid at all
        return None
    known = _began(pid), int(began)
    return known[0] == known[1] if all(known) else None


@cache
def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "").strip()
    except OSError:
        return uuid4().hex


def _namespace() -> int:
    """The pid namespace of this process; 0 where it cannot be told."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _began(pid: int) -> int:
    """When a process began, in clock ticks after boot; 0 where it cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
