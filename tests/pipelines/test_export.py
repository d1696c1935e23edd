"""The export command, and the way back: coordinates that wsi-hr tile takes."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import tarfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.export import EXPORT_COLUMNS, EXPORT_FILE
from pipelines.lock import run_lock
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
from wsi_hr.exchange.export import FORMATS
from wsi_hr.store.patch_store import PatchStore

PLACES = {
    "clam": "patches/{}.h5",
    "trident": "20x_64px_0px_overlap/patches/{}_patches.h5",
    "webdataset": "{}",
    "png": "{}",
    "jpeg": "{}",
}


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / EXPORT_FILE).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def config_of(store: Path) -> TileConfig:
    return TileConfig.model_validate(json.loads((store / "tile.json").read_text()))


@pytest.mark.parametrize("form", FORMATS)
def test_every_slide_gets_one_row_and_one_output(cli, store, tmp_path, form, tree):
    config, out = config_of(store), tmp_path / "out"
    ended = cli("export", store, "-o", out, "--format", form)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"8 slides: 8 done; see {out / EXPORT_FILE}\n"
    rows = rows_of(out)
    assert list(rows[0]) == list(EXPORT_COLUMNS)
    assert [row["slide_id"] for row in rows] == [f"slide_{k:03d}" for k in range(1, 9)]
    for row in rows:
        place = PLACES[form].format(row["slide_id"]).replace("64px_", f"{config.patch_size}px_")
        assert row["output"].split("x_")[-1] == place.split("x_")[-1]
        assert (out / row["output"]).exists()
        assert int(row["num_patches"]) == len(PatchStore.open(store / f"{row['slide_id']}.zarr"))
    assert json.loads((out / "run.json").read_text())["command"] == "export"
    before = tree(out)
    assert cli("export", store, "-o", out, "--format", form).code == 0
    assert tree(out) == before


def test_names_that_are_odd_come_out_and_in_again(cli, odd_slides, store, tmp_path):
    """``=cmd``, ``a b ü😐`` and ``007``, as files, keys, attributes and rows."""
    config = config_of(store)
    tile_stage([odd_slides], tmp_path / "store", config, workers=2)
    names = {"=cmd", "a b ü😐", "007"}
    for form in FORMATS:
        out = tmp_path / form
        assert cli("export", tmp_path / "store", "-o", out, "--format", form).code == 0
        assert {row["slide_id"].removeprefix("'") for row in rows_of(out)} == names
    with tarfile.open(tmp_path / "webdataset/a b ü😐/a b ü😐-000000.tar") as shard:
        assert all(name.startswith("a b ü😐_") for name in shard.getnames())
    for name in names:
        with h5py.File(tmp_path / f"clam/patches/{name}.h5") as file:
            assert file["coords"].attrs["name"] == name
    rows = tile_stage([odd_slides], tmp_path / "again", config, coords=tmp_path / "clam", workers=2)
    assert {row["slide_id"] for row in rows if row["status"] == "done"} == names


def test_one_store_alone(cli, store, tmp_path):
    ended = cli("export", store / "slide_004.zarr", "-o", tmp_path / "out", "--format", "clam")
    assert (ended.code, len(rows_of(tmp_path / "out"))) == (0, 1)
    assert (tmp_path / "out/patches/slide_004.h5").is_file()


@pytest.mark.parametrize("form", FORMATS)
def test_each_scale_of_a_store_comes_out(cli, two_scales, tmp_path, form, tree):
    for mpp, options in ((2.0, ()), (5.0, ("--mpp", "5"))):
        out = tmp_path / f"{mpp}"
        ended = cli("export", two_scales, "-o", out, "--format", form, *options)
        assert ended.code == 0, ended.out + ended.err
        for row in rows_of(out):
            seen = PatchStore.open(two_scales / f"{row['slide_id']}.zarr", mpp)
            assert (seen.info.tile.mpp, len(seen)) == (mpp, int(row["num_patches"]))
            output = out / row["output"]
            if form == "clam":
                with h5py.File(output) as file:
                    assert np.array_equal(file["coords"][:], seen.grid.coords)
            if form == "png":
                x, y = seen.grid.coords[0]
                picture = np.asarray(Image.open(output / f"{seen.slide_id}_{x}_{y}.png"))
                assert np.array_equal(picture, seen.read(np.array([0]))[0])
    before = tree(tmp_path / "2.0")
    again = cli("export", two_scales, "-o", tmp_path / "2.0", "--format", form, "--mpp", 2)
    assert again.code == 0
    assert tree(tmp_path / "2.0") == before, "the first scale, by its name"


def test_scales_do_not_overwrite_each_other(cli, two_scales, tmp_path, tree):
    assert cli("export", two_scales, "-o", tmp_path, "--format", "png").code == 0
    pictures = {name: of for name, of in tree(tmp_path).items() if name.endswith(".png")}
    ended = cli("export", two_scales, "-o", tmp_path, "--format", "png", "--mpp", 5)
    assert ended.code == 1
    assert "is the export of the patches at 2.0 um/px; choose another output folder" in ended.out
    assert pictures.items() <= tree(tmp_path).items()


def test_a_scale_that_is_not_there_is_refused(cli, two_scales, tmp_path):
    ended = cli("export", two_scales, "-o", tmp_path / "out", "--format", "png", "--mpp", 0.7)
    assert (ended.code, ended.out) == (2, "")
    assert "--mpp 0.7: " in ended.err
    assert "was not cut at that scale, but at 2 and 5 um/px" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_slide_without_patches_at_a_scale_is_skipped(cli, cohort, tmp_path):
    asked = {"mpp": 2.0, "more_mpp": [90.0], "patch_size": 64}
    slide, store = cohort / "slides/slide_001.svs", tmp_path / "store"
    tile_stage([slide], store, TileConfig.model_validate(asked))
    ended = cli("export", store, "-o", tmp_path / "out", "--format", "png", "--mpp", 90)
    assert ended.code == 0
    (row,) = rows_of(tmp_path / "out")
    assert (row["status"], row["num_patches"]) == ("skipped", "0")
    assert row["reason"] == "its tissue is too little for a patch at 90 um/px"


def test_bad_stores_are_listed_and_the_others_come_out(cli, own_store, tmp_path):
    shard = next((own_store / "slide_001.zarr").glob("scale_*/patches/c.*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (own_store / "slide_002.zarr/manifest.json").unlink()
    (own_store / "slide_003.zarr").rename(own_store / "slide_333.zarr")
    ended = cli("export", own_store, "-o", tmp_path, "--format", "jpeg")
    assert ended.code == 1
    assert "8 slides: 5 done, 3 failed" in ended.out
    failed = {
        row["slide_id"]: row["reason"] for row in rows_of(tmp_path) if row["status"] != "done"
    }
    assert "patch" in failed["slide_001"]
    assert "not finished" in failed["slide_002"]
    assert "is the store of slide 'slide_003'" in failed["slide_333"]
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {f"slide_{k:03d}" for k in (4, 5, 6, 7, 8)} | {own_store.name}


def test_patches_the_slide_did_not_give_are_left_out_and_counted(cli, cohort, store, tmp_path):
    """One tile of the level that is read is undecodable."""
    slide = Path(shutil.copy(cohort / "slides/slide_001.svs", tmp_path / "hurt.svs"))
    whole = PatchStore.open(store / "slide_001.zarr")
    size = tuple(reversed(whole.info.level0_size)), whole.info.plan.level_downsample
    with tifffile.TiffFile(slide) as tif:
        shape = tuple(round(px / factor) for px, factor in zip(size[0], size[1], strict=True))
        (page,) = (page for page in tif.pages if page.shape[:2] == shape and page.is_tiled)
        offset = page.dataoffsets[0]
    with slide.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * 400)
    config = config_of(store).model_copy(update={"max_unreadable": 1.0})
    tile_stage([slide], tmp_path / "store", config)
    hurt = PatchStore.open(tmp_path / "store/hurt.zarr")
    lost = int((~hurt.valid).sum())
    assert 0 < lost < len(hurt)
    for form in ("clam", "png", "webdataset"):
        out = tmp_path / form
        assert cli("export", hurt.path, "-o", out, "--format", form).code == 0
        (row,) = rows_of(out)
        assert row["reason"] == f"{lost} of {len(hurt)} patches unreadable, left out"
        assert int(row["num_patches"]) == len(hurt) - lost
    with h5py.File(tmp_path / "clam/patches/hurt.h5") as file:
        assert np.array_equal(file["coords"][:], hurt.grid.coords[hurt.valid])
    assert len(list((tmp_path / "png/hurt").glob("*.png"))) == len(hurt) - lost


def test_wrong_requests_are_one_sentence_and_2(cli, store, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for args, sentence in (
        ((store, "-o", out, "--format", "tiff"), "choose one of clam, trident, webdataset, png"),
        ((tmp_path / "none", "-o", out, "--format", "png"), "no such folder"),
        ((tmp_path / "empty", "-o", out, "--format", "png"), "no patch store there"),
        ((tmp_path / "none/a.zarr", "-o", out, "--format", "png"), "no patch store there"),
        ((store, "-o", store, "--format", "png"), "is what is read here; choose a folder of"),
        ((store / "slide_008.zarr", "-o", store, "--format", "png"), "is what is read here"),
    ):
        ended = cli("export", *args)
        assert (ended.code, ended.out) == (2, ""), args
        assert sentence in ended.err
        assert ended.err.count("\n") == 1
    with run_lock(out):
        assert "another run works here" in cli("export", store, "-o", out, "--format", "png").err


@pytest.mark.fault("A3b")
def test_an_interrupted_export_goes_on(start, store, tmp_path, tree):
    out = tmp_path / "out"
    first = start("export", store, "-o", tmp_path / "whole", "--format", "png")
    assert first.wait() == 0
    command = start("export", store, "-o", out, "--format", "png")
    while not list(out.glob("slide_*")):
        time.sleep(0.002)
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.glob("slide_*/*")}
    assert start("export", store, "-o", out, "--format", "png").wait() == 0
    assert tree(out) == tree(tmp_path / "whole")
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in out.glob("slide_*/*")}.items()


@pytest.mark.parametrize("form", ["clam", "trident"])
def test_stores_tiled_from_exported_coordinates_are_the_same(cli, store, cohort, tmp_path, form):
    assert cli("export", store, "-o", tmp_path / "h5", "--format", form).code == 0
    (folder,) = (path.parent.parent for path in tmp_path.glob("h5/**/slide_008*.h5"))
    again = tmp_path / "again"
    rows = tile_stage([cohort / "slides"], again, config_of(store), coords=folder, workers=2)
    assert {row["status"] for row in rows} == {"done"}
    for row in rows:
        first, second = (PatchStore.open(s / f"{row['slide_id']}.zarr") for s in (store, again))
        assert np.array_equal(second.grid.coords, first.grid.coords)
        assert np.array_equal(second.grid.cells, first.grid.cells - first.grid.cells.min(axis=0))
        every = np.arange(len(first))
        assert np.array_equal(second.read(every), first.read(every))


@pytest.fixture
def few(cohort, store, tmp_path) -> tuple[Path, Path, TileConfig]:
    """Two slides, a folder with CLAM's coordinates of both, and what they are cut with."""
    slides, coords, config = tmp_path / "slides", tmp_path / "coords", config_of(store)
    assert config.mpp == 2.0  # of slides at 0.5: a patch covers four times its edge
    slides.mkdir()
    coords.mkdir()
    for name in ("slide_008", "slide_001"):
        shutil.copy(cohort / f"slides/{name}.svs", slides)
        write_clam(coords / f"{name}.h5", [(0, 0), (512, 256)], config.patch_size)
    return slides, coords, config


def write_clam(path: Path, corners: list[tuple[int, int]], patch_size: int) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=np.array(corners))
        dataset.attrs.update({"patch_size": 4 * patch_size, "patch_level": 0})


def test_a_store_is_current_as_long_as_its_coordinates_are(few, tmp_path):
    slides, coords, config = few
    store = tmp_path / "store"

    def tile(given: Path | None) -> dict[str, int]:
        rows = tile_stage([slides], store, config, coords=given, workers=2)
        assert {row["status"] for row in rows} == {"done"}
        return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/manifest.json")}

    first = tile(coords)
    assert [len(PatchStore.open(path)) for path in sorted(store.glob("*.zarr"))] == [2, 2]
    assert tile(coords) == first
    write_clam(coords / "slide_001.h5", [(0, 0)], config.patch_size)
    second = tile(coords)
    assert second["slide_008.zarr"] == first["slide_008.zarr"]
    assert second["slide_001.zarr"] != first["slide_001.zarr"]
    assert len(PatchStore.open(store / "slide_001.zarr")) == 1
    third = tile(None)
    assert not set(third.items()) & set(second.items())
    assert len(PatchStore.open(store / "slide_001.zarr")) > 2


def test_coordinates_that_do_not_fit_fail_their_slide_alone(cli, few, tmp_path):
    slides, coords, config = few
    store = tmp_path / "store"
    common = ("tile", slides, "-o", store, "--coords", coords, "--mpp", config.mpp)
    size = ("--patch-size", config.patch_size)
    (coords / "slide_008.h5").write_bytes(b"no hdf5")
    ended = cli(*common, *size)
    assert ended.code == 1
    assert "failed: slide_008: " in ended.out
    assert "slide_008.h5: not HDF5, or damaged" in ended.out
    (coords / "slide_008.h5").unlink()
    ended = cli(*common, *size)
    assert ended.code == 1
    assert "has neither slide_008.h5 nor slide_008_patches.h5" in ended.out
    assert "2 slides: 1 done, 1 failed" in ended.out
    ended = cli(*common[:3], tmp_path / "other", *common[4:], "--patch-size", config.patch_size * 2)
    assert ended.code == 1
    edge = 4 * config.patch_size
    assert f"its patches are {edge} px wide at level 0, those asked {2 * edge} px" in ended.out
    ended = cli(*common[:5], tmp_path / "none", *common[6:], *size)
    assert ended.code == 2
    assert "none: no such folder; give the one with the .h5 files" in ended.err
