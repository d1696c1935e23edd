"""Patches as pictures of their own hold pixels and nothing that a store of older days may hold."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from told_jpeg import EOI, NAME, TOLD, before
from told_slide import ACROSS, DOWN, TILE, write_told

from wsi_hr.config import TileConfig
from wsi_hr.exchange.export import FORMATS, NOTE_NAME, export_store
from wsi_hr.store.patch_store import PatchStore, verify_store
from wsi_hr.tiling.passthrough import TileStreams
from wsi_hr.tiling.tile import tile_slide


@pytest.fixture
def older_store(tmp_path, monkeypatch):
    """Makes a store as versions up to 0.1 did: tiles are copied with all that they hold."""

    def read(streams: TileStreams, grid) -> Iterator[bytes]:
        for corner in streams._plan.decoded_corners(grid.coords):
            yield streams._tiles.stream(corner.x // TILE, corner.y // TILE)

    def make(told, **settings: object) -> PatchStore:
        path = write_told(tmp_path / "case.tif", told)
        config = TileConfig.model_validate(
            {"mpp": 0.25, "patch_size": TILE, "min_tissue": 0.0, **settings}
        )
        with monkeypatch.context() as patch:
            patch.setattr(TileStreams, "read", read)
            tile_slide(path, "case", tmp_path / "case.zarr", config, None, "x")
        assert verify_store(tmp_path / "case.zarr") == []
        return PatchStore.open(tmp_path / "case.zarr")

    return make


def told_anywhere(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and NAME in file.read_bytes()]


@pytest.mark.fault("G8")
@pytest.mark.parametrize("form", FORMATS)
def test_no_export_of_an_older_store_tells_the_name(older_store, tmp_path, form):
    store = older_store([*TOLD.values()])
    assert told_anywhere(store.path)
    export_store(store, tmp_path / "out", form)
    assert any((tmp_path / "out").rglob("*"))
    assert not told_anywhere(tmp_path / "out")


@pytest.mark.parametrize("form", ["jpeg", "webdataset"])
def test_its_pictures_show_what_the_store_shows(older_store, tmp_path, form):
    store = older_store([*TOLD.values()])
    export_store(store, tmp_path / "out", form)
    pictures = {}
    for file in (tmp_path / "out/case").iterdir():
        if file.suffix == ".jpg":
            pictures[file.stem] = file.read_bytes()
        if file.suffix == ".tar":
            with tarfile.open(file) as shard:
                for member in shard:
                    held = shard.extractfile(member)
                    assert held is not None
                    if member.name.endswith(".jpg"):
                        pictures[member.name[:-4]] = held.read()
    assert len(pictures) == ACROSS * DOWN
    for index, (x, y) in enumerate(store.grid.coords.tolist()):
        with Image.open(io.BytesIO(pictures[f"case_{x}_{y}"])) as picture:
            assert not picture.getexif()
            assert not {"icc_profile", "comment", "exif", "photoshop"} & set(picture.info)
            seen = np.asarray(picture.convert("RGB"))
        assert np.array_equal(seen, store.read(np.array([index]))[0])


def test_png_has_no_profile_and_no_text(older_store, tmp_path):
    store = older_store(TOLD["everywhere"])
    export_store(store, tmp_path / "out", "png")
    for file in (tmp_path / "out/case").glob("*.png"):
        with Image.open(file) as picture:
            assert picture.info == {}


def test_an_older_export_of_the_same_store_is_made_again(older_store, tmp_path):
    store = older_store(TOLD["COM"])
    made = export_store(store, tmp_path / "out", "jpeg")
    assert export_store(store, tmp_path / "out", "jpeg").kept
    note = json.loads((made.path / NOTE_NAME).read_text())
    assert note.pop("revision") == 2, "1 copied comments"
    (made.path / NOTE_NAME).write_text(json.dumps(note))
    assert not export_store(store, tmp_path / "out", "jpeg").kept


def test_a_stream_whose_markers_lead_nowhere_is_encoded_anew_and_told_of(
    older_store, tmp_path, caplog
):
    def broken(stream: bytes) -> bytes:
        return before(stream, EOI, b"\xff\xfe\xff\xff" + NAME)

    store = older_store([*[lambda stream: stream] * 7, broken], max_unreadable=0.5)
    assert told_anywhere(store.path)
    with caplog.at_level(logging.WARNING):
        export_store(store, tmp_path / "out", "jpeg")
    assert not told_anywhere(tmp_path / "out")
    assert caplog.text.count("is encoded anew: it ends inside a segment") == 3
    assert len(list((tmp_path / "out/case").glob("*.jpg"))) == ACROSS * DOWN
