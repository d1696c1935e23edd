from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wsi_hr.store.descriptors import DescriptorCache, ShardFile


def files(folder: Path, num: int) -> list[ShardFile]:
    made = []
    for number in range(num):
        path = folder / f"{number}.bin"
        path.write_bytes(bytes([number]) * 100)
        made.append(ShardFile(str(path), 100))
    return made


def num_open_below(folder: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(link).startswith(str(folder.resolve())) for link in links)


def test_reads_what_is_there_and_keeps_few_files_open(tmp_path: Path) -> None:
    cache = DescriptorCache(capacity=3)
    for _ in range(2):
        for number, file in enumerate(files(tmp_path, 10)):
            assert cache.pread(file, 4, 98) == bytes([number]) * 2
            assert num_open_below(tmp_path) == len(cache) <= 3
    cache.forget_after_fork()
    assert num_open_below(tmp_path) == 0


def test_threads_never_read_through_a_descriptor_that_was_closed(tmp_path: Path) -> None:
    cache = DescriptorCache(capacity=1)
    made = files(tmp_path, 5)
    wrong: list[object] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(400):
            number = rng.randrange(5)
            try:
                got = cache.pread(made[number], 10, 5)
            except OSError as error:
                wrong.append(error)
            else:
                wrong.extend([got] if got != bytes([number]) * 10 else [])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert num_open_below(tmp_path) == 1
    cache.forget_after_fork()


def test_a_path_opened_anew_is_not_read_through_the_old_file(tmp_path: Path) -> None:
    cache = DescriptorCache(capacity=3)
    path = tmp_path / "shard"
    path.write_bytes(b"old")
    assert cache.pread(ShardFile(str(path), 3), 3, 0) == b"old"
    path.unlink()
    path.write_bytes(b"new")
    assert cache.pread(ShardFile(str(path), 3), 3, 0) == b"new"
    cache.forget_after_fork()


def test_a_missing_file_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = DescriptorCache(capacity=3)
    with pytest.raises(FileNotFoundError):
        cache.pread(ShardFile(str(tmp_path / "absent"), 1), 1, 0)
    assert len(cache) == 0


def test_a_forked_child_starts_without_the_parents_files(tmp_path: Path) -> None:
    program = """
import os, sys
from wsi_hr.store.descriptors import SHARD_DESCRIPTORS, ShardFile
file = ShardFile(sys.argv[1], 3)
SHARD_DESCRIPTORS.pread(file, 3, 0)
child = os.fork()
if child == 0:
    inherited = len(SHARD_DESCRIPTORS)
    names = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    again = SHARD_DESCRIPTORS.pread(file, 3, 0)
    os._exit(0 if (inherited, again, sys.argv[1] in names) == (0, b"abc", False) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + 10 * (len(SHARD_DESCRIPTORS) != 1))
"""
    path = (tmp_path / "shard").resolve()
    path.write_bytes(b"abc")
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0
