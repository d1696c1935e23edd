"""Section A of docs/faults.md: signals, power cuts and clocks; kills have their own tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.command_runs import ROOT
from benchmarks.planted import plant
from pipelines.lock import LOCK_FILE

from ..processes import is_running
from .oracle import Ended, fault, timed, wrong_ending, wrong_tree
from .slide_damage import write_victim

YEAR_S = 365 * 86_400
TILED = ("--mpp", 0.5, "--patch-size", 128, "--workers", 1)


@dataclass(frozen=True)
class Work:
    """A command whose arguments end where its output begins, and what it leaves undisturbed.

    Attributes:
        given: the arguments.
        wanted: the output.
        item: ``module:function`` that is called for every item of the work.
    """

    given: tuple[object, ...]
    wanted: Path
    item: str


ITEMS = {
    "tile": "pipelines.tile_jobs:settle",
    "train": "wsi_hr.training.loop:_step",
    "predict": "pipelines.predict:draw_heatmap",
    "export": "pipelines.export:_export_one",
    "sample": "pipelines.sample:_sample_one",
}
"""What each command does again and again."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(4):
        write_victim(folder / f"s{seed}.svs", seed)
    return folder


@pytest.fixture
def work(slides, store, labels, run, predicted, cli, tmp_path_factory) -> Callable[[str], Work]:
    """A command by its name; what it leaves undisturbed is made once."""
    given: dict[str, tuple[object, ...]] = {
        "tile": ("tile", slides, *TILED),
        "train": ("train", store, "--labels", labels.path, "--recipe", run / "config.yaml"),
        "predict": ("predict", run, store, "--device", "cpu"),
        "export": ("export", store, "--format", "clam"),
        "sample": ("sample", store, "--sampler", "windows", "--recipe", "demo"),
    }

    def of(name: str) -> Work:
        wanted = {"train": run, "predict": predicted}.get(name)
        if wanted is None:
            wanted = tmp_path_factory.getbasetemp() / f"undisturbed_{name}"
            if not wanted.exists():
                assert cli(*given[name], "-o", wanted).code == 0
        return Work(given[name], wanted, ITEMS[name])

    return of


def at_item(number: int, item: str, act: str) -> str:
    """Code that has a command do something when it comes to an item."""
    module, _, name = item.partition(":")
    return f"""
import importlib, os, signal
def at_item(module, sound, seen):
    def called(*given, **named):
        seen.append(1)
        if len(seen) == {number}:
            {act}
        return sound(*given, **named)
    module.{name} = called
found = importlib.import_module({module!r})
at_item(found, found.{name}, [])
"""


def again(cli, work: Work, out: Path) -> Ended:
    return timed(cli, *work.given, "-o", out)


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_running, pids))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        fault("A4a", "predict", "SIGTERM"),
        fault("A4b", "predict", "SIGINT"),
        fault("A4b", "export", "SIGINT"),
        fault("A4a", "sample", "SIGTERM"),
    ],
)
def test_a_signal_is_told_and_costs_nothing_but_time(start, cli, work, tmp_path, name, how):
    """Tiling and training have theirs in ``test_tile_stopped.py`` and ``test_train_stopped.py``."""
    out, done = tmp_path / "out", work(name)
    act = f"os.kill(os.getpid(), signal.{how})"
    process = start(*done.given, "-o", out, before=at_item(3, done.item, act))
    assert process.wait() == 130
    assert "error: interrupted; the same command goes on where it stopped" in (
        process.err.read_text()
    )
    assert "Traceback" not in process.err.read_text()
    assert not (out / LOCK_FILE).exists()
    assert wrong_ending(again(cli, done, out), 0) == []
    assert wrong_tree(out, done.wanted) == []


@pytest.mark.fault("A3b")
@pytest.mark.parametrize("name", ["export", "sample"])
def test_killed_it_ends_with_the_same_files(start, cli, work, tmp_path, name):
    out, done = tmp_path / "out", work(name)
    act = "os.kill(os.getpid(), signal.SIGKILL)"
    process = start(*done.given, "-o", out, before=at_item(3, done.item, act))
    assert process.wait() == -signal.SIGKILL
    assert wrong_ending(again(cli, done, out), 0) == []
    assert wrong_tree(out, done.wanted) == []


@pytest.mark.fault("A17")
def test_killed_inside_a_checkpoint_it_leaves_no_temporary_file(start, cli, work, tmp_path):
    out, done = tmp_path / "out", work("train")
    act = at_item(1, "wsi_hr.runtime:fsync_file", "os.kill(os.getpid(), signal.SIGKILL)")
    inside = at_item(2, "wsi_hr.training.checkpoint:save", f"exec({act!r}, {{}})")
    process = start(*done.given, "-o", out, before=inside)
    assert process.wait() == -signal.SIGKILL
    left = {path.name for path in out.iterdir()} - {path.name for path in done.wanted.iterdir()}
    assert left - {LOCK_FILE}, "in the middle of a file"
    assert wrong_ending(again(cli, done, out), 0) == []
    assert wrong_tree(out, done.wanted) == []


@pytest.mark.fault("A7c")
@pytest.mark.parametrize("name", ["train", "predict", "export", "sample"])
def test_a_disk_that_fills_up_is_told_with_the_path(cli, work, small_disk, name):
    done, out = work(name), small_disk / "out"
    need = sum(path.stat().st_size for path in done.wanted.rglob("*") if path.is_file())
    resize(small_disk, need // 2)
    ended = again(cli, done, out)
    assert wrong_ending(ended, 1) == []
    assert re.search(
        rf"error: {out}/\S+: cannot be written \(No space left on device\)", ended.err
    ), ended.err
    resize(small_disk, 4 * need + (1 << 20))
    assert wrong_ending(again(cli, done, out), 0) == []
    assert wrong_tree(out, done.wanted) == []


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size // 1024}k", disk], check=True)


# A process writes down what it has flushed: inode, size and time of the last write. After a power
# cut nobody knows what is in the other files.
FLUSHES = """
import os
_flush = os.fsync
def _fsync(handle):
    _flush(handle)
    found = os.fstat(handle)
    with open({log!r}, "a") as log:
        log.write(f"{{found.st_ino}} {{found.st_size}} {{found.st_mtime_ns}}\\n")
os.fsync = _fsync
"""


def at_risk(folder: Path, log: Path) -> list[Path]:
    """Files whose content may be lost when power fails."""
    flushed = set(log.read_text().splitlines()) if log.exists() else set()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK_FILE and told(path) not in flushed
    ]


def told(path: Path) -> str:
    found = path.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def lost(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.fault("A10a", "A10b")
@pytest.mark.parametrize("name", ["tile", "train", "predict"])
def test_a_power_cut_costs_nothing_but_time(start, cli, work, tmp_path, name):
    stopped, done, log = tmp_path / "stopped", work(name), tmp_path / "flushed"
    flushes = FLUSHES.format(log=str(log))
    before = flushes
    if name == "tile":  # whose slides are written by other processes
        path = f"{plant(tmp_path / 'planted', flushes)}:{ROOT}"
        before += f"os.environ['PYTHONPATH'] = {path!r}\n"
    before += at_item(3, done.item, "os.kill(os.getpid(), signal.SIGKILL)")
    process = start(*done.given, "-o", stopped, before=before)
    assert process.wait() == -signal.SIGKILL, process.err.read_text()
    names = [path.relative_to(stopped) for path in at_risk(stopped, log)]
    assert log.exists()
    assert not any(name.parts[0].endswith(".zarr") for name in names), "stores are there for good"
    for lose in (lost, emptied):
        out = tmp_path / lose.__name__
        shutil.copytree(stopped, out)
        for risky in names:
            lose(out / risky)
        assert wrong_ending(again(cli, done, out), 0) == []
        assert wrong_tree(out, done.wanted) == []


def test_what_was_not_flushed_is_found(tmp_path):
    """The oracle's own proof."""
    (tmp_path / "out").mkdir()
    log, sound, lost = tmp_path / "log", tmp_path / "out/sound", tmp_path / "out/lost"
    names: dict[str, object] = {}
    flush = os.fsync
    try:
        exec(FLUSHES.format(log=str(log)), names)
        for path in (sound, lost):
            with path.open("w") as handle:
                handle.write("a")
                handle.flush()
                os.fsync(handle.fileno())
    finally:
        os.fsync = flush
    assert at_risk(tmp_path / "out", log) == []
    lost.write_text("later")
    assert at_risk(tmp_path / "out", log) == [lost]


CLOCK = f"""
import time
now, off = time.time, []
time.time = lambda: now() - {YEAR_S} * len(off)
"""


@pytest.mark.fault("A11a", "A11b")
@pytest.mark.parametrize("name", ["tile", "train", "predict"])
def test_a_clock_that_moves_a_year_changes_nothing(start, cli, work, tmp_path, name):
    """It moves back while the first run works, and again, or ahead, before the next one."""
    stopped, done = tmp_path / "stopped", work(name)
    moves = at_item(2, done.item, "off.append(1)")
    stops = at_item(3, done.item, "os.kill(os.getpid(), signal.SIGINT)")
    process = start(*done.given, "-o", stopped, before=CLOCK + moves + stops)
    assert process.wait() == 130
    for years in (1, -1):
        out = Path(shutil.copytree(stopped, tmp_path / f"{years}"))
        for path in out.rglob("*"):
            then = path.stat().st_mtime - years * YEAR_S
            os.utime(path, (then, then))
        finished = stamps(out)
        assert finished or name == "train"
        assert wrong_ending(again(cli, done, out), 0) == []
        assert wrong_tree(out, done.wanted) == []
        assert stamps(out).items() >= finished.items(), "nothing is done twice"


def stamps(out: Path) -> dict[Path, int]:
    """When each finished store and heatmap was written."""
    found = [*out.glob("*.zarr/**/*"), *out.glob("heatmaps/*")]
    return {path: path.stat().st_mtime_ns for path in found}
