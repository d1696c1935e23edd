"""Folders that do not stay, also where the file system has no locks: nothing living is removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsi_hr.living import lives, this_process
from wsi_hr.scratch import has_locks, scratch_folder

NO_LOCKS = (
    *(errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.EPERM),
    *(errno.EBADF, errno.EIO, errno.EACCES, errno.EAGAIN),
)
PROGRAM = """
import fcntl, os, sys
def refuse(handle, how):
    raise OSError(int(sys.argv[1]), os.strerror(int(sys.argv[1])))
if int(sys.argv[1]):
    fcntl.flock = refuse
from wsi_hr.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "a").touch(); print(folder, flush=True); input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def at_work(top: Path, number: int = 0) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in its scratch folder, where locking fails with ``number``; 0: where it works."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(number)],
        env=os.environ | {"TMPDIR": str(top)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_scratch_of_the_living_stays_and_of_the_killed_goes(temporary: Path) -> None:
    other = temporary / "wsi-hr-store"  # a user's
    other.mkdir()
    with at_work(temporary) as (process, its):
        with scratch_folder() as mine, scratch_folder() as another:
            assert names(temporary) == {other.name, its.name, mine.name, another.name}
            assert not any(mine.iterdir())
        kill(process)
        assert names(temporary) == {other.name, its.name}
        with scratch_folder() as mine:
            assert names(temporary) == {other.name, mine.name}
    assert names(temporary) == {other.name}


@pytest.mark.fault("A14")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_scratch_where_there_are_no_locks(temporary: Path, monkeypatch, number: int) -> None:
    """Made in few tries; the living are left alone also then, the killed are cleared away."""
    with at_work(temporary, number) as (process, its):
        without_locks(monkeypatch, number)
        with scratch_folder() as mine:
            assert names(temporary) == {its.name, mine.name}
            assert not any(mine.iterdir())
        assert (its / "a").is_file()
        kill(process)
        with scratch_folder() as mine:
            assert names(temporary) == {mine.name}
    assert names(temporary) == set()


def test_who_has_locks_leaves_alone_who_had_none(temporary: Path) -> None:
    """A lock manager may fail for a while only."""
    with at_work(temporary, errno.ENOLCK) as (_, its), scratch_folder() as mine:
        assert names(temporary) == {its.name, mine.name}


def test_scratch_of_other_machines_stays(temporary: Path) -> None:
    """Whether they live cannot be known; and some file systems lock per machine."""
    here = this_process()
    kernel, namespace, _, began = here.split("-")
    gone = f"{2**22 + 1}"  # pids end below that
    theirs = [
        f"wsi-hr-scratch-{'0' * 12}-abcdefgh",
        f"wsi-hr-unlocked-{'0' * 12}-{namespace}-{gone}-{began}-abcdefgh",
        f"wsi-hr-unlocked-{kernel}-1-{gone}-{began}-abcdefgh",  # another container
        "wsi-hr-scratch-mine",  # a user's
        f"wsi-hr-scratch-{kernel}-results",
    ]
    ours = f"wsi-hr-unlocked-{kernel}-{namespace}-{gone}-{began}-abcdefgh"
    for name in (*theirs, ours):
        (temporary / name).mkdir()
    with scratch_folder():
        pass
    assert names(temporary) == set(theirs)


@pytest.mark.parametrize("number", [0, errno.ENOLCK])
def test_locks_are_found_by_trying(temporary: Path, monkeypatch, number: int) -> None:
    if number:
        without_locks(monkeypatch, number)
    assert has_locks(temporary) is (number == 0)
    assert names(temporary) == set()


def test_a_process_is_gone_only_if_that_is_certain() -> None:
    here = this_process()
    kernel, namespace, pid, began = here.split("-")
    assert lives(here) is True
    assert lives(f"{kernel}-{namespace}-{pid}-{int(began) + 1}") is False  # its pid is used again
    assert lives(f"{kernel}-{namespace}-{2**22 + 1}-{began}") is False
    for other in ("", "-", "a-b-c", f"{kernel}-{namespace}-{pid}-0", f"{kernel}-{namespace}-x-1"):
        assert lives(other) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert lives(f"{kernel}-{namespace}-{child.pid}-{began}") is False
