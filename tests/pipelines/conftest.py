"""One small cohort for all tests of the stages: made, tiled and learned from once a session."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.predict import predict_stage
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from wsi_hr.config import Config, TileConfig, resolve_config
from wsi_hr.geometry import Size
from wsi_hr.runtime import sha256_file
from wsi_hr.testing.cohort import make_cohort
from wsi_hr.testing.svs import TILE_PX, write_svs

SETTINGS = {
    "seed": 3,
    "encoder": {"name": "test_resnet", "chunk": 32},
    "method": {"num_salient": 4, "num_sub_salient": 4, "explore_patches": 6},
    "train": {"epochs": 2, "batch_size": 2, "lr": 1e-3, "device": "cpu", "threads": 1},
    "predict": {"heatmap_px": 300},
}


@pytest.fixture(scope="session")
def settings() -> Callable[..., Config]:
    """The cohort's settings, with ``key=value`` texts on top."""
    return lambda *assignments: resolve_config(SETTINGS, {}, assignments)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Eight slides of 24 to 28 patches, half of them with a lesion, and their labels.csv."""
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(folder, num_slides=8, size_px=2048, lesion_share=(0.1, 0.2), workers=1)
    return folder


@pytest.fixture(scope="session")
def store(cohort, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiled") / "store"
    rows = tile_stage([cohort / "slides"], folder, resolve("demo", {}, ()).tile, workers=2)
    assert {row["status"] for row in rows} == {"done"}
    return folder


@pytest.fixture(scope="session")
def two_scales(cohort, tmp_path_factory) -> Path:
    """Two slides at two scales; tests leave them as they are."""
    folder = tmp_path_factory.mktemp("scales")
    asked = {"mpp": 2.0, "more_mpp": [5.0], "patch_size": 64, "min_tissue": 0.0}
    names = ("slide_001", "slide_002")
    config = TileConfig.model_validate(asked)
    tile_stage([cohort / f"slides/{name}.svs" for name in names], folder, config, workers=2)
    return folder


@pytest.fixture(scope="session")
def labels(cohort) -> LabelsSource:
    return LabelsSource(cohort / "labels.csv")


@pytest.fixture(scope="session")
def run(store, labels, settings, tmp_path_factory) -> Path:
    """A finished run; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_stage(store, labels, folder, settings(), None)
    return folder


@pytest.fixture(scope="session")
def predicted(run, store, tmp_path_factory) -> Path:
    """What an undisturbed prediction of the whole store leaves."""
    out = tmp_path_factory.mktemp("predicted")
    predict_stage(run, [store], out, device="cpu")
    return out


@pytest.fixture
def own_store(store, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(store, tmp_path / "own_store")


@pytest.fixture
def own_run(run, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(run, tmp_path / "own_run")


@pytest.fixture(scope="session")
def tree() -> Callable[..., dict[str, str]]:
    """Digests of all files below a folder by name, run.json and what is asked left out."""

    def digests(folder: Path, *without: str) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in {"run.json", *without}
        }

    return digests


@pytest.fixture
def shard() -> Callable[[Path, str], Path]:
    """The first file of patches of a slide's store."""
    return lambda store, slide_id: next(store.glob(f"{slide_id}.zarr/scale_*/patches/c*"))


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch, capsys) -> Iterator[Callable[..., Outcome]]:
    """Run ``wsi-hr ARGS...`` in this process."""
    root = logging.getLogger()
    handlers, level, on_term = root.handlers[:], root.level, signal.getsignal(signal.SIGTERM)

    def call(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["wsi-hr", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, printed.out, printed.err)

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)
    signal.signal(signal.SIGTERM, on_term)


# Importing torch and timm takes seconds. So one process imports them, and every command that is to
# be killed runs in a fork of it: a real process of its own, which starts at once.
FORGE = """
import json, os, sys
import pipelines.predict, pipelines.train
from pipelines.cli import main
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for stream, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(job[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin.close()
        sys.argv = ["wsi-hr", *job["argv"]]
        exec(job["before"], {})
        try:
            main()
        finally:
            sys.stdout.flush()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Command:
    """A wsi-hr command that runs as a process of its own."""

    pid: int
    out: Path
    err: Path
    reply: Callable[[], str]
    code: int | None = None

    def send(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)

    def wait(self) -> int:
        """Its exit code; minus the signal's number if a signal ended it."""
        if self.code is None:
            self.code = int(self.reply())
        return self.code


@pytest.fixture(scope="session")
def _forge() -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", FORGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def start(_forge, tmp_path) -> Iterator[Callable[..., Command]]:
    """Start ``wsi-hr ARGS...`` as a process, one at a time; code ``before`` runs in it first."""
    started: list[Command] = []

    def begin(*args: object, before: str = "") -> Command:
        out, err = tmp_path / "stdout", tmp_path / "stderr"
        job = {"argv": [str(arg) for arg in args], "out": str(out), "err": str(err)}
        job |= {"before": before}
        _forge.stdin.write(json.dumps(job) + "\n")
        _forge.stdin.flush()
        pid = int(_forge.stdout.readline())
        started.append(Command(pid, out, err, _forge.stdout.readline))
        return started[-1]

    yield begin
    for command in started:
        if command.code is None:
            command.send(signal.SIGKILL)
            command.wait()


@pytest.fixture(scope="session")
def odd_slides(cohort, tmp_path_factory) -> Path:
    """Three good slides of strange names, one of bare glass, one broken, one named twice."""
    folder = tmp_path_factory.mktemp("odd")
    for name, number in (("=cmd", 1), ("a b ü😐", 2), ("007", 3)):
        shutil.copy(cohort / f"slides/slide_00{number}.svs", folder / f"{name}.svs")
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    size = Size(2048, 2048)
    write_svs(folder / "blank.svs", size=size, mpp=0.5, tile_at=lambda _: None, glass=glass)
    (folder / "broken.svs").write_text("<html>")
    (folder / "link.svs").symlink_to(folder / "007.svs")
    return folder


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of one MB; a real one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this container lets nobody mount")
    yield folder
    subprocess.run(["umount", folder], check=True)
