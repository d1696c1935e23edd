"""The sample command: its tables and pictures say what training would see."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.sample import KEPT_COLUMNS, PICTURE_PX, SAMPLE_COLUMNS, SAMPLE_FILE
from pipelines.tile import tile_stage
from wsi_hr.bags.bag_set import BagSet
from wsi_hr.config import TileConfig, resolve_config
from wsi_hr.geometry import Size, patch_boxes
from wsi_hr.methods.method import NoMemory
from wsi_hr.samplers.picture import KEPT_COLOUR
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.training.sampling import Sampling

# the demo's method needs 48 patches, more than these slides have
FEW = ("--set", "method.num_salient=4", "--set", "method.num_sub_salient=2")
IDS = [f"slide_{number:03d}" for number in range(1, 9)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def kept_in(out: Path, slide_id: str) -> list[int]:
    rows = rows_of(out / "patches" / f"{slide_id}.csv")
    return [number for number, row in enumerate(rows) if row["kept"] == "1"]


def test_it_shows_what_training_would_see(cli, store, tmp_path):
    out = tmp_path / "out"
    ended = cli("sample", store, "-o", out, "--sampler", "windows", "--epoch", 2, "--seed", 4,
                "--set", "sampler.keep=0.4", *FEW)  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"8 slides: 8 done; see {out / SAMPLE_FILE}\n"
    rows = rows_of(out / SAMPLE_FILE)
    assert list(rows[0]) == list(SAMPLE_COLUMNS)
    assert [row["slide_id"] for row in rows] == IDS
    config = resolve_config(None, {"sampler.name": "windows", "sampler.keep": 0.4, "seed": 4})
    sampling = Sampling(config.sampler, config.seed, torch.device("cpu"), tmp_path)
    for row in rows:
        bag = BagSet(store).open(row["slide_id"])
        expected = sampling.choose(bag, 2, 6, NoMemory()).indices.tolist()
        assert kept_in(out, row["slide_id"]) == expected
        assert (row["num_patches"], row["num_kept"]) == (str(len(bag)), str(len(expected)))
        patches = rows_of(out / "patches" / f"{row['slide_id']}.csv")
        assert tuple(patches[0]) == KEPT_COLUMNS
        places = [[int(patch[key]) for key in ("x0", "y0", "row", "col")] for patch in patches]
        assert np.array_equal(places, np.column_stack([bag.grid.coords, bag.grid.cells]))
    record = json.loads((out / "run.json").read_text())
    assert (record["command"], record["epoch"]) == ("sample", 2)
    names = {"patches", "pictures", "contact_sheet.png", SAMPLE_FILE, "run.json"}
    assert {path.name for path in out.iterdir()} == names


def test_kept_patches_are_outlined_and_dropped_ones_pale(cli, store, tmp_path):
    out = tmp_path / "out"
    assert cli("sample", store, "-o", out, "--sampler", "checkerboard", *FEW).code == 0
    bag = BagSet(store).open(IDS[0])
    picture = np.asarray(Image.open(out / "pictures" / f"{IDS[0]}.png"))
    assert max(picture.shape[:2]) == PICTURE_PX
    size = Size(picture.shape[1], picture.shape[0])
    below = np.asarray(Image.fromarray(bag.source.thumbnail).resize(size)).astype(float)
    boxes = patch_boxes(bag.grid, bag.source.level0_size, size)
    kept = set(kept_in(out, IDS[0]))
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        frame = picture[[top, bottom - 1], left + 2 : right - 2].reshape(-1, 3)
        inside = (slice(top + 3, bottom - 3), slice(left + 3, right - 3))
        assert (frame == KEPT_COLOUR).all() == (number in kept)
        darkness, before = 255 - picture[inside].mean(), 255 - below[inside].mean()
        assert darkness == pytest.approx(before * (1 if number in kept else 0.3), rel=0.1, abs=2)
    bare = np.ones(picture.shape[:2], bool)
    for left, top, right, bottom in boxes.tolist():
        bare[top:bottom, left:right] = False
    assert np.abs(picture[bare] - below[bare]).mean() < 4


def test_never_fewer_than_the_method_needs(cli, store, tmp_path):
    out = tmp_path / "out"
    assert cli("sample", store, "-o", out, "--sampler", "checkerboard").code == 0
    for row in rows_of(out / SAMPLE_FILE):
        assert row["num_kept"] == row["num_patches"]  # 16 + 32 are more than there are


def test_a_damaged_slide_fails_alone(cli, own_store, tmp_path):
    next((own_store / f"{IDS[1]}.zarr/thumbnail").glob("c*")).write_bytes(b"x")
    out = tmp_path / "out"
    ended = cli("sample", own_store, "-o", out, *FEW)
    assert ended.code == 1
    assert f"failed: {IDS[1]}: " in ended.out
    states = {row["slide_id"]: row["status"] for row in rows_of(out / SAMPLE_FILE)}
    assert states == dict.fromkeys(IDS, "done") | {IDS[1]: "failed"}


def test_each_scale_of_a_store_is_shown(cli, two_scales, cohort, tmp_path):
    patches = ("--set", "tile.patch_size=64")
    for mpp, options in ((2.0, ()), (5.0, ("--mpp", "5"))):
        out = tmp_path / f"{mpp}"
        ended = cli("sample", two_scales, "-o", out, *FEW, *patches, *options)
        assert ended.code == 0, ended.out + ended.err
        for row in rows_of(out / SAMPLE_FILE):
            seen = PatchStore.open(two_scales / f"{row['slide_id']}.zarr", mpp)
            assert int(row["num_patches"]) == len(seen) == len(list(rows_of(
                out / f"patches/{row['slide_id']}.csv"
            )))  # fmt: skip
    ended = cli("sample", two_scales, "-o", tmp_path / "out", *FEW, "--mpp", "0.7")
    assert ended.code == 2
    assert "was not cut at that scale, but at 2 and 5 um/px" in ended.err
    config = TileConfig(mpp=2.0, more_mpp=(90.0,), patch_size=64)
    tile_stage([cohort / "slides/slide_001.svs"], tmp_path / "coarse", config)
    ended = cli("sample", tmp_path / "coarse", "-o", tmp_path / "out", *FEW, "--mpp", "90")
    assert ended.code == 0
    (row,) = rows_of(tmp_path / "out" / SAMPLE_FILE)
    assert (row["status"], row["num_patches"]) == ("skipped", "0")
    assert row["reason"] == "its tissue is too little for a patch at 90 um/px"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sampler", "windoes"], "Input tag 'windoes'"),
        (["--sampler", "attention", "--epoch", "1"], "what attention draws in epoch 1 depends on"),
        (["--sampler", "attention", "--set", "sampler.source=thumbnail",
          "--set", "sampler.vit_weights=none.pt"], "sampler.vit_weights none.pt: no such file"),
        (["--set", "sampler.dropp=1"], "the nearest known one is sampler.drop"),
    ],
)  # fmt: skip
def test_a_wrong_request_does_nothing(cli, store, tmp_path, arguments, said):
    out = tmp_path / "out"
    ended = cli("sample", store, "-o", out, *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert not (out / SAMPLE_FILE).exists()


def test_a_folder_without_stores_is_told(cli, tmp_path):
    ended = cli("sample", tmp_path, "-o", tmp_path / "out")
    assert ended.code == 2
    assert "holds no patch store" in ended.err
