"""``--hash-names``: no output tells a slide's file, its folders or a patient; the key file does."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from wsi_hr.cohort.name_key import NameKey, is_hashed_id
from wsi_hr.config import TileConfig
from wsi_hr.geometry import Size
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.store.shards import CHUNKS_PER_SHARD
from wsi_hr.testing.lesions import load_lesions
from wsi_hr.testing.svs import TILE_PX, write_svs
from wsi_hr.tiling.spans import SPAN_SHARDS

from .test_annotations import geojson, outline

CONFIG = TileConfig(patch_size=64, mpp=2.0)  # pyright: ignore[reportCallIssue]
HOUSE = "KLINIK_NORD"
SURNAMES = (
    "ABELMANN",
    "BRANDTNER",
    "CZERNOWSKI",
    "DUBOISSET",
    "EKLUNDSEN",
    "FARKASOVA",
    "GONCALVES",
    "HOLMSTROEM",
)
BAD = ("IBSENSEN", "JUHASZOVA", "KOWALSKI", "LINDQVIST")
NAMES = (HOUSE, *SURNAMES, *BAD, "KRANKENNR", "visit 3")


@dataclass(frozen=True)
class Named:
    """A hospital's folder, named after patients, and tables about it."""

    slides: Path
    labels: Path
    annotations: Path
    masks: Path


def file_of(number: int) -> str:
    """What the slide of a patient is called: blanks, accents, and bytes that are no text."""
    spelled = (f"{SURNAMES[number]} 1961", f"é_{SURNAMES[number]}", f"{SURNAMES[number]}.2")
    if number == 3:
        return os.fsdecode(b"\xe9 " + SURNAMES[number].encode()) + ".svs"
    return f"{spelled[number % 3]}.svs"


@pytest.fixture(scope="module")
def named(cohort, tmp_path_factory) -> Named:
    """The cohort under names that tell, and slides that fail, are bare glass, or come twice."""
    root = tmp_path_factory.mktemp("hospital")
    slides, masks, annotations = (root / HOUSE / name for name in ("scans", "masks", "drawn"))
    for folder in (masks, annotations):
        folder.mkdir(parents=True)
    with (cohort / "labels.csv").open() as handle:
        rows = {row["slide_id"]: row for row in csv.DictReader(handle)}
    labels = ["file;diagnosis class;patient;label"]
    for number, (slide_id, planted) in enumerate(sorted(load_lesions(cohort).items())):
        folder = slides / SURNAMES[number] / "visit 3"
        folder.mkdir(parents=True)
        shutil.copy(cohort / f"slides/{slide_id}.svs", folder / file_of(number))
        stem = file_of(number).removesuffix(".svs")
        drawn = geojson(*map(outline, planted.lesions))
        (annotations / f"{stem}.geojson").write_text(drawn)
        if number == 3:  # a table is text, the name of that file is not
            continue
        row = rows[slide_id]
        labels.append(f"{file_of(number)};x;KRANKENNR {row['patient_id']} {HOUSE};{row['label']}")
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    write_svs(slides / f"{BAD[0]}.svs", size=Size(2048, 2048), mpp=0.5, tile_at=lambda _: None,
              glass=glass)  # fmt: skip
    (slides / f"{BAD[1]}.svs").write_text("<html>")
    (slides / f"{BAD[2]}.svs").symlink_to(slides / SURNAMES[0] / "visit 3" / file_of(0))
    (slides / f"{BAD[3]}.csv").write_text(f"slide,mpp\n{BAD[3]}.svs,zero\n")
    (slides / f"{BAD[3]}.svs").write_bytes((slides / f"{BAD[0]}.svs").read_bytes() + b"other")
    (masks / f"{BAD[0]}.svs.geojson").write_text("{")  # fails its slide, and says so
    (root / HOUSE / "labels.csv").write_text("\n".join(labels))
    return Named(slides, root / HOUSE / "labels.csv", annotations, masks)


def hits(folder: Path) -> list[str]:
    """Where below ``folder`` a name stands: in names of files, and in their bytes."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = os.fsencode(path.relative_to(folder))
        if path.is_file():
            content += path.read_bytes()
        for name in NAMES:
            forms = (name.encode(), name.encode("utf-16-le"), name.lower().encode())
            found += [f"{path}: {name}" for form in forms if form in content]
    return found


def salt_in(folder: Path, key: Path) -> list[str]:
    """Where below ``folder`` the salt of a key file stands, as bytes or spelled out."""
    (salt,) = (row["name"] for row in rows_of(key) if row["kind"] == "salt")
    secret = base64.b32decode(salt)
    forms = (secret, salt.encode(), salt.lower().encode(), secret.hex().encode())
    forms += (base64.b64encode(secret), base64.urlsafe_b64encode(secret))
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path) for path in found if any(form in path.read_bytes() for form in forms)]


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def hashed_store(named, tmp_path_factory) -> tuple[Path, Path]:
    """A store of hashed names, and its key file."""
    folder = tmp_path_factory.mktemp("hashed")
    tile_stage([named.slides], folder / "store", CONFIG, hash_names=folder / "key.csv")
    return folder / "store", folder / "key.csv"


@pytest.mark.fault("G9")
def test_no_output_names_a_slide_a_folder_or_a_patient(cli, named, tmp_path):
    out, key = tmp_path / "out", tmp_path / "key.csv"
    store, again = out / "store", ("--hash-names", key)
    slides = (named.slides, named.slides / f"{BAD[3]}.csv")
    how = ("--mpp", 2, "--patch-size", 64, "--masks", named.masks)
    planned = cli("-v", "tile", *slides, "-o", store, *how, *again, "--dry-run")
    assert (planned.code, len(rows_of(store / "plan.csv"))) == (1, 13), planned.err
    tiled = cli("-v", "tile", *slides, "-o", store, *how, *again)
    assert tiled.code == 1, "two slides cannot be tiled"
    rows = rows_of(store / "status.csv")
    states = {row["status"] for row in rows}
    assert states == {"done", "failed", "skipped", "no_tissue"}
    assert {row["path"] for row in rows} == {""}
    assert all(is_hashed_id(row["slide_id"]) for row in rows)
    assert all(row["reason"] for row in rows if row["status"] != "done")
    ids = [row["slide_id"] for row in rows]
    assert ids == sorted(ids), "their order tells nothing of the names'"
    assert any("the same file as s" in row["reason"] for row in rows)
    assert any(".svs.geojson: " in row["reason"] or ".geojson: " in row["reason"] for row in rows)
    assert sum("mpp 'zero'" in row["reason"] for row in rows) == 1
    sets = "encoder.name=test_resnet train.epochs=1 train.threads=1 train.device=cpu split.val=0.2"
    sets += " method.name=patchgd method.head=window split.test=0.2"
    drawn = ("--annotations", named.annotations, *again, *(f"--set={one}" for one in sets.split()))
    trained = cli("-v", "train", store, "--labels", named.labels, "-o", out / "run", *drawn)
    assert trained.code == 0, trained.err
    new = named.slides / SURNAMES[1]
    assert cli("-v", "predict", out / "run", new, "-o", out / "new", *again).code == 0
    assert cli("-v", "predict", out / "run", store, "-o", out / "all").code == 1
    assert len(rows_of(out / "all/predictions.csv")) == 13
    assert cli("-v", "sample", store, "-o", out / "sample").code == 0
    for form in ("clam", "webdataset", "png"):
        assert cli("-v", "export", store, "-o", out / form, "--format", form).code == 0
    checked = cli("verify", store, "--slides", named.slides, *again)
    assert "8 stores: 8 sound" in checked.out
    assert hits(out) == []
    assert hits(key.parent), "the key tells them, so the search would have found them"
    assert salt_in(out, key) == []
    assert salt_in(key.parent, key) == [str(key)]


def test_what_is_told_of_a_hashed_run_is_what_is_told_of_another(hashed_store, named, tmp_path):
    store, key = hashed_store
    tile_stage([named.slides], tmp_path / "plain", CONFIG)
    same = ("status", "num_patches", "mpp", "mpp_source")
    plain, told = (
        {row["slide_id"]: [row[column] for column in same] for row in rows_of(table)}
        for table in (tmp_path / "plain/status.csv", store / "status.csv")
    )
    names = NameKey.open(key).slide_names(told)
    assert len(plain) == 12
    assert {names[slide_id]: facts for slide_id, facts in told.items()} == plain
    info = PatchStore.open(next(store.glob("*.zarr"))).info
    assert info.source_name == f"{info.slide_id}.svs"


def test_the_same_command_again_keeps_the_stores_and_the_key(hashed_store, named):
    store, key = hashed_store
    before = {path: path.stat().st_mtime_ns for path in [key, *store.glob("*.zarr")]}
    rows = tile_stage([named.slides], store, CONFIG, hash_names=key)
    assert {path: path.stat().st_mtime_ns for path in [key, *store.glob("*.zarr")]} == before
    assert len(before) == 9
    assert len(rows) == 12


def test_labels_match_by_own_names_and_by_hashes(hashed_store, named, settings, tmp_path):
    store, key = hashed_store
    config = settings("train.epochs=1", "split.val=0.2", "split.test=0.2")
    train_stage(store, LabelsSource(named.labels), tmp_path / "run", config, None, hash_names=key)
    names = NameKey.open(key)
    splits = rows_of(tmp_path / "run/splits.csv")
    assert len(splits) == 7, "the one that no table can name has no row"
    theirs = {row.split(";")[0]: row.split(";")[2] for row in named.labels.read_text().splitlines()}
    slides = names.slide_names(row["slide_id"] for row in splits)
    together = defaultdict(set)
    for row in splits:
        patient = theirs[f"{slides[row['slide_id']]}.svs"]
        together[patient].add(row["patient_id"])
        assert row["patient_id"] == names.patient_id(patient)
    assert all(len(hashes) == 1 for hashes in together.values()), "grouped as before"
    table = tmp_path / "hashed.csv"
    table.write_text(
        "slide_id,patient,label\n"
        + "".join(f"{row['slide_id']},{row['patient_id']},{row['label']}\n" for row in splits)
    )
    train_stage(store, LabelsSource(table), tmp_path / "run_2", config, None)
    drawn_anew = [{**row, "split": ""} for row in rows_of(tmp_path / "run_2/splits.csv")]
    assert drawn_anew == [{**row, "split": ""} for row in splits]
    record = json.loads((tmp_path / "run_2/run.json").read_text())
    assert "argv" not in record
    assert record["names"] == names.fingerprint


def test_masks_and_coordinates_are_found_by_either_name(hashed_store, named, tmp_path, caplog):
    store, key = hashed_store
    slide_id = NameKey.open(key).slide_id(f"{SURNAMES[0]} 1961", Path("x.svs"))
    masks = tmp_path / "masks"
    masks.mkdir()
    slide = named.slides / SURNAMES[0] / "visit 3" / file_of(0)
    digests = []
    for name in (slide_id, f"{SURNAMES[0]} 1961"):
        shutil.rmtree(masks)
        masks.mkdir()
        shutil.copy(store / f"masks/{slide_id}.geojson", masks / f"{name}.geojson")
        (row,) = tile_stage([slide], tmp_path / "out", CONFIG, masks=masks, hash_names=key)
        assert row["status"] == "done", row
        info = PatchStore.open(tmp_path / f"out/{slide_id}.zarr").info
        digests.append(info.mask_sha256)
    assert digests[0] == digests[1] != ""
    assert "no slide for" not in caplog.text


@pytest.mark.fault("G9")
def test_what_failed_does_not_say_where_the_store_is(cli, hashed_store, run, tmp_path):
    """The command line is withheld for the same reason: folders are named after people too."""
    kept, key = hashed_store
    store = shutil.copytree(kept, tmp_path / HOUSE / "store")
    out, stores = tmp_path / "out", sorted(store.glob("*.zarr"))
    (stores[0] / "manifest.json").write_text("{")
    (stores[1] / "zarr.json").unlink()
    shutil.copytree(stores[2], store / f"{'s' + 'a' * 12}.zarr")
    for form in ("clam", "png"):
        assert cli("export", store, "-o", out / form, "--format", form).code == 1
    in_the_way = out / "png" / stores[3].name.removesuffix(".zarr")
    shutil.rmtree(in_the_way)
    in_the_way.touch()
    assert cli("export", store, "-o", out / "png", "--format", "png").code == 1
    assert cli("sample", store, "-o", out / "sample").code == 1
    assert cli("predict", run, store, "-o", out / "predicted").code in (1, 2)
    tables = [*out.rglob("export.csv"), *out.rglob("sample.csv")]
    assert len(tables) == 3
    for table in tables:
        reasons = [row["reason"] for row in rows_of(table) if row["status"] == "failed"]
        assert len(reasons) >= 3
        assert all(reasons)
        assert not any(str(tmp_path) in reason for reason in reasons), reasons
    assert hits(out) == []


def test_a_cluster_writes_the_same_store(named, tmp_path):
    slide, key = named.slides / SURNAMES[1], tmp_path / "key.csv"
    config = CONFIG.model_copy(update={"mpp": 0.5, "patch_size": 32, "more_mpp": (1.0,)})
    tile_stage([slide], tmp_path / "alone", config, hash_names=key)
    options = {"dashboard_address": "127.0.0.1:0", "local_directory": str(tmp_path / "dask")}
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **options) as cluster:
        (row,) = tile_stage(
            [slide], tmp_path / "out", config, scheduler=cluster.scheduler_address, hash_names=key
        )
    assert 1.2 * int(row["num_patches"]) > SPAN_SHARDS * CHUNKS_PER_SHARD, "cut span by span"
    stores = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / f"{name}/{row['slide_id']}.zarr").rglob("*")
            if path.is_file()
        }
        for name in ("alone", "out")
    ]
    assert stores[0] == stores[1]
    assert hits(tmp_path / "out") == []
