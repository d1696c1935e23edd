"""Crash points: what counts the calls, what lets them go wrong, and what is said of the outcome."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.crash_checks import (
    cut_short,
    lost_stores,
    problems_of_error,
    problems_of_kill,
    problems_of_resume,
)
from benchmarks.crash_commands import NAMES
from benchmarks.crash_driver import HOW, Ended, Fault
from benchmarks.crash_lane import NoCompilerError, build_preload, state_of
from benchmarks.crash_modes import KINDS, MODES
from benchmarks.crash_points import SWEEPS, crash_points
from benchmarks.crash_trace import TRACED, Call, read_counted, read_strace, unseen
from benchmarks.faults import PROOFS, prove

pytestmark = [
    pytest.mark.timeout(900),  # of processes on a machine that others use too
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]

WATCHED = """
import ctypes, os, sys
folder, log, at, how, error, kinds = sys.argv[1:]
library = ctypes.CDLL(None)
calls = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
library.crash_watch(folder.encode(), calls)
if int(at) >= 0:
    library.crash_fault(ctypes.c_long(int(at)), int(how), int(error), kinds.encode())
"""

STEPS = """
def step(name, work):
    try:
        print(name, work())
    except OSError as problem:
        print(name, problem.errno)

step("mkdir", lambda: os.mkdir(folder))
a = os.path.join(folder, "a")
step("create", lambda: globals().update(file=os.open(a, os.O_RDWR | os.O_CREAT)))
step("write", lambda: os.write(file, b"0123456789"))
step("write", lambda: os.write(file, b"0123456789"))
step("fsync", lambda: os.fsync(file))
step("rename", lambda: os.rename(a, a + "b"))
step("unlink", lambda: os.unlink(a + "b"))
step("rmdir", lambda: os.rmdir(folder))
"""

EVERY_FUNCTION = """
os.mkdir(folder)
os.chdir(folder)
here = os.open(folder, os.O_RDONLY)
file = os.open("a", os.O_RDWR | os.O_CREAT, 0o600)
os.write(file, b"0123456789")
os.pwrite(file, b"xy", 3)
os.writev(file, [b"one", b"two"])
os.pwritev(file, [b"one", b"two"], 0)
os.fsync(file)
os.fdatasync(file)
os.posix_fallocate(file, 0, 4096)
os.ftruncate(file, 100)
os.truncate(os.path.join(folder, "a"), 50)
os.fchmod(file, 0o644)
os.chmod("a", 0o600)
other = os.open("b", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=here)
os.lseek(file, 0, 0)
os.sendfile(other, file, 0, 20)
os.copy_file_range(file, other, 10)
nameless = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(nameless, b"text")
os.rename("b", "c", src_dir_fd=here, dst_dir_fd=here)
os.replace("c", "b")
os.link("b", "hard")
os.link("b", "harder", dst_dir_fd=here)
os.symlink("b", "soft")
os.mkdir("inner", dir_fd=here)
os.listdir(folder)
list(os.scandir(here))
os.rmdir("inner", dir_fd=here)
os.unlink("soft", dir_fd=here)
for name in ("hard", "harder", "b"):
    os.unlink(name)
try:
    os.unlink("nobody")
except FileNotFoundError:
    pass
open("a", "a").write("more")
open("a").read()
os.chdir("/")
os.unlink(os.path.join(folder, "a"))
os.rmdir(folder)
if os.fork() == 0:  # a child is another process, which is not counted
    os.mkdir(folder)
    os.rmdir(folder)
    os._exit(0)
os.wait()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return build_preload(tmp_path_factory.mktemp("preload"))


def watched(
    code: str, library: Path, folder: Path, fault: Fault | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script of which the calls below ``folder``/below are counted and disturbed."""
    given = fault or Fault(-1, "kill")
    kinds = f",{','.join(given.kinds)},"
    args = (folder / "below", folder / "calls", given.at, HOW[given.how], given.error, kinds)
    return subprocess.run(
        [*before, "env", f"LD_PRELOAD={library}", sys.executable, "-c", WATCHED + code]
        + [str(arg) for arg in args],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def kinds_in(folder: Path) -> list[str]:
    return [one.call.kind for one in read_counted(folder / "calls", [(folder / "below", "OUT")])]


def test_calls_below_a_folder_are_counted_in_their_order(library, tmp_path):
    done = watched(STEPS, library, tmp_path)
    assert done.returncode == 0, done.stderr
    assert kinds_in(tmp_path) == [
        *("mkdir", "create", "write", "write", "fsync", "rename", "unlink", "rmdir")
    ]
    counted = read_counted(tmp_path / "calls", [(tmp_path / "below", "OUT")])
    assert counted[0].call == Call("mkdir", "OUT")
    assert counted[5].call == Call("rename", "OUT/a", "OUT/ab")
    assert [one.num_bytes for one in counted] == [0, 0, 10, 10, 0, 0, 0, 0]


THERE = ([], ["below"], *[["below", "below/a"]] * 4, ["below", "below/ab"], ["below"])


@pytest.mark.parametrize(("at", "there"), list(enumerate(THERE)))
def test_a_kill_comes_before_the_call(library, tmp_path, at, there):
    done = watched(STEPS, library, tmp_path, Fault(at, "kill"))
    assert done.returncode == -signal.SIGKILL
    assert len(kinds_in(tmp_path)) == at + 1
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert sorted(found - {"calls"}) == there


@pytest.mark.parametrize(
    ("how", "code", "left"), [("tear", -signal.SIGKILL, 5), ("short", 0, None)]
)
def test_half_of_a_write(library, tmp_path, how, code, left):
    done = watched(STEPS, library, tmp_path, Fault(2, how))
    assert done.returncode == code
    if left is None:
        assert "write 5\nwrite 10" in done.stdout
    else:
        assert (tmp_path / "below/a").stat().st_size == left


def test_a_failure_that_comes_once(library, tmp_path):
    done = watched(STEPS, library, tmp_path, Fault(2, "once", errno.EIO))
    assert f"write {errno.EIO}\nwrite 10\nfsync None" in done.stdout
    assert done.returncode == 0


def test_a_full_disk_stays_full_and_lets_files_be_removed(library, tmp_path):
    fault = Fault(2, "on", errno.ENOSPC, ("create", "mkdir", "write"))
    done = watched(STEPS, library, tmp_path, fault)
    assert f"write {errno.ENOSPC}\nwrite {errno.ENOSPC}\nfsync None" in done.stdout
    assert not (tmp_path / "below").exists()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_every_function_is_counted_as_strace_counts(library, tmp_path):
    trace = ("strace", "-ff", "-ttt", "-y", "-s", "0", "-o", str(tmp_path / "trace"))
    names = [(tmp_path / "below", "OUT")]
    kinds = f"trace={','.join(f'?{name}' for name in TRACED)}"
    done = watched(EVERY_FUNCTION, library, tmp_path, before=(*trace, "-e", kinds))
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"strace may not be used here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    counted = [one.call for one in read_counted(tmp_path / "calls", names)]
    traced = read_strace(tmp_path / "trace", names)
    assert counted == traced[: len(counted)]
    # the child is seen by strace alone
    assert unseen(counted, traced) == [
        "mkdir OUT: 2 by strace, 1 by the library",
        "rmdir OUT: 2 by strace, 1 by the library",
    ]
    assert {call.kind for call in counted} == KINDS


def test_there_is_a_sentence_where_there_is_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match="there is no C compiler here; install one"):
        build_preload(tmp_path)


def test_a_kill_must_have_killed():
    assert problems_of_kill(-signal.SIGKILL) == []
    assert problems_of_kill(0) == ["ended with 0 instead of by the kill"]


FULL = f"error: /out/a.csv: {os.strerror(errno.ENOSPC)}; make room"


@pytest.mark.parametrize(
    ("code", "said", "error", "found", "problem"),
    [
        (1, FULL, errno.ENOSPC, {}, None),
        (1, "error: no room", errno.ENOSPC, {}, "no line has path and reason"),
        (1, FULL, errno.EIO, {}, "no line has path and reason"),
        (0, "", errno.EIO, {"a.csv": "1"}, None),
        (0, "", errno.EIO, {"a.csv": "1", ".a.csv.tmp": "2"}, None),
        (0, "", errno.EIO, {"a.csv": "2"}, "ended with 0, and a.csv is different"),
        (0, "", errno.EIO, {}, "ended with 0, and a.csv is missing"),
        (0, "", 0, {"a.csv": "1"}, None),
        (1, FULL, 0, {}, "after half a write"),
        (2, "error: /out: no", errno.EACCES, {".run-lock": ""}, None),
        (2, "error: /out: no", errno.EACCES, {"b.csv": "1"}, "something was done"),
        (2, FULL, errno.ENOSPC, {}, "ended with 2"),
        (-signal.SIGABRT, "", errno.EIO, {}, "ended with -6: (it said nothing)"),
        (1, f"{FULL}\nTraceback (most recent call last):\nOh", errno.ENOSPC, {}, "traceback: Oh"),
        (1, f"{FULL}\nunexpected; please report it", errno.ENOSPC, {}, "nobody expected"),
    ],
)
def test_what_is_wrong_with_an_ending_is_found(code, said, error, found, problem):
    problems = problems_of_error(
        code,
        said,
        error,
        found,
        wanted={"a.csv": "1"},
        before={},
        places=(Path("/out"),),
    )
    assert len(problems) == (problem is not None), problems
    assert problem is None or problem in problems[0]


def test_what_is_wrong_after_going_on_is_found(tmp_path):
    assert problems_of_resume(0, "", {"a": "1"}, {"a": "1"}, tmp_path) == []
    (tmp_path / "wsi-hr-scratch-1").touch()
    assert problems_of_resume(1, "error: no", {"a": "2", "b": ""}, {"a": "1"}, tmp_path) == [
        "again: ended with 1: error: no",
        "again: a is different",
        "again: b is a stray",
        "again: wsi-hr-scratch-1 is left in TMPDIR",
    ]


def test_files_that_are_cut_short_are_found(tmp_path):
    for kind in ("png", "jpg"):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / f"a.{kind}")
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, 2, 3]}))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2345}\n')
    (tmp_path / "a.csv").write_text("a,b\n1,23456\n")
    (tmp_path / "a.yaml").write_text("a: 1\n")
    assert cut_short(tmp_path) == []
    names = sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        path = tmp_path / name
        (tmp_path / f".{name}.tmp").write_bytes(path.read_bytes()[:3])  # nobody's result
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if name != "a.yaml" else 0])
    assert cut_short(tmp_path) == [f"{name} is cut short" for name in names]


def test_a_store_that_is_half_or_lost_is_found(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    assert "half a store: " in cut_short(tmp_path)[0]
    assert lost_stores(tmp_path, {"a.zarr": "a folder", "a.csv": ""}) == [
        "a.zarr, which was finished, is lost"
    ]


def test_states_are_equal_whatever_chance_has_drawn(tmp_path):
    for name, attempt, content in (("one", "0" * 32, "x"), ("two", "f" * 32, "x"), ("3", "a", "y")):
        (tmp_path / name / f".attempt-{attempt}").mkdir(parents=True)
        (tmp_path / name / "a").write_text(content)
        (tmp_path / name / ".run-lock").write_text(name)
    one, two, three = (state_of(tmp_path / name) for name in ("one", "two", "3"))
    assert one == two != three


def test_faults_and_endings_travel_as_json():
    fault = Fault(3, "on", errno.ENOSPC, ["write"])
    assert Fault(**json.loads(json.dumps(asdict(fault)))) == fault
    assert Ended(**json.loads(json.dumps(asdict(Ended(1, 0.5))))) == Ended(1, 0.5)


@pytest.mark.slow
def test_every_call_of_an_export_may_be_its_last_or_find_the_disk_full(tmp_path):
    modes = ("kill", "full")
    report = crash_points(tmp_path, commands=("export clam",), modes=modes)
    assert report.violations == []
    facts = report.facts["commands"]["export clam"]
    assert facts["cases"]["kill"] == sum(facts["calls"].values()) > 30
    assert 10 < facts["cases"]["full"] < facts["cases"]["kill"]
    if report.facts["strace"] == "not installed":
        pytest.skip("all but the comparison with strace, which is not installed")
    assert report.facts["strace"] == "0 differences"


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("commands", "modes"),
    [pytest.param(*sweep, id=row, marks=pytest.mark.fault(row)) for row, sweep in SWEEPS.items()],
)
def test_every_call_goes_wrong(tmp_path, commands, modes):
    report = crash_points(tmp_path, commands=commands, modes=modes)
    assert report.violations == []
    assert report.facts["cases"] > report.facts["states"] > 0


def test_every_mode_is_swept():
    assert {mode for _, modes in SWEEPS.values() for mode in modes} == set(MODES)
    killed = [name for row in "abcde" for name in SWEEPS[f"A5{row}"][0]]
    assert sorted(killed) == sorted(NAMES)


@pytest.mark.slow
def test_a_failure_that_is_kept_secret_is_found(tmp_path):
    """The other planted bugs take minutes: ``python -m benchmarks.faults prove``."""
    number = [proof[0] for proof in PROOFS].index("swallowed")
    assert prove(tmp_path, seed=0, number=number) == []


def test_every_kind_of_call_can_go_wrong_in_several_ways():
    for kind in KINDS - {"fsync"}:
        assert sum(kind in mode.kinds for mode in MODES.values()) >= 3
    assert sum("fsync" in mode.kinds for mode in MODES.values()) >= 3
