"""The user's masks and segmenters, and what quality control tells, through the stage."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.contact_sheet import write_contact_sheets
from pipelines.qc_table import QC_COLUMNS
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Point, Size
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.svs import TILE_PX, write_svs

CONFIG = TileConfig(patch_size=64, mpp=2)  # pyright: ignore[reportCallIssue]
EDGE = 2048
SEGMENTER = """
import numpy as np

def left_half(rgb, valid, um):
    assert rgb.dtype == np.uint8 and um.x == um.y == 16
    mask = np.zeros_like(valid)
    mask[:, : mask.shape[1] // 2] = True
    return mask

def wrong(rgb, valid, um):
    return rgb

def broken(rgb, valid, um):
    raise ValueError("no weights")

number = 3
"""


def write_slide(path: Path, *, pen: bool = False, tissue: bool = True) -> None:
    """Pink tissue on glass, 1 mm wide; with pen, a green stroke over a third of it."""
    rng = np.random.default_rng(0)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)

    def tile_at(corner: Point):
        if not tissue or corner.x < TILE_PX or corner.x >= EDGE - TILE_PX:
            return None
        color = (36, 61, 71) if pen and corner.y < 3 * TILE_PX else (205, 130, 175)
        noise = np.kron(rng.integers(0, 40, (32, 32, 1)), np.ones((8, 8, 1)))
        return (np.array(color) - np.minimum(noise, min(color))).astype(np.uint8)

    write_svs(path, size=Size(EDGE, EDGE), mpp=0.5, tile_at=tile_at, glass=glass)


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "clean.svs")
    write_slide(folder / "inked.svs", pen=True)
    write_slide(folder / "blank.svs", tissue=False)
    (folder / "broken.svs").write_text("<html>")
    return folder


@pytest.fixture(scope="module")
def stored(slides, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("tiled") / "store"
    tile_stage([slides], store, CONFIG, workers=2)
    return store


@pytest.fixture
def own(stored, tmp_path) -> Path:
    return shutil.copytree(stored, tmp_path / "store")


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mylab_tissue.py").write_text(SEGMENTER)
    monkeypatch.syspath_prepend(folder)


def read_qc(store: Path) -> dict[str, dict[str, str]]:
    with (store / "qc.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == QC_COLUMNS
    return {row["slide_id"]: row for row in rows}


def changed(before: dict[str, int], store: Path) -> set[str]:
    return {name for name, stamp in stamps(store).items() if before.get(name) != stamp}


def stamps(store: Path) -> dict[str, int]:
    return {p.name: (p / "manifest.json").stat().st_mtime_ns for p in store.glob("*.zarr")}


def outline(x: float, y: float, w: float, h: float, name: str = "Tissue") -> dict:
    ring = [[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def write_outlines(path: Path, *outlines: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": outlines}))


def test_every_slide_has_its_row_and_its_pictures(stored):
    rows = read_qc(stored)
    assert {name: row["status"] for name, row in rows.items()} == {
        "clean": "done", "inked": "done", "blank": "no_tissue", "broken": "failed"
    }  # fmt: skip
    clean, inked = rows["clean"], rows["inked"]
    width = EDGE - 2 * TILE_PX
    area = (width * 0.5e-3) * (EDGE * 0.5e-3)
    assert float(clean["tissue_mm2"]) == pytest.approx(area, rel=0.05)
    assert float(inked["tissue_mm2"]) == pytest.approx(area * 5 / 8, rel=0.08)
    assert float(inked["pen"]) == pytest.approx(3 / 8, abs=0.05)  # the rim counts as pen
    assert (clean["pen"], clean["fold"], clean["bubble"], clean["left_out"]) == (
        "0.0000", "0.0000", "0.0000", "0"
    )  # fmt: skip
    assert clean["mask"] == inked["mask"] == "saturation_otsu"
    lost = int(clean["num_patches"]) - int(inked["num_patches"])
    assert 0 < lost <= int(inked["left_out"]) <= lost + 8, "the pen's rim on glass counts too"
    assert set(rows["broken"].values()) == {"broken", "failed", "0", ""}
    for name in ("clean", "inked", "blank"):
        with Image.open(stored / f"qc/{name}.png") as picture:
            assert max(picture.size) <= 320
        assert json.loads((stored / f"masks/{name}.geojson").read_text())["features"] or (
            name == "blank"
        )
    assert sorted(p.name for p in (stored / "qc").iterdir()) == [
        "blank.png", "clean.png", "inked.png"
    ]  # fmt: skip


def test_patches_carry_their_artifact_and_none_has_too_much(stored):
    store = PatchStore.open(stored / "inked.zarr")
    artifact, tissue = store.grid.artifact, store.grid.tissue
    assert (artifact <= CONFIG.max_artifact).all()
    assert (artifact + tissue <= 1.0001).all()
    assert np.bincount(store.mask.codes.ravel())[2] > 0
    below = store.grid.coords[:, 1] >= 4 * TILE_PX
    assert below.any()
    assert not artifact[below].any()
    assert store.info.qc.left_out == int(read_qc(stored)["inked"]["left_out"])


def test_the_contact_sheet_shows_each_slide_in_its_place(stored):
    sheet = np.asarray(Image.open(stored / "contact_sheet.png").convert("RGB")).astype(int)
    assert sheet.shape[1] == 4 * 332 + 12
    ids = list(read_qc(stored))
    for number, name in enumerate(ids):
        cell = sheet[36 : 36 + 320, 12 + 332 * number : 12 + 332 * number + 320]
        pink = (cell[..., 0] - cell[..., 1] > 50) & (cell[..., 2] - cell[..., 1] > 20)
        purple = (cell[..., 0] - cell[..., 1] > 80) & (cell[..., 2] - cell[..., 1] > 60)
        assert pink.any() == (name in ("clean", "inked")), name
        assert (purple.sum() > 1000) == (name == "inked"), name


def test_a_second_sheet_begins_after_48_slides_and_goes_again(tmp_path):
    row = dict.fromkeys(QC_COLUMNS, "") | {"status": "failed"}
    many = [row | {"slide_id": f"s{number}"} for number in range(49)]
    assert [path.name for path in write_contact_sheets(tmp_path, many)] == [
        "contact_sheet.png", "contact_sheet_2.png"
    ]  # fmt: skip
    theirs = {"contact_sheet_final.png", "contact_sheet_2_.png"}
    for name in theirs:
        (tmp_path / name).touch()
    write_contact_sheets(tmp_path, many[:3])
    assert {path.name for path in tmp_path.glob("*.png")} == {"contact_sheet.png", *theirs}


def test_nothing_is_done_again_and_the_table_stays(slides, own):
    before, table = stamps(own), (own / "qc.csv").read_bytes()
    sheet = (own / "contact_sheet.png").stat().st_mtime_ns
    tile_stage([slides], own, CONFIG, workers=1)
    assert not changed(before, own)
    assert (own / "contact_sheet.png").stat().st_mtime_ns == sheet
    (own / "qc.csv").unlink()
    tile_stage([slides], own, CONFIG, workers=2)
    assert (own / "qc.csv").read_bytes() == table, "told by the stores themselves"


def test_a_mask_file_is_the_last_word_and_decides_what_is_done_again(slides, own, tmp_path):
    masks, inputs = tmp_path / "masks", [slides / "clean.svs", slides / "inked.svs"]
    write_outlines(masks / "inked.svs.geojson", outline(512, 0, 512, 512),
                   outline(0, 1024, 256, 256, "Fold"))  # fmt: skip
    before = stamps(own)
    tile_stage(inputs, own, CONFIG, masks=masks, workers=1)
    assert changed(before, own) == {"inked.zarr"}
    store = PatchStore.open(own / "inked.zarr")
    assert store.grid.coords.min(0).tolist() == [512, 0], "though it is all pen"
    assert store.grid.coords.max(0).tolist() == [768, 256]
    assert store.info.segmenter == "mask_file"
    assert read_qc(own)["inked"]["mask"] == "mask_file"
    assert float(read_qc(own)["inked"]["fold"]) == pytest.approx(0.2, abs=0.02)

    before = stamps(own)
    tile_stage(inputs, own, CONFIG, masks=masks, workers=1)
    assert not changed(before, own)
    write_outlines(masks / "inked.svs.geojson", outline(512, 0, 256, 512))
    tile_stage(inputs, own, CONFIG, masks=masks, workers=1)
    assert changed(before, own) == {"inked.zarr"}
    before = stamps(own)
    tile_stage(inputs, own, CONFIG, workers=1)
    assert changed(before, own) == {"inked.zarr"}, "the segmenter's again"
    assert read_qc(own)["inked"]["mask"] == "saturation_otsu"


def test_outlines_written_give_the_same_patches_when_given_back(slides, stored, tmp_path):
    masks = Path(shutil.copytree(stored / "masks", tmp_path / "masks"))
    tile_stage([slides / "inked.svs"], tmp_path / "again", CONFIG, masks=masks, workers=1)
    first = PatchStore.open(stored / "inked.zarr")
    again = PatchStore.open(tmp_path / "again/inked.zarr")
    assert (first.mask.codes == again.mask.codes).mean() > 0.99
    same = set(map(tuple, first.grid.cells)) ^ set(map(tuple, again.grid.cells))
    assert len(same) <= 0.05 * len(first)


def test_a_mask_that_cannot_be_used_fails_its_slide_alone(slides, tmp_path, caplog):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "inked.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    (masks / "stranger.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        rows = tile_stage([slides / "clean.svs", slides / "inked.svs"], tmp_path / "store", CONFIG,
                          masks=masks, workers=1)  # fmt: skip
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert f"{masks / 'inked.xml'}: declares XML entities" in rows[1]["reason"]
    assert "no slide for 1 of 2 mask files (stranger.png)" in caplog.text


def test_corrected_outlines_in_their_place_are_never_overwritten(slides, own, tmp_path, caplog):
    edited = own / "masks/inked.geojson"
    write_outlines(edited, outline(512, 0, 512, 512))
    work = edited.read_bytes()
    with pytest.raises(ConfigError, match="is where masks are written to"):
        tile_stage([slides], own, CONFIG, masks=own / "masks")
    masks = tmp_path / "masks"
    write_outlines(masks / "inked.geojson", outline(512, 0, 256, 512))
    with caplog.at_level(logging.WARNING):
        tile_stage([slides / "inked.svs"], own, CONFIG, masks=masks, workers=1)
    assert edited.read_bytes() == work
    assert "was edited, so it is left as it is" in caplog.text
    assert not list(own.glob(".attempt*"))


def test_all_patches_spoilt_is_a_state_with_its_reason(slides, tmp_path):
    config = CONFIG.model_copy(update={"max_artifact": 0.0})
    masks = tmp_path / "masks"
    write_outlines(masks / "clean.geojson", outline(256, 0, 1536, 2048),
                   *[outline(x, 0, 64, 2048, "Blur") for x in range(0, EDGE, 256)])  # fmt: skip
    (row,) = tile_stage([slides / "clean.svs"], tmp_path / "store", config, masks=masks, workers=1)
    assert row["status"] == "no_tissue"
    assert "patches with tissue are spoilt by artifacts, see qc.csv" in row["reason"]
    assert int(read_qc(tmp_path / "store")["clean"]["left_out"]) > 40


def test_a_segmenter_of_the_users_draws_the_mask(slides, tmp_path, plugin):
    config = CONFIG.model_copy(update={"segmenter": "mylab_tissue:left_half", "artifacts": ()})
    (row,) = tile_stage([slides / "clean.svs"], tmp_path / "store", config, workers=1)
    store = PatchStore.open(tmp_path / "store/clean.zarr")
    assert row["status"] == "done"
    assert store.info.segmenter == "mylab_tissue:left_half"
    assert store.grid.coords.max(0).tolist() == [EDGE // 2 - 256, EDGE - 256]


@pytest.mark.parametrize(
    ("name", "said"),
    [("wrong", "gave uint8"), ("broken", "failed with ValueError (no weights)")],
)
def test_a_segmenter_that_fails_fails_the_slide(slides, tmp_path, plugin, name, said):
    config = CONFIG.model_copy(update={"segmenter": f"mylab_tissue:{name}"})
    (row,) = tile_stage([slides / "clean.svs"], tmp_path / "store", config, workers=1)
    assert row["status"] == "failed"
    assert said in row["reason"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:find", "cannot be imported"),
        ("mylab_tissue:absent", "cannot be imported"),
        ("mylab_tissue:number", "is no function"),
    ],
)
def test_a_segmenter_that_is_none_is_refused_before_a_slide_is_opened(
    slides, tmp_path, plugin, name, said
):
    config = CONFIG.model_copy(update={"segmenter": name})
    with pytest.raises(ConfigError, match=said):
        tile_stage([slides], tmp_path / "store", config)
    assert not (tmp_path / "store").exists()


def test_the_command_line_takes_masks(cli, slides, tmp_path):
    masks, store = tmp_path / "masks", tmp_path / "store"
    write_outlines(masks / "clean.geojson", outline(512, 0, 512, 512))
    sizes = ("--mpp", 2, "--patch-size", 64)
    planned = cli("tile", slides / "clean.svs", "-o", store, *sizes, "--masks", masks, "--dry-run")
    assert planned.code == 0
    assert "planned: clean: 4 patches" in planned.out
    assert cli("tile", slides / "clean.svs", "-o", store, *sizes, "--masks", masks).code == 0
    assert len(PatchStore.open(store / "clean.zarr")) == 4
    refused = cli("tile", slides, "-o", tmp_path / "other", "--masks", tmp_path / "nowhere")
    assert refused.code == 2
    assert "no such folder" in refused.err
