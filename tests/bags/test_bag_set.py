"""A folder of stores as bags."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.config import TileConfig
from wsi_hr.errors import StoreError
from wsi_hr.geometry import Bounds, Mpp, Pair, PatchGrid, ReadPlan, Size, TissueMask
from wsi_hr.store.chunks import chunk_codec_for
from wsi_hr.store.patch_store import PatchStoreWriter, StoreInfo

PX = 16


def write_store(
    folder: Path, slide_id: str, *, readable: bool = True, num_low: int | None = None
) -> Path:
    """A store of six patches in two rows, each of one grey; asked for, at 2 um/px some lighter."""
    tile = TileConfig(patch_size=PX, mpp=1.0, codec="raw", max_unreadable=1)  # pyright: ignore
    asked = tile if num_low is None else tile.model_copy(update={"more_mpp": (2.0,)})
    info = StoreInfo(
        slide_id=slide_id,
        source_name=f"{slide_id}.svs",
        source_size=1,
        source_sha256="0" * 64,
        mpp=Mpp(1.0, 1.0, "test"),
        level0_size=Size(48, 32),
        bounds=Bounds(0, 0, 48, 32),
        vendor="test",
        reader="test",
        mode="raw",
        plan=ReadPlan(0, Pair(1, 1), Pair(1, 1), Pair(PX, PX), Pair(PX, PX)),
        tile=tile,
        asked=asked,
        segmenter=tile.segmenter,
        mask_downsample=Pair(16, 16),
        wsi_hr_version="0",
    )
    cells = np.array([(r, c) for r in range(2) for c in range(3)], np.int32)
    grid = PatchGrid(cells[:, ::-1] * PX, cells, (2, 3), np.ones(6, np.float32), Pair(PX, PX))
    mask = TissueMask(np.ones((2, 3), np.bool_), Pair(16, 16), tile.segmenter)
    path = folder / f"{slide_id}.zarr"
    thumbnail = np.zeros((2, 3, 3), np.uint8)
    with PatchStoreWriter(path, info, grid, mask, thumbnail) as writer:
        greys = [np.full((PX, PX, 3), grey, np.uint8) for grey in range(6)]
        encode = chunk_codec_for(tile).encode
        writer.write([encode(grey) if readable else None for grey in greys])
        if num_low:
            low = PatchGrid(
                cells[:num_low, ::-1] * 2 * PX, cells[:num_low], (1, 3),
                np.ones(num_low, np.float32), Pair(2 * PX, 2 * PX),
            )  # fmt: skip
            plan = replace(info.plan, patch_px0=low.patch_px0, stride_px0=low.patch_px0)
            writer.next_scale(replace(info, tile=asked.at(2.0), plan=plan), low)
            writer.write([encode(grey + 100) for grey in greys[:num_low]])
        writer.commit()
    return path


def test_bags_by_slide_with_their_labels(tmp_path) -> None:
    for slide_id in ("b", "a", "ä =1"):
        write_store(tmp_path, slide_id)
    (tmp_path / "status.csv").touch()
    (tmp_path / "c.zarr.tmp").mkdir()
    (tmp_path / "._a.zarr").touch()
    assert stored_slides(tmp_path) == ["a", "b", "ä =1"]
    bags = BagSet(tmp_path, {"a": 1}, max_open=2)
    for _ in range(2):
        for slide_id in stored_slides(tmp_path):
            bag = bags.open(slide_id)
            assert bag.slide_id == slide_id
            assert bag.label == {"a": 1}.get(slide_id)
            assert bag.read(np.array([4]))[0, 0, 0, 0] == 4
    assert bags.store("b") is bags.store("b"), "kept open"


def test_a_second_scale_is_the_bags_low_magnification(tmp_path) -> None:
    write_store(tmp_path, "a", num_low=2)
    write_store(tmp_path, "b", num_low=3)
    bags = BagSet(tmp_path, {"a": 1}, mpp=1.0, low_mpp=2.0, max_open=1)
    for slide_id, num in (("a", 2), ("b", 3), ("a", 2)):
        bag = bags.open(slide_id)
        assert (len(bag), bag.slide_id) == (6, slide_id)
        assert bag.read(np.array([4]))[0, 0, 0, 0] == 4
        assert bag.low is not None
        assert (len(bag.low), bag.low.slide_id) == (num, slide_id)
        assert bag.low.read(np.array([1]))[0, 0, 0, 0] == 101
        kept = bag.subset(np.array([5, 0]))
        assert (len(kept), kept.low) == (2, bag.low), "samplers leave it alone"
    assert BagSet(tmp_path).open("a").low is None


def test_tissue_too_scarce_for_the_second_scale_is_not_taken_for_the_first(tmp_path) -> None:
    write_store(tmp_path, "a", num_low=0)
    bag = BagSet(tmp_path, low_mpp=2.0).open("a")
    assert (len(bag), bag.low) == (6, None)


def test_a_second_scale_that_was_not_asked_for_is_refused(tmp_path) -> None:
    write_store(tmp_path, "a")
    with pytest.raises(
        StoreError,
        match=r"a.zarr: holds no patches at 2 um/px beside those at 1; tile with both, as in "
        r"wsi-hr tile --mpp 1,2$",
    ):
        BagSet(tmp_path, low_mpp=2.0).open("a")


def test_damaged_stores_are_listed_and_refused_by_name(tmp_path) -> None:
    write_store(tmp_path, "good")
    for name in ("cut", "unmarked"):
        write_store(tmp_path, name)
    part = next((tmp_path / "cut.zarr").glob("scale_*/patches/c*"))
    part.write_bytes(part.read_bytes()[:-1])
    (tmp_path / "unmarked.zarr/manifest.json").unlink()
    (tmp_path / "file.zarr").touch()
    assert stored_slides(tmp_path) == ["cut", "file", "good", "unmarked"]
    bags = BagSet(tmp_path)
    for name in ("cut", "file", "unmarked", "absent"):
        with pytest.raises(StoreError, match=rf"{name}\.zarr"):
            bags.open(name)
    assert len(bags.open("good")) == 6


def test_a_renamed_store_is_refused(tmp_path) -> None:
    write_store(tmp_path, "a").rename(tmp_path / "b.zarr")
    with pytest.raises(
        StoreError, match=r"b\.zarr: is the store of slide 'a'; rename it to a\.zarr"
    ):
        BagSet(tmp_path).open("b")


def test_a_store_without_a_readable_patch_is_no_bag(tmp_path) -> None:
    write_store(tmp_path, "a", readable=False)
    with pytest.raises(StoreError, match="none of its patches could be read"):
        BagSet(tmp_path).open("a")


def test_folders_that_hold_nothing(tmp_path) -> None:
    assert stored_slides(tmp_path) == []
    with pytest.raises(StoreError, match="no such folder"):
        stored_slides(tmp_path / "none")
    one = write_store(tmp_path, "a")
    with pytest.raises(StoreError, match="one slide's store"):
        stored_slides(one)
    shutil.rmtree(one)
