"""Grids from coordinates files: every patch kept, one cell each, nothing of another slide."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import tifffile
from array_slide import ArraySlide
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st

from wsi_hr.config import TileConfig
from wsi_hr.errors import CoordsError
from wsi_hr.exchange.coords_h5 import GivenCoords
from wsi_hr.geometry import Bounds, Pair, PatchGrid, PatchSpec, Size, TissueMask
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.coordinate_slide import decode_cells, write_coordinate_slide
from wsi_hr.tiling.given_grid import grid_from_coords
from wsi_hr.tiling.plan import plan_grid, plan_read
from wsi_hr.tiling.tile import tile_slide

SIZES = [(8192, 6144), (4096, 3072), (2048, 1536)]
TOLERANCE = 0.02


def asked(patch_px: int = 256, mpp: float = 0.5, stride_px: int | None = None) -> PatchSpec:
    return PatchSpec(patch_px, stride_px or patch_px, mpp, TOLERANCE, 0.5)


def file_of(coords, *, patch_px0: int | None = 512, level=None, patch_px=256, level_size=None):
    corners = np.asarray(coords, dtype=np.int64).reshape(-1, 2)
    return GivenCoords(Path("a.h5"), "0" * 64, corners, patch_px, patch_px0, level, level_size)


def mask_of(slide: ArraySlide, seed: int = 0) -> TissueMask:
    size = slide.level_dimensions[0]
    rng = np.random.default_rng(seed)
    return TissueMask(rng.random((size.h // 61, size.w // 64)) < 0.5, Pair(64.0, 61.0), "x")


def grid_of(given: GivenCoords, slide: ArraySlide, spec: PatchSpec) -> PatchGrid:
    return grid_from_coords(given, slide, plan_read(slide, spec), mask_of(slide), TOLERANCE)


@pytest.fixture
def slide() -> ArraySlide:
    return ArraySlide(sizes=SIZES, mpp=(0.25, 0.25))


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7, 0.5 * 0.2527 / 0.25])
def test_our_own_grid_comes_back_as_it_was(mpp):
    """Whatever the footprint, 716.8 px too, whose corners are rounded one by one."""
    slide = ArraySlide(sizes=[(100_000, 80_000)], mpp=(0.25, 0.25))
    plan, mask = plan_read(slide, asked(mpp=mpp)), mask_of(slide)
    size = slide.level_dimensions[0]
    own = plan_grid(size, Bounds(0, 0, *size), plan, mask, 0.5)
    assert 100 < len(own) < own.shape[0] * own.shape[1]
    shuffled = np.random.default_rng(1).permutation(len(own))
    given = file_of(own.coords[shuffled], patch_px0=round(plan.patch_px0.x))
    again = grid_from_coords(given, slide, plan, mask, TOLERANCE)
    assert np.array_equal(again.coords, own.coords)
    assert np.array_equal(again.cells, own.cells - own.cells.min(axis=0))
    assert again.tissue == pytest.approx(own.tissue, abs=1e-6)
    assert again.patch_px0 == own.patch_px0


def test_patches_without_tissue_are_kept(slide):
    mask = TissueMask(np.zeros((96, 128), np.bool_), Pair(64, 64), "x")
    given = file_of([(512, 0), (0, 0)])
    grid = grid_from_coords(given, slide, plan_read(slide, asked()), mask, TOLERANCE)
    assert grid.coords.tolist() == [[0, 0], [512, 0]]
    assert grid.tissue.tolist() == [0, 0]


def test_store_order_is_by_blocks_of_16_cells(slide):
    corners = [(x * 256, y * 256) for x in range(20) for y in range(20)]
    grid = grid_of(file_of(corners, patch_px0=256), slide, asked(mpp=0.25))
    blocks = [(row // 16, col // 16, row % 16, col % 16) for row, col in grid.cells.tolist()]
    assert blocks == sorted(blocks)
    assert grid.shape == (20, 20)
    assert np.array_equal(grid.coords, grid.cells[:, ::-1] * 256)


def test_a_file_whose_step_is_a_little_wider_leaves_no_column_empty(slide):
    """720 px, as whole magnifications have it, where a patch of 0.7 um/px covers 716.8."""
    slide = ArraySlide(sizes=[(160_000, 2048)], mpp=(0.25, 0.25))
    corners = [(720 * i, 0) for i in range(200)]
    grid = grid_of(file_of(corners, patch_px0=720), slide, asked(mpp=0.7))
    assert grid.patch_px0.x == pytest.approx(716.8)
    assert grid.shape == (1, 200)
    assert np.array_equal(grid.coords[:, 0], grid.cells[:, 1] * 720)


def test_two_pieces_of_tissue_with_a_grid_each(slide):
    """CLAM lays a grid over the bounding box of every contour, so phases differ."""
    left = [(x, y) for x in range(100, 1600, 512) for y in range(70, 2000, 512)]
    right = [(x, y) for x in range(1800, 3000, 512) for y in range(301, 2000, 512)]
    grid = grid_of(file_of([*left, *right], level=0, patch_px0=None, patch_px=512), slide, asked())
    assert len(np.unique(grid.cells, axis=0)) == len(left) + len(right)
    exact = (grid.coords - (100, 70))[:, ::-1] / 512
    assert np.abs(exact - grid.cells).max() <= 0.5


def test_patches_that_overlap_where_pieces_meet_get_cells_side_by_side(slide):
    corners = [(x, y) for x in range(0, 5000, 512) for y in range(0, 5000, 512)]
    grid = grid_of(file_of([*corners, (600, 600), (3000, 1100)]), slide, asked())
    assert len(grid) == len(corners) + 2
    assert len(np.unique(grid.cells, axis=0)) == len(grid)
    exact = grid.coords[:, ::-1] / 512
    regular = (grid.coords % 512 == 0).all(axis=1)
    assert np.array_equal(grid.cells[regular], exact[regular])
    rows, cols = grid.shape
    assert rows * cols <= 11 * 12


@settings(max_examples=60)
@given_any(st.sets(st.tuples(st.integers(0, 7000), st.integers(0, 6000)), min_size=1, max_size=40))
def test_wherever_patches_lie_each_has_a_cell_or_the_file_is_refused(corners):
    slide = ArraySlide(sizes=SIZES, mpp=(0.25, 0.25))
    apart = all(
        max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 512 for a in corners for b in corners if a != b
    )
    try:
        grid = grid_of(file_of(sorted(corners)), slide, asked())
    except CoordsError:
        assert not apart
        return
    assert sorted(map(tuple, grid.coords.tolist())) == sorted(corners)
    assert len({tuple(cell) for cell in grid.cells.tolist()}) == len(corners)
    assert (grid.cells >= 0).all()
    assert (grid.cells < grid.shape).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (file_of([(0, 0)], patch_px0=256), r"256 px wide at level 0, those asked 512 px; ask for "
         r"--mpp 0\.25 with --patch-size 256"),
        (file_of([(0, 0)], patch_px0=None, level=0), "256 px wide at level 0, those asked 512"),
        (file_of([(0, 0)], patch_px0=None, level=2), "1024 px wide at level 0, those asked 512"),
        (file_of([(0, 0)], patch_px0=None, level=3), "level 3, the slide has 3 levels"),
        (file_of([(0, 0)], level_size=Size(8191, 6144)), "a slide of 8191 x 6144 px at level 0"),
        (file_of([(0, 0)], patch_px0=None, level=1, level_size=Size(4096, 3000)), "at level 1"),
        (file_of([(0, 0), (8192, 0)]), r"begins at \(8192, 0\), outside the slide of 8192 x 6144"),
        (file_of([(0, 0), (-1, 0)]), r"begins at \(-1, 0\)"),
        (file_of([(0, 0), (512, 0), (0, 0)]), r"lists the patch at \(0, 0\) twice"),
        (file_of([(x, 0) for x in range(0, 5120, 128)]), "29 of its 40 patches .* tile.stride"),
        (file_of([(x + d, y + d) for x in range(0, 2560, 512) for y in range(0, 2560, 512)
                  for d in (0, 256)]), "16 of its 50"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(slide, given, sentence):
    with pytest.raises(CoordsError, match=sentence) as error:
        grid_of(given, slide, asked())
    assert str(error.value).startswith("a.h5: ")


def test_overlaps_that_were_asked_for_are_a_grid(slide):
    corners = [(x, 0) for x in range(0, 5120, 128)]
    grid = grid_of(file_of(corners), slide, asked(stride_px=64))
    assert grid.shape == (1, 40)
    assert grid.patch_px0 == (512, 512)


def test_sizes_of_reduced_levels_are_compared_as_readers_round_them(slide):
    given = file_of([(0, 0)], patch_px0=None, level=1, level_size=Size(4097, 3071))
    assert len(grid_of(given, slide, asked())) == 1


def test_tissue_is_the_masks_fraction_also_between_its_pixels(slide):
    mask = TissueMask(np.arange(12).reshape(3, 4) % 5 < 2, Pair(64.0, 61.0), "x")
    fine = mask.mask.repeat(61, axis=0).repeat(64, axis=1)
    plan = plan_read(slide, asked(patch_px=50, mpp=0.25))
    corners = [(3, 7), (100, 41), (230, 160), (206, 133)]
    grid = grid_from_coords(file_of(corners, patch_px0=50), slide, plan, mask, TOLERANCE)
    brute = [fine[y : y + 50, x : x + 50].sum() / 2500 for x, y in grid.coords.tolist()]
    assert grid.tissue == pytest.approx(brute, abs=1e-6)


CELL = 16
RAW = {"mpp": 0.5, "patch_size": 64, "codec": "raw"}


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "s.tif"
    write_coordinate_slide(path, size=Size(1600, 1200), mpp=0.25, levels=(1, 2))
    return path


def tile(slide_path: Path, folder: Path, coords: Path, **changed: object) -> PatchStore:
    config = TileConfig.model_validate({**RAW, **changed})
    result = tile_slide(slide_path, "s", folder / "s.zarr", config, None, "x", coords=coords)
    assert result.status == "done"
    return PatchStore.open(folder / "s.zarr")


def write_file(path: Path, coords, attributes: dict[str, object]) -> Path:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=np.asarray(coords).reshape(-1, 2))
        dataset.attrs.update(attributes)
    return path


TRIDENT = {"patch_size": 64, "patch_size_level0": 128}


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_the_pixels_are_those_at_the_files_corners(tmp_path, slide_path, mpp):
    """Corners off any grid, neighbours at other heights, one over the edge as CLAM pads it."""
    corners = [(0, 0), (130, 20), (262, 4), (352, 416), (1520, 1136), (864, 640), (990, 600)]
    footprint = round(64 * mpp / 0.25)
    coords = write_file(
        tmp_path / "s.h5", corners, {"patch_size": 64, "patch_size_level0": footprint}
    )
    store = tile(slide_path, tmp_path, coords, mpp=mpp)
    assert sorted(map(tuple, store.grid.coords.tolist())) == sorted(corners)
    assert store.valid.all()
    pixels = store.read(np.arange(len(store)))
    step = footprint // 64
    for (x, y), patch in zip(store.grid.coords.tolist(), pixels, strict=True):
        ys, xs = np.mgrid[y : y + footprint : step, x : x + footprint : step]
        inside = (xs < 1600) & (ys < 1200)
        cells = decode_cells(patch)
        assert np.array_equal(cells[inside, 0], xs[inside] // CELL)
        assert np.array_equal(cells[inside, 1], ys[inside] // CELL)
        assert (patch[~inside] == 255).all()


@pytest.fixture(scope="module")
def jpeg_slide(tmp_path_factory) -> Path:
    """Noise in blocks of 4 px, in JPEG tiles of 256 px; the last column and row are not whole."""
    path = tmp_path_factory.mktemp("slides") / "j.tif"
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 200, (175, 250, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 95},
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


@pytest.mark.parametrize("corner", [(768, 512), (800, 600)])
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_what_hangs_over_the_edge_is_white(tmp_path, jpeg_slide, corner, mpp):
    """Also where the patch is a tile of the file, whose rest holds whatever the scanner left."""
    edge = round(256 * 0.25 / mpp)
    told = {"patch_size": edge, "patch_size_level0": 256}
    coords = write_file(tmp_path / "s.h5", [corner, (0, 0)], told)
    settings = {"mpp": mpp, "patch_size": edge, "codec": TileConfig().codec}  # pyright: ignore
    store = tile(jpeg_slide, tmp_path, coords, **settings)
    (index,) = np.flatnonzero((store.grid.coords == corner).all(axis=1))
    (patch,) = store.read(np.array([index]))
    right, bottom = (1000 - corner[0]) * edge // 256, (700 - corner[1]) * edge // 256
    margin = 8  # JPEG blocks reach over the border
    assert patch[bottom + margin :].mean() > 240
    assert patch[:, right + margin :].mean() > 240
    assert patch[: bottom - margin, : right - margin].mean() < 160


def test_corners_are_exact_where_pixels_are_reduced(tmp_path, jpeg_slide):
    """Odd ones too, half a px of the patch from the next even one."""
    corners = [(33, 65), (301, 126), (500, 401), (640, 256)]
    told = {"patch_size": 64, "patch_size_level0": 128}
    store = tile(jpeg_slide, tmp_path, write_file(tmp_path / "s.h5", corners, told), mpp=0.5)
    with openslide.OpenSlide(jpeg_slide) as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, (1000, 700)).convert("RGB"), np.float64)
    for (x, y), patch in zip(
        store.grid.coords.tolist(), store.read(np.arange(4)).astype(float), strict=True
    ):
        errors = {}
        for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            region = whole[y + dy : y + dy + 128, x + dx : x + dx + 128]
            averages = region.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
            errors[dx, dy] = np.abs(patch - averages).mean()
        exact = errors.pop((0, 0))
        assert exact < min(errors.values()) / 3


def test_the_store_names_the_file_it_was_cut_from(tmp_path, slide_path):
    first = write_file(tmp_path / "first.h5", [(0, 0), (128, 0)], TRIDENT)
    second = write_file(tmp_path / "second.h5", [(0, 0), (256, 0)], TRIDENT)
    infos = [tile(slide_path, tmp_path / c.stem, c).info for c in (first, second)]
    assert len({info.coords_sha256 for info in infos}) == 2
    assert all(len(info.coords_sha256) == 64 for info in infos)


def test_a_file_without_patches_makes_no_store(tmp_path, slide_path):
    coords = write_file(tmp_path / "s.h5", np.zeros((0, 2), np.int64), TRIDENT)
    config = TileConfig.model_validate(RAW)
    result = tile_slide(slide_path, "s", tmp_path / "s.zarr", config, None, "x", coords=coords)
    assert (result.status, result.reason) == ("no_tissue", "s.h5 lists no patch")
    assert not (tmp_path / "s.zarr").exists()
