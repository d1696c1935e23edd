"""One run per output folder, also where the file system has no locks; and no folder without one."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import doctor, lock
from pipelines.lock import LOCK_FILE, run_lock
from wsi_hr.errors import StoreError, WriteError
from wsi_hr.living import this_process

from .test_tile import write_slide

NO_LOCKS = (
    *(errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.EPERM),
    *(errno.EBADF, errno.EIO),
)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    number = getattr(request, "param", errno.ENOLCK)

    def refuse(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.fault("A14")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("no_locks", NO_LOCKS, indirect=True, ids=errno.errorcode.get)
def test_a_run_works_where_there_are_no_locks_and_says_so(no_locks, tmp_path: Path, caplog) -> None:
    with run_lock(tmp_path):
        assert f"pid {os.getpid()}\n" in (tmp_path / LOCK_FILE).read_text()
    assert list(tmp_path.iterdir()) == []
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}: cannot be locked (")
    assert said.endswith("); start no second run on another machine")


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_second_run_of_this_machine_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('there', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        refusal = rf"another run works here \(host .*, pid {first.pid}\); wait"
        with pytest.raises(StoreError, match=refusal), run_lock(tmp_path):
            pass
        first.kill()
        first.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with run_lock(tmp_path):  # the killed one is known to be gone
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_run_of_another_machine_is_told(tmp_path: Path, caplog) -> None:
    _, rest = this_process().split("-", 1)
    (tmp_path / LOCK_FILE).write_text(f"host elsewhere, pid 7\n{'0' * 12}-{rest}\n")
    with run_lock(tmp_path):
        pass
    (said,) = caplog.messages
    assert "a run on another machine (host elsewhere, pid 7) works there, or was killed" in said


@pytest.mark.fault("A14")
@pytest.mark.timeout(60)
def test_a_lock_file_that_never_stays_the_same_is_no_loop(tmp_path: Path, monkeypatch) -> None:
    """As where a file system numbers its files anew each time."""
    monkeypatch.setattr(lock, "_is_still", lambda path, handle: False)
    with pytest.raises(StoreError, match="no run can hold"), run_lock(tmp_path):
        pass


def test_a_folder_in_which_nothing_was_written_is_gone_again(tmp_path: Path) -> None:
    with run_lock(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="refused"), run_lock(tmp_path / "a/b"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_and_what_was_written_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with run_lock(tmp_path / "there"):
        pass
    with run_lock(tmp_path / "a/b"):
        (tmp_path / "a/mine").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "a",
        "a/mine",
        "there",
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_no_wrong_request(tmp_path: Path, monkeypatch, number: int) -> None:
    def refuse(handle: int, content: bytes, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", refuse)
    folder = tmp_path / "out"
    with pytest.raises(WriteError, match=rf"^{folder}: cannot be written \("), run_lock(folder):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StoreError, match="a file, not a folder"), run_lock(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("no_locks")
def test_the_doctor_tells_of_a_temporary_folder_without_locks() -> None:
    (check,) = (each for each in doctor.run_checks(None) if each.name == "temporary folder")
    assert check.state == "warn"
    assert "has no locks" in check.found


PROGRAM = """
import fcntl, os, sys
number = int(sys.argv[1])
def refuse(handle, how):
    raise OSError(number, os.strerror(number))
fcntl.flock = refuse
sys.argv = ["wsi-hr", *sys.argv[2:]]
from pipelines.cli import main
main()
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EPERM])
def test_tiling_ends_where_there_are_no_locks_anywhere(tmp_path: Path, number: int) -> None:
    """Also dask, which works in ``TMPDIR``, locks there."""
    slide, store = write_slide(tmp_path / "a.svs", 0), tmp_path / "store"
    (tmp_path / "tmp").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(number), "tile", slide, "-o", store],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"1 slides: 1 done; see {store / 'status.csv'}\n"
    assert ended.stderr.startswith(f"WARNING: {store}: cannot be locked (")
    assert ended.stderr.count("\n") == 1
    assert list((tmp_path / "tmp").iterdir()) == []
