"""Tiling on a dask cluster: real processes, killed, stopped, outdated and blind ones among them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile

import pipelines
from pipelines import cluster
from pipelines.cluster import Where, num_slots
from pipelines.dry_run import DryRun, dry_run
from pipelines.lock import LOCK_FILE
from pipelines.tile import tile_stage
from wsi_hr.cohort.table import read_table
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Size
from wsi_hr.runtime import sha256_file
from wsi_hr.testing.svs import TILE_PX, write_svs

from .processes import descendants, is_running

ROOT = Path(pipelines.__file__).parent.parent
# overlapping patches, so that slides which are quickly written take their time
CONFIG = TileConfig(patch_size=128, stride=32, memory_gib=1)  # pyright: ignore[reportCallIssue]
GIVEN_UP_AFTER = "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"
SCRIPT = (
    "import sys; from pathlib import Path; from pipelines.tile import tile_stage; "
    "from wsi_hr.config import TileConfig; "
    "tile_stage([Path(sys.argv[1])], Path(sys.argv[2]), "
    "TileConfig(patch_size=128, stride=32, memory_gib=1), scheduler=sys.argv[3])"
)

pytestmark = pytest.mark.slow


def write_slide(path: Path, seed: int, tiles: int = 2) -> Path:
    """Pink noise."""
    rng = np.random.default_rng(seed)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
    tile = (np.array([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3)))).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = Size(tiles * TILE_PX, 2 * TILE_PX)
    write_svs(path, size=size, mpp=0.5, tile_at=lambda _: tile, glass=glass)
    return path


def write_poison(path: Path) -> Path:
    """A small file that says it has one tile of 16384 x 16384 px: OpenSlide aborts for memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((16, 16, 3), 200, np.uint8)
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib", photometric="rgb", **scale)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            tiff.pages[0].tags[name].overwrite(16384)
    return path


def tree(store: Path) -> dict[str, str]:
    """Everything in the stores, and whatever was left beside them."""
    said = {"status.csv", "run.json", "tile.json"}
    return {
        str(file.relative_to(store)): sha256_file(file)
        for file in store.rglob("*")
        if file.is_file() and file.name not in said
    }


def eventually(fact: Callable[[], bool], seconds: float = 90) -> bool:
    until = time.monotonic() + seconds
    while not fact() and time.monotonic() < until:
        time.sleep(0.02)
    return fact()


def slide_processes(worker: subprocess.Popen[bytes]) -> list[int]:
    """The children in which a worker reads slides: those of the process that forks them."""
    return [pid for server in descendants(worker.pid) for pid in descendants(server)]


@dataclass
class Cluster:
    """A scheduler and its workers, each a process of its own, on loopback."""

    file: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.file)

    def add_worker(
        self, cwd: Path, path: Path = ROOT, blind: Path | None = None, threads: int = 1
    ) -> subprocess.Popen[bytes]:
        """Start one whose wsi-hr is that of ``path``, and for which ``blind`` is empty."""
        options = ["--scheduler-file", str(self.file), "--nthreads", str(threads), "--no-nanny"]
        options += ["--no-dashboard"]
        self.workers.append(dask("dask_worker", *options, path=path, cwd=cwd, blind=blind))
        return self.workers[-1]

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def dask(
    program: str,
    *options: str,
    path: Path = ROOT,
    cwd: Path | None = None,
    blind: Path | None = None,
) -> subprocess.Popen[bytes]:
    cover = 'mount -t tmpfs none "$0" && exec "$@"'
    before = ["unshare", "-m", "sh", "-c", cover, str(blind)] if blind else []
    call = [sys.executable, "-m", f"distributed.cli.{program}", "--host", "127.0.0.1", *options]
    return subprocess.Popen(
        [*before, *call],
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def start_cluster(tmp_path) -> Iterator[Callable[[int], Cluster]]:
    started: list[Cluster] = []

    def start(num_workers: int) -> Cluster:
        file = tmp_path / f"scheduler{len(started)}.json"
        options = ["--scheduler-file", str(file), "--port", "0", "--no-dashboard"]
        started.append(Cluster(file, dask("dask_scheduler", *options)))
        assert eventually(file.is_file)
        for _ in range(num_workers):
            started[-1].add_worker(cwd=tmp_path)
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def long_slide(tmp_path_factory) -> Path:
    """One that takes some ten seconds."""
    return write_slide(tmp_path_factory.mktemp("long") / "slides/long.svs", 0, tiles=600)


@pytest.mark.fault("A8a")
def test_a_killed_worker_and_a_poisonous_slide_cost_only_that_slide(tmp_path, start_cluster):
    """FAULTS A8: 40 slides, one of which kills what reads it, and a worker that is killed."""
    slides, store = tmp_path / "slides", tmp_path / "store"
    for seed in range(39):
        write_slide(slides / f"s{seed:02}.svs", seed, tiles=3 + 20 * (seed % 4 == 0))
    write_poison(slides / "s17_poison.tif")
    tile_stage([slides], tmp_path / "alone", CONFIG)

    cluster = start_cluster(2)
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(slides), str(store), cluster.address],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    doomed = cluster.workers[0]
    assert eventually(lambda: len(list(store.glob("*.zarr"))) >= 3 and slide_processes(doomed))
    children = descendants(doomed.pid)
    doomed.kill()
    assert run.wait(120) == 0
    assert eventually(lambda: not any(map(is_running, children))), "no orphans"

    rows = tile_stage([slides], store, CONFIG, scheduler=cluster.address)
    states = {row["slide_id"]: row["status"] for row in rows}
    assert states.pop("s17_poison") == "failed"
    assert list(states.values()) == ["done"] * 39
    (poison,) = (row for row in rows if row["slide_id"] == "s17_poison")
    assert "tile.memory_gib" in poison["reason"]
    assert tree(store) == tree(tmp_path / "alone")


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.fault("A4b")),
        pytest.param(signal.SIGTERM, marks=pytest.mark.fault("A4a")),
        pytest.param(signal.SIGKILL, marks=pytest.mark.fault("A4c")),
    ],
)
def test_a_run_that_is_stopped_stops_its_slides_on_the_workers(
    tmp_path, start_cluster, long_slide, how
):
    cluster, store = start_cluster(2), tmp_path / "store"
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(long_slide), str(store), cluster.address],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    assert eventually(lambda: any(store.glob(".attempt-*/*.tmp/scale_*/patches/c.0*")))
    children = [pid for worker in cluster.workers for pid in slide_processes(worker)]
    assert children
    run.send_signal(how)
    assert run.wait(30) != 0
    if how != signal.SIGKILL:
        assert not any(map(is_running, children)), "stopped before the run ended"
        assert not (store / LOCK_FILE).exists()
        assert not list(store.glob(".attempt-*"))
    assert eventually(lambda: not any(map(is_running, children)), 10)
    assert all(map(is_running, (worker.pid for worker in cluster.workers))), "they serve others"
    assert not list(store.glob("*.zarr"))


@pytest.mark.fault("A13")
def test_a_slide_of_a_stopped_worker_is_done_by_another(
    tmp_path, monkeypatch, start_cluster, long_slide
):
    """FAULTS A13: the stopped one goes on writing, for itself alone."""
    monkeypatch.setenv(GIVEN_UP_AFTER, "15s")
    cluster, store = start_cluster(2), tmp_path / "store"
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(long_slide), str(store), cluster.address],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert eventually(lambda: any(store.glob(".attempt-*/*.tmp/scale_*/patches/c.0*")))
    busy = next(worker for worker in cluster.workers if slide_processes(worker))
    busy.send_signal(signal.SIGSTOP)
    assert run.wait(240) == 0
    busy.send_signal(signal.SIGCONT)
    (row,) = tile_stage([long_slide], store, CONFIG)
    assert row["status"] == "done"
    (alone,) = tile_stage([long_slide], tmp_path / "alone", CONFIG)
    assert alone["status"] == "done", alone["reason"]
    assert tree(store) == tree(tmp_path / "alone")


def test_a_slide_that_no_worker_survives_fails_and_the_others_come_out(
    tmp_path, monkeypatch, start_cluster, long_slide
):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    both, store = start_cluster(2), tmp_path / "store"
    write_slide(tmp_path / "slides/b.svs", 1)
    (tmp_path / "slides/long.svs").symlink_to(long_slide)
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "slides"), str(store), both.address],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    begun = ".attempt-*/long.zarr.tmp/scale_*/patches/c.0*"
    assert eventually(lambda: any(store.glob(begun)) and (store / "b.zarr").exists())
    assert eventually(lambda: any(map(slide_processes, both.workers)))
    next(worker for worker in both.workers if slide_processes(worker)).kill()
    assert run.wait(60) == 0
    states = {row["slide_id"]: row for row in read_table(store / "status.csv").rows}
    assert states["b"]["status"] == "done"
    assert states["long"]["status"] == "failed"
    assert "every worker that took it died" in states["long"]["reason"]


def test_a_scheduler_that_ends_is_one_sentence_and_exit_code_1(tmp_path, start_cluster, long_slide):
    doomed, store = start_cluster(1), tmp_path / "store"
    program = "from pipelines.cli import main; main()"
    options = ["--patch-size", "128", "--set", "tile.stride=32", "--scheduler", doomed.address]
    run = subprocess.Popen(
        [sys.executable, "-c", program, "tile", str(long_slide), "-o", str(store), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert eventually(lambda: any(store.glob(".attempt-*/*.tmp/scale_*/patches/c.0*")))
    children = slide_processes(doomed.workers[0])
    doomed.scheduler.kill()
    _, said = run.communicate(timeout=240)
    assert run.returncode == 1
    assert said.count("\n") == 1
    assert "the dask scheduler ended, or was restarted; mend that" in said
    assert children
    assert eventually(lambda: not any(map(is_running, children)))


def test_a_dry_run_is_done_by_the_cluster_too(tmp_path, start_cluster):
    both, store = start_cluster(2), tmp_path / "store"
    for seed in range(3):
        write_slide(tmp_path / f"slides/s{seed}.svs", seed)
    assert eventually(lambda: num_slots(Where(1, both.address)) == 2)
    plan = dry_run([tmp_path / "slides"], store, CONFIG, scheduler=both.address)
    alone = dry_run([tmp_path / "slides"], store, CONFIG)
    assert (plan.slots, plan.num_patches) == (2, alone.num_patches)
    assert plan.store_bytes == alone.store_bytes > 0
    assert plan.hours == pytest.approx(seconds(plan) / 2 / 3600, rel=0.2, abs=1e-4)


def test_a_cluster_cuts_the_longest_slide_by_all_its_workers(tmp_path, start_cluster, long_slide):
    three = start_cluster(3)
    assert eventually(lambda: num_slots(Where(1, three.address)) == 3)
    plan = dry_run([long_slide], tmp_path / "store", CONFIG, scheduler=three.address)
    assert plan.slots == 3
    assert plan.hours == pytest.approx(seconds(plan) / 3 / 3600, rel=0.1)


def seconds(plan: DryRun) -> float:
    """Of all slides together."""
    return sum(float(row["seconds"]) for row in plan.rows)


def test_one_slide_is_cut_by_all_workers_and_one_of_them_may_die(
    tmp_path, start_cluster, long_slide
):
    three, store = start_cluster(3), tmp_path / "store"
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(long_slide), str(store), three.address],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert eventually(lambda: all(map(slide_processes, three.workers)))
    three.workers[0].kill()
    assert run.wait(120) == 0
    (alone,) = tile_stage([long_slide], tmp_path / "alone", CONFIG)
    assert alone["status"] == "done", alone["reason"]
    assert tree(store) == tree(tmp_path / "alone")


def test_another_version_anywhere_is_refused(tmp_path, start_cluster):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "wsi_hr", other / "wsi_hr")
    shutil.copytree(ROOT / "pipelines", other / "pipelines")
    (other / "wsi_hr/__init__.py").write_text('"""Old."""\n\n__version__ = "0.0.0"\n')
    slide, store = write_slide(tmp_path / "a.svs", 0), tmp_path / "store"
    mixed = start_cluster(0)
    mixed.add_worker(path=other, cwd=tmp_path)
    with pytest.raises(ConfigError, match=r"another wsi-hr \(0\.0\.0\) than this machine"):
        tile_stage([slide], store, CONFIG, scheduler=mixed.address)
    (other / "pipelines/cluster.py").unlink()
    mixed.add_worker(path=other, cwd=tmp_path)
    mixed.workers[0].kill()
    with pytest.raises(ConfigError, match="none, or one that is too old"):
        tile_stage([slide], store, CONFIG, scheduler=mixed.address)
    assert not list(store.glob("*.zarr"))


def test_what_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, start_cluster):
    slide, store = write_slide(tmp_path / "a.svs", 0), tmp_path / "store"
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    monkeypatch.setattr(cluster, "_WORKERS_WITHIN_S", 0.5)
    for address, sentence in {
        "nowhere.json": "no such scheduler file",
        "tcp://127.0.0.1:9": "no dask scheduler answers",
        start_cluster(0).address: "has no workers",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            tile_stage([slide], store, CONFIG, scheduler=address)
    with pytest.raises(ConfigError, match="leave --workers or --scheduler out"):
        tile_stage([slide], store, CONFIG, workers=2, scheduler="tcp://127.0.0.1:9")


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root")
def test_workers_that_do_not_see_the_files_are_refused(tmp_path, monkeypatch, start_cluster):
    """In a worker's own mount namespace, the folder's name means another folder."""
    slide, store = write_slide(tmp_path / "a/a.svs", 0), tmp_path / "b/store"
    store.mkdir(parents=True)
    monkeypatch.setattr(cluster, "_SEEN_WITHIN_S", 0.0)
    for blind, sentence in (
        (store, "does not see the output folder"),
        (slide.parent, "cannot read"),
    ):
        blinded = start_cluster(0)
        blinded.add_worker(cwd=tmp_path, blind=blind)
        with pytest.raises(ConfigError, match=sentence):
            tile_stage([slide], store, CONFIG, scheduler=blinded.address)
