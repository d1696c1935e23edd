from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_hr.bags.bag import Bag
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.store.jpeg_patches import JpegPatches
from wsi_hr.testing.memory_patches import MemoryPatches


def numbered_patches(num: int) -> UInt8Array:
    """Patch k is filled with k."""
    return np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 8, 8, 3))


def source_of(num: int, *, invalid: tuple[int, ...] = ()) -> MemoryPatches:
    valid = np.ones(num, dtype=np.bool_)
    valid[list(invalid)] = False
    return MemoryPatches(numbered_patches(num), slide_id="s", valid=valid)


def values(pixels: UInt8Array) -> list[int]:
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0].tolist()


def test_a_bag_holds_the_valid_patches_and_their_places() -> None:
    source = source_of(10, invalid=(0, 4))
    bag = Bag.of(source, label=2)
    assert bag.indices.tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert (bag.slide_id, bag.label, len(bag)) == ("s", 2, 8)
    assert bag.grid.coords.tolist() == source.grid.coords[bag.indices].tolist()
    assert bag.grid.shape == source.grid.shape
    assert values(bag.read(np.array([3, 0, 3]))) == [5, 1, 5]


class Streams(MemoryPatches):
    """Patches that may be had as JPEG, of grey values that JPEG keeps; in YCbCr or in RGB."""

    def __init__(self, num: int, *, holds_jpeg: bool = True, rgb: bool = False) -> None:
        super().__init__(numbered_patches(num))
        self.holds_jpeg = holds_jpeg
        self._rgb = rgb

    def read_jpeg(self, indices: Int64Array) -> JpegPatches:
        streams = []
        for patch in self.read(indices):
            file = io.BytesIO()
            Image.fromarray(patch).save(file, "JPEG", quality=100, keep_rgb=self._rgb)
            streams.append(file.getvalue())
        return JpegPatches(tuple(streams), tuple(("s", k) for k in indices.tolist()), 8)


def test_streams_are_for_those_who_ask_and_where_they_mean_the_same_to_all() -> None:
    wanted, none = np.array([4, 1]), np.array([], np.int64)
    bag = Bag.of(Streams(6)).subset(np.array([5, 4, 3, 2, 1]))
    found = bag.fetch(wanted, encoded=True)
    assert isinstance(found, JpegPatches)
    assert values(found.decode()) == [1, 4]
    assert len(bag.fetch(none, encoded=True)) == 0
    for pixels in (
        bag.fetch(wanted, encoded=False),
        Bag.of(Streams(6, rgb=True)).fetch(np.array([1, 4]), encoded=True),
        Bag.of(Streams(6, holds_jpeg=False)).fetch(np.array([1, 4]), encoded=True),
        Bag.of(source_of(6)).fetch(np.array([1, 4]), encoded=True),
    ):
        assert isinstance(pixels, np.ndarray)
        assert values(pixels) == [1, 4]


@given(st.data())
def test_a_view_of_a_view_is_the_view_of_the_chosen(data: st.DataObject) -> None:
    bag = Bag.of(source_of(40, invalid=(7, 8)), label=1)
    names = bag.indices.tolist()
    for _ in range(3):
        keep = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=30))
        bag, names = bag.subset(np.array(keep)), [names[position] for position in keep]
        assert bag.indices.tolist() == names
        assert bag.label == 1
        assert values(bag.read(np.arange(len(bag)))) == names
        assert bag.grid.cells.tolist() == bag.source.grid.cells[names].tolist()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.array([0, 10]), "patches are 0 to 9"),
        (np.array([-1]), "patches are 0 to 9"),
        (np.array([[1]]), "expected i64"),
        (np.array([1.0]), "expected i64"),
        (np.ones(10, dtype=np.bool_), "expected i64"),
        (np.array([4]), "could not be read"),
    ],
)
def test_a_view_of_what_is_not_there_is_refused(indices: Int64Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bag(source_of(10, invalid=(4,)), indices)
