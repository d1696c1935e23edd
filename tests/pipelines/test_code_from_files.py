"""What a file says is never imported, whatever file it is; what the user names is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
import zarr.registry

from wsi_hr.store.manifest import MANIFEST_NAME, Manifest, entry_of, read_manifest
from wsi_hr.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_hr.training.loop import BEST

from .hostile_stores import forge_file

THEIRS = "their_tissue:find"
NAMED = ("--set", f"tile.segmenter={THEIRS}")
MODULE = """
from pathlib import Path
import numpy as np
Path({marker!r}).write_text("imported")
def find(rgb, valid, um):
    return np.asarray(rgb.min(axis=2) < 220)
"""
RECIPE = {"tile": {"mpp": 2.0, "patch_size": 64, "segmenter": THEIRS}}


class Imported:
    """A module on Python's path, and whether any process has imported it."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __bool__(self) -> bool:
        return self._marker.exists()


@pytest.fixture
def imported(tmp_path, monkeypatch) -> Imported:
    folder, marker = tmp_path / "code", tmp_path / "marker"
    folder.mkdir()
    (folder / "their_tissue.py").write_text(MODULE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "their_tissue", raising=False)
    return Imported(marker)


@pytest.fixture
def their_run(run, tmp_path) -> Path:
    """A run whose checkpoint names their segmenter."""
    folder = shutil.copytree(run, tmp_path / "their_run")
    rewrite(folder, lambda config: config["tile"].update(segmenter=THEIRS))
    return folder


def rewrite(folder: Path, change) -> None:
    found = load_checkpoint(folder / BEST)
    meta = json.loads(json.dumps(found.meta))
    change(meta["config"])
    save_checkpoint(folder / BEST, Checkpoint(found.tensors, meta))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def slide(cohort) -> Path:
    return cohort / "slides/slide_001.svs"


@pytest.mark.fault("D14")
def test_predict_imports_nothing_because_a_checkpoint_says_so(
    cli, their_run, slide, tmp_path, imported
):
    ended = cli("predict", their_run, slide, "-o", tmp_path / "out")
    assert ended.code == 2
    assert f"name it: --set tile.segmenter={THEIRS}" in ended.err
    assert not imported
    assert not (tmp_path / "out").exists()


def test_predict_takes_what_the_user_names_if_it_is_the_runs(
    cli, their_run, run, slide, tmp_path, imported
):
    other = ("--set", "tile.segmenter=another_module:find")
    ended = cli("predict", their_run, slide, "-o", tmp_path / "out", *other)
    assert ended.code == 2
    assert "another_module:find: the run's slides were tiled with their_tissue:find" in ended.err
    ended = cli("predict", run, slide, "-o", tmp_path / "out", *NAMED)
    assert ended.code == 2
    assert f"{THEIRS}: the run's slides were tiled with saturation_otsu" in ended.err
    assert not imported
    ended = cli("predict", their_run, slide, "-o", tmp_path / "out", *NAMED)
    assert ended.code == 0, ended.err
    assert imported
    ended = cli("predict", their_run, slide, "-o", tmp_path / "out")
    assert ended.code == 2, "nor because it was named before"
    assert f"name it: --set tile.segmenter={THEIRS}" in ended.err


def test_predict_sets_nothing_else(cli, their_run, slide, store, tmp_path, imported):
    out = ("-o", tmp_path / "out")
    for given in ("train.lr=1", "tile.mpp=2", "tile={segmenter: luminance, mpp: 2}"):
        ended = cli("predict", their_run, slide, *out, "--set", given)
        assert ended.code == 2
        assert "only tile.segmenter is named again" in ended.err
    ended = cli("predict", their_run, slide, *out, "--set", "tile.segmentr=luminance")
    assert "the nearest known one is tile.segmenter" in ended.err
    ended = cli("predict", their_run, store, *out, *NAMED)
    assert ended.code == 2
    assert "is tiled already, so it would have no effect" in ended.err
    assert not imported


def test_what_is_tiled_already_needs_no_segmenter(cli, their_run, store, tmp_path, imported):
    assert cli("predict", their_run, store, "-o", tmp_path / "out").code == 0
    assert not imported


def test_no_command_imports_because_a_recipe_says_so(cli, slide, store, cohort, tmp_path, imported):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out, taken = ("-o", tmp_path / "out"), ("--recipe", recipe)
    for command in (
        ("tile", slide, *out),
        ("tile", slide, *out, "--dry-run"),
        ("train", store, "--labels", cohort / "labels.csv", *out),
        ("sample", store, *out),
        ("show",),
    ):
        ended = cli(*command, *taken)
        assert ended.code == 2, command
        assert f"name it yourself: --set tile.segmenter={THEIRS}" in ended.err
        assert not (tmp_path / "out").exists()
    assert not imported
    assert cli("show", *taken, *NAMED).code == 0
    assert cli("show", *taken, "--set", "tile={segmenter: luminance}").code == 0
    assert not imported
    assert cli("tile", slide, *out, *taken, *NAMED).code == 0
    assert imported


def test_a_store_is_tiled_on_with_what_is_named_again(cli, slide, cohort, tmp_path, imported):
    out, sizes = tmp_path / "out", ("--mpp", 2, "--patch-size", 64)
    assert cli("tile", slide, "-o", out, *sizes, *NAMED).code == 0
    ended = cli("tile", cohort / "slides", "-o", out, *sizes)
    assert ended.code == 2
    assert f"tile.segmenter was {THEIRS}, now saturation_otsu" in ended.err
    stamp = (out / "slide_001.zarr/manifest.json").stat().st_mtime_ns
    assert cli("tile", slide, "-o", out, *sizes, *NAMED).code == 0
    assert (out / "slide_001.zarr/manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.fault("D14")
def test_no_command_imports_because_a_store_says_so(cli, own_store, cohort, tmp_path, imported):
    for path in own_store.glob("*.zarr"):
        forge_file(path, "zarr.json", _with_their_segmenter)
    settled = json.loads((own_store / "tile.json").read_text())
    (own_store / "tile.json").write_text(json.dumps({**settled, "segmenter": THEIRS}))
    tiny = ("--set", "encoder.name=test_resnet")
    labels, run = ("--labels", cohort / "labels.csv"), tmp_path / "run"
    for command in (
        ("verify", own_store),
        ("sample", own_store, "-o", tmp_path / "sample", *tiny),
        ("export", own_store, "-o", tmp_path / "export", "--format", "clam"),
        ("train", own_store, *labels, "-o", run, *tiny, "--epochs", 1, "--device", "cpu"),
        ("predict", run, own_store, "-o", tmp_path / "predicted"),
    ):
        assert cli(*command).code == 0
    slide = cohort / "slides/slide_001.svs"
    assert load_checkpoint(run / BEST).meta["config"]["tile"]["segmenter"] == THEIRS
    assert cli("predict", run, slide, "-o", tmp_path / "again").code == 2
    assert cli("tile", slide, "-o", own_store, "--recipe", "demo").code == 2
    assert not imported


def _with_their_segmenter(document: dict) -> None:
    document["attributes"]["wsi_hr"]["tile"]["segmenter"] = THEIRS
    document["attributes"]["wsi_hr"]["segmenter"] = THEIRS


@pytest.mark.parametrize(
    "name",
    ["hf-hub:a/b", "hf_hub:a/b", "local-dir:FOLDER", "resnet18.local-dir:FOLDER", "timm/resnet18"],
)
def test_an_encoder_is_none_that_a_checkpoint_has_built_from_elsewhere(
    cli, run, store, tmp_path, name
):
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    named = name.replace("FOLDER", str(folder))
    copy = shutil.copytree(run, tmp_path / "their_run")
    rewrite(copy, lambda config: config["encoder"].update(name=named))
    ended = cli("predict", copy, store, "-o", tmp_path / "out")
    assert ended.code == 2
    assert f"encoder.name {named}: timm has no such model" in ended.err


def test_weights_that_a_checkpoint_names_are_not_looked_for(cli, run, store, tmp_path):
    """The weights are in the checkpoint; where they came from is not asked again."""
    copy = shutil.copytree(run, tmp_path / "their_run")
    rewrite(copy, lambda config: config["encoder"].update(weights="/nowhere/weights.pt"))
    assert cli("predict", copy, store, "-o", tmp_path / "out").code == 0


def test_a_codec_is_none_that_a_store_names(cli, own_store, tmp_path, monkeypatch):
    """Any package may register one, and zarr finds it by its name."""
    asked: list[str] = []
    find = zarr.registry.get_codec_class
    for where in ("zarr.registry", "zarr.core.metadata.v3"):
        monkeypatch.setattr(f"{where}.get_codec_class", lambda key: asked.append(key) or find(key))
    path = own_store / "slide_001.zarr"
    other = {"name": "numcodecs.bz2", "configuration": {}}
    forge_file(path, "mask/zarr.json", lambda meta: meta["codecs"].insert(1, other))
    forge_file(path, "scale_2.0/coords/zarr.json", lambda meta: meta["codecs"].insert(1, other))
    assert cli("export", own_store, "-o", tmp_path / "out", "--format", "clam").code == 1
    assert asked
    assert set(asked) <= {"bytes", "zstd", "crc32c"}


def test_zarr_of_format_2_with_its_pickled_objects_is_no_array_of_a_store(cli, own_store, tmp_path):
    path = own_store / "slide_001.zarr"
    array, chunk = path / "mask/.zarray", path / "mask/0"
    array.write_text(json.dumps({"zarr_format": 2, "dtype": "|O", "filters": [{"id": "pickle"}]}))
    chunk.write_bytes(b"an object")
    files = {n: e for n, e in read_manifest(path).files.items() if not n.startswith("mask/")}
    files |= {"mask/.zarray": entry_of(array), "mask/0": entry_of(chunk)}
    (path / MANIFEST_NAME).write_bytes(Manifest(files).to_bytes())
    ended = cli("sample", own_store, "-o", tmp_path / "out", "--set", "encoder.name=test_resnet")
    assert ended.code == 1
    assert "lists 'mask/.zarray', which lies outside or is no plain name" in ended.out
