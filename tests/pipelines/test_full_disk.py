"""A disk that takes no more: every command says where, ends with 1, and goes on when there is room.

A limit on the size of files stands for the full disk: it needs no privileges, and reaches whatever
writes, in whichever library or child process.
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsi_hr.slides.isolate import stop_isolated

TRAIN = ("--encoder", "test_resnet", "--epochs", 1, "--device", "cpu", "--set", "train.threads=1")
LIMITS = (0, 60, 400, 3_000, 20_000, 100_000)  # bytes
COMMANDS = (
    *("tile", "dry run", "train", "predict", "predict slides", "sample"),
    *("clam", "trident", "webdataset", "png", "jpeg"),
)


@pytest.fixture
def command(cohort, store, run, request: pytest.FixtureRequest) -> Callable[[Path], tuple]:
    """The command of that name, given where it writes."""
    slides = [cohort / f"slides/slide_00{number}.svs" for number in (1, 2)]
    tile = ("tile", *slides, "--recipe", "demo", "--workers", 1)
    return {
        "tile": lambda out: (*tile, "-o", out),
        "dry run": lambda out: (*tile, "-o", out, "--dry-run"),
        "train": lambda out: (
            *("train", store, "--labels", cohort / "labels.csv", "-o", out, *TRAIN),
            *("--set", "method.num_salient=4", "--set", "method.num_sub_salient=4"),
        ),
        "predict": lambda out: ("predict", run, store, "-o", out, "--device", "cpu"),
        "predict slides": lambda out: ("predict", run, *slides, "-o", out, "--device", "cpu"),
        "sample": lambda out: ("sample", store, "-o", out, "--set", "encoder.name=test_resnet"),
    }.get(request.param, lambda out: ("export", store, "-o", out, "--format", request.param))


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Let no file grow longer, in this process and in those it starts."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    stop_isolated()  # what was started before has other limits
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        stop_isolated()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_a_full_disk_is_told_with_its_place_and_the_same_command_goes_on(
    command, cli, tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli(*command(whole)).code == 0
    ended = None
    for limit in LIMITS:
        with files_up_to(limit):
            ended = cli(*command(out))
        if ended.code == 0:
            break
        assert ended.code == 1, (limit, ended)
        assert "Traceback" not in ended.err
        assert "please report" not in ended.out + ended.err
        told = ended.out + ended.err
        assert f"{out}: cannot be written (File too large)" in told or (
            f"{out}/" in told and "cannot be written (File too large)" in told
        ), (limit, ended)
        assert ".attempt" not in told
        assert not list(out.rglob(".*")), "nothing half-written stays"
    assert cli(*command(out)).code == 0
    without = ("status.csv", "plan.csv")  # how long it took
    assert tree(out, *without) == tree(whole, *without)


def test_a_demo_on_a_full_disk_is_told_with_its_place(cli, tmp_path):
    for limit in LIMITS[:3]:
        with files_up_to(limit):
            ended = cli("demo", "-o", tmp_path / "out", "--workers", 1)
        assert ended.code == 1
        assert f"{tmp_path / 'out'}" in ended.err
        assert "cannot be written (File too large)" in ended.err
        assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "doctor", "--help"])
def test_a_full_disk_behind_the_standard_output_is_told(command):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [Path(sys.executable).with_name("wsi-hr"), command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: standard output: No space left on device; mend that and start the same command "
        "again\n"
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_all_files_have_the_mode_that_the_user_asks_for(command, cli, tmp_path):
    """Checkpoints too, which another library would make readable for nobody else."""
    before = os.umask(0o027)
    stop_isolated()  # what was started before has another mask
    try:
        assert cli(*command(tmp_path / "out")).code == 0
    finally:
        os.umask(before)
        stop_isolated()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*")}
    wrong = [path for path in modes if modes[path] != (0o750 if path.is_dir() else 0o640)]
    assert modes
    assert wrong == []
