"""What of a machine this process may use: a container, or a scheduler's job, may have less of it.

Source: the kernel's documentation of control groups, version 2 (``cpu.max``, ``memory.max``) and
version 1 (``cpu.cfs_quota_us``, ``cpu.cfs_period_us``, ``memory.limit_in_bytes``).
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def num_usable_cores() -> int:
    """Cores this process may run on, or fewer if it gets less time than they have."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, core_limits())]))


def core_limits() -> list[float]:
    """How many cores' time the control groups around this process get at most; none: no limit."""
    pairs = [
        *map(str.split, _values("cpu.max")),
        *zip(_values("cpu.cfs_quota_us", "cpu"), _values("cpu.cfs_period_us", "cpu"), strict=False),
    ]
    with suppress(ValueError):  # what cannot be understood is no limit
        return [int(time) / int(period) for time, period in pairs if time not in ("max", "-1")]
    return []


def usable_memory() -> int:
    """Bytes of memory that this process, with all around it in its control groups, may use."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *memory_limits()])


def memory_limits() -> list[int]:
    """Bytes that the control groups around this process get at most; none: no limit."""
    found = [*_values("memory.max"), *_values("memory.limit_in_bytes", "memory")]
    with suppress(ValueError):  # likewise
        return [int(text) for text in found if text != "max"]
    return []


def _values(name: str, controller: str = "") -> list[str]:
    """What a file says in this process's control group and in those around it.

    Args:
        name: of the file.
        controller: of version 1, which has a tree of groups for each; empty: version 2.
    """
    with suppress(OSError, ValueError):  # no control groups, or none of a kind that we know
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, inside = line.split(":", 2)
            if controller in controllers.split(","):
                group = Path(inside.removeprefix("/"))
                folders = [group, *group.parents]  # a container sees its own as the outermost
                files = dict.fromkeys(CGROUPS / controllers / each / name for each in folders)
                return [file.read_text().strip() for file in files if file.is_file()]
    return []
