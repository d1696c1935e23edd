"""Cores and memory where a container or a scheduler's job has less than the machine."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from wsi_hr import machine
from wsi_hr.machine import core_limits, memory_limits, num_usable_cores, usable_memory


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Callable[..., None]:
    """Control groups of which this process is in some."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def make(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    return make


def test_without_control_groups_there_is_no_limit(groups):
    assert (core_limits(), memory_limits(), num_usable_cores()) == ([], [], 8)


def test_the_limits_of_the_own_group_and_of_those_around_it(groups):
    groups(
        "4:memory:/elsewhere\n0::/slurm/job_1\n",
        {
            "slurm/job_1/cpu.max": "max 100000",
            "slurm/cpu.max": "250000 100000",
            "slurm/job_1/memory.max": "max",
            "slurm/memory.max": "1073741824",
            "other/cpu.max": "10000 100000",
        },
    )
    assert (core_limits(), memory_limits(), num_usable_cores()) == ([2.5], [2**30], 3)
    assert usable_memory() == 2**30


def test_version_1_as_a_container_sees_it(groups):
    """Its own group is the outermost there is, whatever the machine calls it."""
    groups(
        "5:memory:/docker/0ab\n4:cpu,cpuacct:/docker/0ab\n1:name=systemd:/docker/0ab\n",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "50000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "2147483648",
        },
    )
    assert (core_limits(), memory_limits(), num_usable_cores()) == ([0.5], [2**31], 1)


def test_version_1_without_limit(groups):
    groups(
        "4:cpu,cpuacct:/\n",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert (core_limits(), num_usable_cores()) == ([], 8)


@pytest.mark.parametrize("own", ["", "nonsense", "0::/a\n"])
def test_what_cannot_be_understood_is_no_limit(groups, own):
    groups(own, {"a/cpu.max": "lots", "a/memory.max": "lots"})
    assert (core_limits(), memory_limits(), num_usable_cores()) == ([], [], 8)


def test_more_time_than_there_are_cores_is_no_more_cores(groups):
    groups("0::/\n", {"cpu.max": "1600000 100000"})
    assert (core_limits(), num_usable_cores()) == ([16.0], 8)


def test_a_limit_above_what_the_machine_has_is_none(groups):
    groups("0::/\n", {"memory.max": str(2**60)})
    assert 2**26 < usable_memory() < 2**60


def test_here_there_is_one_at_least():
    assert 1 <= num_usable_cores() <= len(os.sched_getaffinity(0))
