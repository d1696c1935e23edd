"""The contact sheet shows what is there now, whatever stopped the run that should have drawn it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from pipelines.contact_sheet import write_contact_sheets
from pipelines.qc_table import QC_COLUMNS
from pipelines.tile import tile_stage
from wsi_hr.errors import ReadError, WriteError

from .test_tile import CONFIG, write_slide


def test_a_sheet_that_would_be_the_same_again_is_kept_and_no_other(tmp_path):
    row = dict.fromkeys(QC_COLUMNS, "") | {"slide_id": "a", "status": "done"}
    sheet = tmp_path / "contact_sheet.png"
    (tmp_path / "qc").mkdir()

    def drawn(color: str, row: dict[str, str]) -> bytes:
        Image.new("RGB", (9, 9), color).save(tmp_path / "qc/a.png")
        write_contact_sheets(tmp_path, [row])
        return sheet.read_bytes()

    first, when = drawn("red", row), sheet.stat().st_mtime_ns
    assert drawn("red", row) == first
    assert sheet.stat().st_mtime_ns == when
    others = {drawn("blue", row), drawn("red", row | {"status": "failed"})}
    assert len(others | {first}) == 3
    sheet.write_bytes(b"damaged")
    assert drawn("red", row) == first


def test_a_picture_that_cannot_be_read_just_now_is_told_and_not_left_out(tmp_path):
    row = dict.fromkeys(QC_COLUMNS, "") | {"slide_id": "a", "status": "done"}
    (tmp_path / "qc/a.png").mkdir(parents=True)  # reading it fails, as on a disk that does
    with pytest.raises(ReadError, match="qc/a.png: cannot be read"):
        write_contact_sheets(tmp_path, [row])
    assert not (tmp_path / "contact_sheet.png").exists()


@pytest.mark.fault("A18")
@pytest.mark.parametrize("flushed", range(5))
def test_a_flush_that_fails_leaves_no_old_sheet_after_the_next_run(tmp_path, monkeypatch, flushed):
    """The file has its new name by then, all stores are there, and nothing else is to be done."""
    slide, store = write_slide(tmp_path / "slides/a.svs", 0), tmp_path / "store"
    tile_stage([slide.parent], store, CONFIG)
    sheet = (store / "contact_sheet.png").read_bytes()
    for number in range(2):  # as of an earlier, longer list
        (store / f"contact_sheet_{number}.png").write_bytes(b"old")
    (store / "contact_sheet.png").write_bytes(b"old")
    before: list[Path] = []

    def flush(folder: Path) -> None:
        before.append(folder)
        if len(before) > flushed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("wsi_hr.runtime.fsync_dir", flush)
    with pytest.raises(WriteError, match="Input/output error"):
        tile_stage([slide.parent], store, CONFIG)
    monkeypatch.undo()
    tile_stage([slide.parent], store, CONFIG)
    assert {path.name for path in store.glob("*.png")} == {"contact_sheet.png"}
    assert (store / "contact_sheet.png").read_bytes() == sheet


def test_a_sheet_of_the_slides_before_is_drawn_anew_where_a_kill_left_nothing_to_do(tmp_path):
    store = tmp_path / "store"
    for number in range(2):
        write_slide(tmp_path / f"slides/{number}.svs", number)
    tile_stage([tmp_path / "slides"], store, CONFIG)
    whole = (store / "contact_sheet.png").read_bytes()
    tile_stage([tmp_path / "slides/0.svs"], tmp_path / "one", CONFIG)
    (tmp_path / "one/contact_sheet.png").rename(store / "contact_sheet.png")
    tile_stage([tmp_path / "slides"], store, CONFIG)
    assert (store / "contact_sheet.png").read_bytes() == whole
