"""Stores behind a URL: a real S3 server on this machine, kills while uploading, all commands."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from moto.server import ThreadedMotoServer

from pipelines.tile import tile_stage
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.config import TileConfig
from wsi_hr.errors import StoreError
from wsi_hr.geometry import Point, Size
from wsi_hr.remote import Place, RemotePath, place
from wsi_hr.slides.isolate import stop_isolated
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.svs import TILE_PX, write_svs

CONFIG = TileConfig(patch_size=128, mpp=1.0)  # pyright: ignore[reportCallIssue]
TABLES = {"status.csv", "run.json"}
_numbers = itertools.count()

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the server's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """An S3 server on a free port of this machine, told to drivers as a user would."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # its requests are no log of ours
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        stop_isolated()  # the slides' processes have the environment of when the first was started
        import s3fs

        s3fs.S3FileSystem(use_listings_cache=False).mkdir("bucket")
        yield
    server.stop()


@pytest.fixture
def bucket(s3) -> RemotePath:
    """An empty folder there."""
    return url(f"s3://bucket/{next(_numbers)}/store")


def url(text: str) -> RemotePath:
    found = place(text)
    assert isinstance(found, RemotePath)
    return found


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Two small slides of noise, 0.5 um/px."""
    folder = tmp_path_factory.mktemp("two") / "slides"
    folder.mkdir()
    for name, width in (("slide_001.svs", 512), ("slide_002.svs", 768)):
        rng = np.random.default_rng(width)

        def tile_at(corner: Point, rng: np.random.Generator = rng):
            coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
            return np.uint8([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3))).astype(np.uint8)

        glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
        write_svs(folder / name, size=Size(width, 512), mpp=0.5, tile_at=tile_at, glass=glass)
    return folder


@pytest.fixture(scope="module")
def local(slides, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "store"
    tile_stage([slides], folder, CONFIG, workers=1)
    return folder


def tree(folder: Place) -> dict[str, bytes]:
    if isinstance(folder, RemotePath):
        names = list(folder.sizes())
    else:
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    return {name: (folder / name).read_bytes() for name in names if name not in TABLES}


def test_the_same_files_as_in_a_folder(slides, local, bucket):
    rows = tile_stage([slides], bucket, CONFIG, workers=2)
    assert [row["status"] for row in rows] == ["done", "done"]
    assert tree(bucket) == tree(local)
    assert set(bucket.sizes()) >= TABLES
    stamps = bucket.sizes()
    again = tile_stage([slides], bucket, CONFIG, workers=2)
    assert again == rows, "kept, with the seconds they took"
    assert bucket.sizes().keys() == stamps.keys()
    assert stored_slides(bucket) == ["slide_001", "slide_002"]


@pytest.mark.slow
def test_workers_of_a_cluster_upload_the_same_files(slides, local, bucket, cli, tmp_path):
    """They are processes of their own, with the credentials they were started with."""
    options = {"dashboard_address": "127.0.0.1:0", "local_directory": str(tmp_path / "dask")}
    asked = ("--mpp", 1.0, "--patch-size", 128)
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        where = ("--scheduler", cluster.scheduler_address)
        tiled = cli("tile", slides, "-o", bucket, *asked, *where)
        again = cli("tile", slides, "-o", bucket, *asked, *where)
    assert tiled.code == again.code == 0, tiled.out + tiled.err
    assert "2 done" in tiled.out
    assert tree(bucket) == tree(local)


@pytest.mark.slow
def test_the_spans_of_a_slide_are_uploaded_one_by_one(bucket, tmp_path):
    coarse = np.random.default_rng(0).integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
    tile = np.uint8([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3))).astype(np.uint8)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    size = Size(16 * TILE_PX, 13 * TILE_PX)
    write_svs(tmp_path / "s.svs", size=size, mpp=0.5, tile_at=lambda _: tile, glass=glass)
    config = TileConfig(patch_size=64, more_mpp=(1.0,))  # pyright: ignore[reportCallIssue]
    tile_stage([tmp_path / "s.svs"], tmp_path / "alone", config)
    options = {"dashboard_address": "127.0.0.1:0", "local_directory": str(tmp_path / "dask")}
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **options) as cluster:
        (row,) = tile_stage(
            [tmp_path / "s.svs"], bucket, config, scheduler=cluster.scheduler_address
        )
    assert row["status"] == "done", row["reason"]
    assert tree(bucket) == tree(tmp_path / "alone")


def test_every_command_reads_them(store, run, labels, bucket, cli, tmp_path, tree):
    for file in store.rglob("*"):
        if file.is_file():
            (bucket / file.relative_to(store).as_posix()).upload(file)
    checked = cli("verify", bucket)
    assert (checked.code, "8 sound" in checked.out) == (0, True), checked.out + checked.err
    for place_, name in ((store, "here"), (bucket, "there")):
        predicted = cli("predict", run, place_, "-o", tmp_path / name)
        assert predicted.code == 0, predicted.out + predicted.err
        one = place_ / "slide_003.zarr"
        assert cli("export", one, "-o", tmp_path / name / "x", "--format", "png").code == 0
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    options = ("--set", "train.epochs=1", "--encoder", "test_resnet", "--device", "cpu")
    trained = cli("train", bucket, "--labels", labels.path, "-o", tmp_path / "run", *options)
    assert trained.code == 0, trained.out + trained.err


@pytest.mark.fault("G9")
def test_hashed_names_behind_a_url(slides, bucket, cli, tmp_path):
    """The key file stays here; what is there names neither slides nor folders, nor has the salt."""
    named, key = tmp_path / "KLINIK_NORD", tmp_path / "key.csv"
    named.mkdir()
    for slide, surname in zip(sorted(slides.iterdir()), ("ABELMANN", "BRANDTNER"), strict=True):
        shutil.copy(slide, named / f"{surname} 1961.svs")
    asked = ("--mpp", 1.0, "--patch-size", 128, "--workers", 1, "--hash-names", key)
    tiled = cli("tile", named, "-o", bucket, *asked)
    assert tiled.code == 0, tiled.out + tiled.err
    there = {name: (bucket / name).read_bytes() for name in bucket.sizes()}
    with key.open() as handle:
        salt = next(row["name"] for row in csv.DictReader(handle) if row["kind"] == "salt").encode()
    secrets = (b"KLINIK", b"ABELMANN", b"BRANDTNER", b"key.csv", salt, base64.b32decode(salt))
    assert len(there) > 20
    for name, content in there.items():
        assert not any(secret in name.encode() + content for secret in secrets), name
    assert cli("tile", named, "-o", tmp_path / "here", *asked).code == 0
    assert tree(bucket) == tree(tmp_path / "here")
    again = cli("tile", named, "-o", bucket, *asked)
    assert (again.code, "2 done" in again.out) == (0, True)
    assert tree(bucket) == {name: there[name] for name in there.keys() - TABLES}
    checked = cli("verify", bucket, "--slides", named, "--hash-names", key)
    assert (checked.code, "2 sound" in checked.out) == (0, True), checked.out
    for other in ((), ("--hash-names", tmp_path / "other.csv")):
        refused = cli("tile", named, "-o", bucket, *asked[:-2], *other)
        assert refused.code == 2, refused
        assert not (tmp_path / "other.csv").exists()
    exported = cli("export", bucket, "-o", tmp_path / "out", "--format", "clam")
    assert exported.code == 0
    assert "argv" not in json.loads((tmp_path / "out/run.json").read_text())


def test_patches_in_any_order(store, bucket):
    one = store / "slide_001.zarr"
    for file in one.rglob("*"):
        if file.is_file():
            (bucket / one.name / file.relative_to(one).as_posix()).upload(file)
    here, there = PatchStore.open(one), PatchStore.open(bucket / one.name)
    pixels = here.read(np.arange(len(here)))
    order = np.random.default_rng(0).integers(0, len(here), 70)
    for some in (np.arange(len(here)), order, order[:1], order[:0]):
        assert np.array_equal(there.read(some), pixels[some])
    if here.holds_jpeg:
        some = np.array([3, 1])
        assert there.read_jpeg(some).streams == here.read_jpeg(some).streams
    bag = BagSet(bucket).open("slide_001")
    assert np.array_equal(bag.read(np.arange(len(bag))), pixels)


def test_damage_and_loss_are_named(local, bucket, cli):
    one = local / "slide_001.zarr"
    names = [file.relative_to(local).as_posix() for file in one.rglob("*") if file.is_file()]
    for name in names:
        (bucket / name).upload(local / name)
    shard = next(name for name in names if "/patches/c" in name)
    content = bytearray((local / shard).read_bytes())
    content[100] ^= 1
    store = PatchStore.open(bucket / one.name)
    (bucket / shard).write_bytes(bytes(content))
    with pytest.raises(StoreError, match=rf"{shard}: patch 0 cannot be read \(its checksum"):
        store.read(np.array([0]))
    assert "its bytes have changed" in cli("verify", bucket).out
    (bucket / shard).unlink()
    with pytest.raises(StoreError, match="a file of the store is missing"):
        store.read(np.array([1]))
    with pytest.raises(StoreError, match=f"{shard}: missing"):
        PatchStore.open(bucket / one.name)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
from wsi_hr.remote import RemotePath, place

left = int(sys.argv[3])
upload = RemotePath.upload

def counted(self, local):
    global left
    if ".zarr/" in self.url:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    upload(self, local)

RemotePath.upload = counted
tile_stage([Path(sys.argv[1])], place(sys.argv[2]), TileConfig(patch_size=128, mpp=1.0), workers=1)
"""


@pytest.mark.fault("A1c")
@pytest.mark.parametrize("uploads", ["all but the manifest", "one store and a half"])
def test_a_kill_while_uploading_leaves_no_half_store(
    slides, local, bucket, tmp_path, monkeypatch, uploads
):
    num_files = sum(1 for file in (local / "slide_001.zarr").rglob("*") if file.is_file())
    counts = {"all but the manifest": num_files - 1, "one store and a half": num_files * 3 // 2}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(slides), str(bucket), str(counts[uploads])],
        env=os.environ | {"TMPDIR": str(scratch)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(scratch.glob("wsi-hr-*")), "what it was writing"
    found = [name for name in bucket.sizes() if ".zarr/" in name]
    assert found
    complete = [name for name in found if name.endswith("manifest.json")]
    assert len(complete) == (uploads == "one store and a half")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    rows = tile_stage([slides], bucket, CONFIG, workers=2)
    assert [row["status"] for row in rows] == ["done", "done"]
    assert tree(bucket) == tree(local)
    assert not list(scratch.glob("wsi-hr-*"))


def test_half_uploads_of_slides_that_are_asked_no_more_are_swept(slides, local, bucket):
    for name in ("zarr.json", "mask/zarr.json"):
        (bucket / "gone.zarr" / name).upload(local / "slide_001.zarr" / name)
    (bucket / "other.zarr/zarr.json").write_bytes(b"{}")
    tile_stage([slides / "slide_001.svs"], bucket, CONFIG, workers=1)
    assert not (bucket / "gone.zarr").exists()
    assert (bucket / "other.zarr/zarr.json").is_file(), "somebody else's"


def test_a_slide_that_changed_keeps_its_store_aside_until_it_is_tiled(slides, tmp_path):
    store = url(f"memory://remote/{next(_numbers)}")
    path = Path(shutil.copy(slides / "slide_001.svs", tmp_path / "a.svs"))
    tile_stage([path], store, CONFIG, workers=1)
    before, content = tree(store), path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (row,) = tile_stage([path], store, CONFIG, workers=1)
    assert row["status"] == "failed"
    assert (store / "outdated/a.zarr/manifest.json").is_file()
    assert not (store / "a.zarr").exists()
    path.write_bytes(content)
    (row,) = tile_stage([path], store, CONFIG, workers=1)
    assert row["status"] == "done"
    after = tree(store)
    assert {n: c for n, c in after.items() if "a.zarr" in n} == {
        name: content for name, content in before.items() if "a.zarr" in name
    }
    shutil.copy(slides / "slide_002.svs", path)
    (row,) = tile_stage([path], store, CONFIG, workers=1)
    assert row["status"] == "done"
    assert not (store / "outdated").exists()
    assert PatchStore.open(store / "a.zarr").info.source_size == path.stat().st_size


def test_what_cannot_be_reached_is_one_sentence(slides, cli, tmp_path, s3, monkeypatch):
    def told(*args: object) -> str:
        outcome = cli(*args)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "nothing here knows nosuch://" in told("tile", slides, "-o", "nosuch://x/y")
    assert "cannot be written" in told("tile", slides, "-o", "s3://no-such-bucket/store")
    assert "no such folder" in told("verify", "s3://no-such-bucket/store")
    assert "--dry-run" in told("tile", slides, "-o", "s3://bucket/x", "--dry-run")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    assert "s3://bucket/store" in told("verify", "s3://bucket/store")


def test_who_else_may_be_at_work_is_warned_of(slides, caplog):
    store = url(f"memory://remote/{next(_numbers)}")
    (store / ".run-lock").write_bytes(b"host elsewhere, pid 1\n")
    tile_stage([slides / "slide_001.svs"], store, CONFIG, workers=1)
    assert "another run works there (host elsewhere, pid 1), or was killed" in caplog.text
    assert not (store / ".run-lock").exists()
    assert json.loads((store / "run.json").read_text())["command"] == "tile"
