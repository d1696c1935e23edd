"""A typo poisons no folder: it leaves nothing, and settings bind with the first store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import disk
from pipelines.disk import free_bytes
from pipelines.dry_run import dry_run
from pipelines.tile import tile_stage
from pipelines.tile_settings import TILE_FILE
from pipelines.verify import verify_stage
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError, SlideError, StoreError, WsiHrError

from .test_tile import CONFIG, write_slide

OTHER = TileConfig.model_validate({"mpp": 1.0, "patch_size": 64})


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_slide(folder / "a.svs", 0)
    return folder


@pytest.mark.fault("A15")
def test_a_mistyped_folder_leaves_nothing_and_the_corrected_command_works(slides, tmp_path):
    store = tmp_path / "new/store"
    for run in (tile_stage, dry_run):
        with pytest.raises(SlideError, match="slidess: no such file or folder; correct the name"):
            run([slides.parent / "slidess"], store, OTHER)
        assert not store.parent.exists()
    (row,) = tile_stage([slides], store, CONFIG)
    assert row["status"] == "done"


@pytest.mark.fault("B2")
def test_one_mistyped_name_among_good_ones_is_refused_and_nothing_is_tiled(slides, tmp_path):
    store = tmp_path / "store"
    with pytest.raises(SlideError, match=f"^{slides / 'b.svs'}, {slides / 'c.svs'}: no such"):
        tile_stage([slides / "b.svs", slides / "a.svs", slides / "c.svs"], store, CONFIG)
    assert not store.exists()


@pytest.mark.fault("A16")
def test_a_run_in_which_every_slide_failed_binds_nobody(slides, tmp_path):
    store, bad = tmp_path / "store", tmp_path / "bad.svs"
    bad.write_text("<html>")
    (row,) = tile_stage([bad], store, OTHER)
    assert row["status"] == "failed"
    assert not (store / TILE_FILE).exists()
    assert verify_stage([store]).sentences == []
    (row,) = tile_stage([slides], store, CONFIG)
    assert row["status"] == "done"
    with pytest.raises(ConfigError, match="holds stores of other settings"):
        tile_stage([slides], store, OTHER)


def test_settings_that_a_killed_run_left_without_a_store_bind_nobody(slides, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for left in (json.dumps(OTHER.model_dump(mode="json")), "{", "[1]"):
        (store / TILE_FILE).write_text(left)
        dry_run([slides], store, CONFIG)
    (row,) = tile_stage([slides], store, CONFIG)
    assert row["status"] == "done"
    assert json.loads((store / TILE_FILE).read_text()) == CONFIG.model_dump(mode="json")


@pytest.mark.parametrize("left", ["{", "[1]", "7"])
def test_settings_that_are_damaged_beside_a_store_are_refused(slides, tmp_path, left):
    tile_stage([slides], tmp_path / "store", CONFIG)
    (tmp_path / "store" / TILE_FILE).write_text(left)
    with pytest.raises(ConfigError, match="damaged; restore it"):
        tile_stage([slides], tmp_path / "store", CONFIG)


def test_a_store_is_never_there_before_its_settings(slides, tmp_path, monkeypatch):
    """A kill in between would leave stores that bind nobody."""
    seen = []

    def publish(written: Path, path: Path) -> None:
        seen.append((path.parent / TILE_FILE).exists())
        written.rename(path)

    monkeypatch.setattr("pipelines.tile_jobs.publish", publish)
    (row,) = tile_stage([slides], tmp_path / "store", CONFIG)
    assert (row["status"], seen) == ("done", [True])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masks": Path("none")}, "none"),
        ({"coords": Path("none")}, "none: no such folder"),
        ({"scheduler": "none.json"}, "no such scheduler file"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "no dask scheduler answers there"),
    ],
)
def test_what_is_not_there_leaves_nothing(slides, tmp_path, monkeypatch, options, sentence):
    monkeypatch.setattr("pipelines.cluster._CONNECT_S", 1.0)
    for run in (tile_stage, dry_run):
        with pytest.raises(WsiHrError, match=sentence):
            run([slides], tmp_path / "store", CONFIG, **options)
        assert not (tmp_path / "store").exists()


def test_a_refusal_leaves_the_tables_of_the_run_before(slides, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.cluster._CONNECT_S", 1.0)
    store = tmp_path / "store"
    tile_stage([slides], store, CONFIG)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    write_slide(slides / "b.svs", 1)
    with pytest.raises(ConfigError, match="no dask scheduler answers there"):
        tile_stage([slides], store, CONFIG, scheduler="tcp://127.0.0.1:9")
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_a_disk_without_room_leaves_nothing(slides, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: free_bytes(folder) and 1000)
    (slides / "m.csv").write_text("slide\na.svs\ngone.svs\n")
    with pytest.raises(StoreError, match="make room or choose another output folder"):
        tile_stage([slides / "m.csv"], tmp_path / "store", CONFIG)
    assert not (tmp_path / "store").exists()
