"""Coordinates files of CLAM and TRIDENT: read as those write them, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from wsi_hr.errors import CoordsError
from wsi_hr.exchange.coords_h5 import find_coords, read_coords, write_coords
from wsi_hr.geometry import Size
from wsi_hr.runtime import sha256_file

COORDS = np.array([[0, 0], [512, 0], [0, 512]])
CLAM = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (2.0, 2.0),
    "downsampled_level_dim": (750, 550),
    "level_dim": (750, 550),
    "name": "a",
    "save_path": "patches",
}
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "level0_width": 1500,
    "level0_height": 1100,
}


def test_a_clam_file(h5, tmp_path):
    path = h5(tmp_path / "a.h5", COORDS, CLAM)
    given = read_coords(path)
    assert np.array_equal(given.coords, COORDS)
    assert (given.patch_px, given.level, given.patch_px0) == (256, 1, None)
    assert given.level_size == Size(750, 550)
    assert given.sha256 == sha256_file(path)


def test_a_trident_file(h5, tmp_path):
    given = read_coords(h5(tmp_path / "a_patches.h5", COORDS, TRIDENT))
    assert (given.patch_px, given.level, given.patch_px0) == (256, None, 512)
    assert given.level_size == Size(1500, 1100)
    without = {k: v for k, v in TRIDENT.items() if not k.startswith("level0_w")}
    assert read_coords(h5(tmp_path / "older.h5", COORDS, without)).level_size is None


def test_a_file_without_patches_is_none_the_less_a_file(h5, tmp_path):
    given = read_coords(h5(tmp_path / "a.h5", np.zeros((0, 2), np.int64), TRIDENT))
    assert len(given) == 0
    assert given.coords.shape == (0, 2)


@pytest.mark.parametrize(
    ("coords", "attributes", "sentence"),
    [
        (COORDS, {**CLAM, "patch_size": None}, "its attribute patch_size is missing"),
        (COORDS, {**CLAM, "patch_size": "256"}, "patch_size is not a whole number"),
        (COORDS, {**CLAM, "patch_size": 0}, "patch_size is not a whole number"),
        (COORDS, {**CLAM, "patch_size": np.nan}, "patch_size is not a whole number"),
        (COORDS, {**CLAM, "patch_level": -1}, "patch_level is not a whole number"),
        (COORDS, {**CLAM, "level_dim": (1, 2, 3)}, "level_dim is not 2 whole numbers"),
        (COORDS, {**CLAM, "patch_level": None}, "neither patch_level"),
        (COORDS, {**CLAM, "custom_downsample": 2}, "was cut with custom_downsample"),
        (COORDS + 0.5, CLAM, "are not whole level-0 pixels"),
        (COORDS * 2.0**40, CLAM, "lie outside any slide"),
        (np.full((3, 2), np.nan), CLAM, "lie outside any slide"),
        (COORDS.ravel(), CLAM, r"int64\[6\] where whole numbers \[N, 2\] belong"),
        (COORDS.astype("S8"), CLAM, "where whole numbers"),
    ],
)
def test_what_a_file_says_wrongly_is_one_sentence(h5, tmp_path, coords, attributes, sentence):
    told = {name: value for name, value in attributes.items() if value is not None}
    with pytest.raises(CoordsError, match=sentence):
        read_coords(h5(tmp_path / "a.h5", coords, told))


def test_what_is_no_such_file_is_one_sentence(h5, tmp_path):
    with pytest.raises(CoordsError, match="cannot be read"):
        read_coords(tmp_path / "none.h5")
    for content in (b"", b"<html>", b"\x89HDF\r\n\x1a\n" + bytes(200)):
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(CoordsError, match="not HDF5, or damaged"):
            read_coords(tmp_path / "a.h5")
    with pytest.raises(CoordsError, match="has no dataset coords"):
        read_coords(h5(tmp_path / "a.h5", COORDS, CLAM, name="features"))
    with pytest.raises(CoordsError, match="has no dataset coords"):
        read_coords(h5(tmp_path / "a.h5", COORDS, CLAM, name="coords/inner"))


def test_a_file_cut_anywhere_never_gives_other_coordinates(h5, tmp_path):
    """Bytes of the numbers themselves may change unseen: HDF5 has no checksum for them here."""
    whole = h5(tmp_path / "a.h5", COORDS, CLAM).read_bytes()
    refused = 0
    for end in range(0, len(whole), 97):
        (tmp_path / "cut.h5").write_bytes(whole[:end])
        try:
            assert np.array_equal(read_coords(tmp_path / "cut.h5").coords, COORDS)
        except CoordsError:
            refused += 1
    assert refused > len(whole) / 97 / 2


def test_numbers_that_lie_in_other_files_are_not_fetched(tmp_path):
    (tmp_path / "secret").write_bytes(np.arange(6).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["coords"] = COORDS
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["coords"] = h5py.ExternalLink("other.h5", "coords")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        external = [(str(tmp_path / "secret"), 0, 48)]
        file.create_dataset("coords", (3, 2), "i8", external=external).attrs.update(CLAM)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 2), "i8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "coords", (3, 2))
        file.create_virtual_dataset("coords", layout).attrs.update(CLAM)
    for name in ("linked", "external", "virtual"):
        with pytest.raises(CoordsError, match=r"no dataset|in other files"):
            read_coords(tmp_path / f"{name}.h5")


def test_a_dataset_of_absurd_length_is_not_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("coords", (10**12, 2), "i8", chunks=(1024, 2)).attrs.update(CLAM)
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    with pytest.raises(CoordsError, match="more than a slide has"):
        read_coords(tmp_path / "a.h5")


def test_a_slides_file_is_found_under_either_name_and_never_guessed(tmp_path):
    with pytest.raises(CoordsError, match=r"neither s\.1\.h5 nor s\.1_patches\.h5"):
        find_coords(tmp_path, "s.1")
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/s.1_patches.h5").touch()
    assert find_coords(tmp_path, "s.1") == tmp_path / "patches/s.1_patches.h5"
    assert find_coords(tmp_path / "patches", "s.1") == tmp_path / "patches/s.1_patches.h5"
    (tmp_path / "s.1.h5").touch()
    with pytest.raises(CoordsError, match="is there too; keep one"):
        find_coords(tmp_path, "s.1")


def test_equal_coordinates_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_coords(Path(tmp_path / name), COORDS.astype(np.int32), CLAM, {"note": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
