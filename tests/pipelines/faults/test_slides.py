"""Section B of docs/faults.md: damaged, strange and hostile slides beside sound ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from benchmarks.command_runs import ROOT, read_rows
from benchmarks.planted import plant
from wsi_hr.runtime import sha256_file
from wsi_hr.slides.isolate import stop_isolated
from wsi_hr.store.patch_store import PatchStore

from . import slide_damage as made
from .oracle import (
    DEADLINE_S,
    Ended,
    fault,
    pixels,
    timed,
    wrong_ending,
    wrong_pixels,
    wrong_table,
    wrong_tree,
)
from .slide_damage import Damage, edited

pytestmark = pytest.mark.timeout(2 * DEADLINE_S)

SETTINGS = ("--mpp", 0.5, "--patch-size", 128, "--workers", 1, "--set", "tile.max_unreadable=0.5")
SOUND = ("a", "z")
TILE_PATCHES = 4  # a tile has so many


@dataclass(frozen=True)
class Undisturbed:
    """Slides, the stores of a run without any fault, and the victim's patches."""

    slides: Path
    store: Path
    pixels: dict[tuple[int, int], str]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    from pipelines.tile import tile_stage
    from wsi_hr.config import TileConfig

    folder = tmp_path_factory.mktemp("undisturbed")
    for seed, name in enumerate(("victim", *SOUND)):
        made.write_victim(folder / f"slides/{name}.svs", seed)
    config = TileConfig(mpp=0.5, patch_size=128, max_unreadable=0.5)  # pyright: ignore
    rows = tile_stage([folder / "slides"], folder / "store", config)
    assert {row["status"] for row in rows} == {"done"}
    return Undisturbed(folder / "slides", folder / "store", pixels(folder / "store/victim.zarr"))


@pytest.fixture
def slides(undisturbed, tmp_path) -> Path:
    """The sound slides and the victim, in a folder to damage."""
    return Path(shutil.copytree(undisturbed.slides, tmp_path / "slides"))


@pytest.fixture
def tile(cli, tmp_path) -> Callable[..., Ended]:
    """Tile what is given into ``store``."""
    return lambda *given: timed(cli, "tile", *given, "-o", tmp_path / "store", *SETTINGS)


CHANGE = """
import os
def _plant(module):
    opened = module.open_slide
    def open_slide(path, **settings):
        slide = opened(path, **settings)
        for change in path.parent.glob(path.stem + ".other"):
            os.replace(change, path)
        for change in path.parent.glob(path.stem + ".more"):
            with path.open("ab") as handle:
                handle.write(change.read_bytes())
            change.unlink()
        return slide
    module.open_slide = open_slide
PLANTS |= {"wsi_hr.tiling.tile": _plant}
"""


@pytest.fixture
def hooked(tmp_path, monkeypatch) -> Iterator[None]:
    """Slides change when they have just been opened."""
    monkeypatch.setenv("PYTHONPATH", f"{plant(tmp_path / 'planted', CHANGE)}:{ROOT}")
    stop_isolated()  # the next process that forks readers has the hook
    yield
    stop_isolated()


def row_of(store: Path, slide_id: str) -> dict[str, str]:
    (row,) = (row for row in read_rows(store / "status.csv") if row["slide_id"] == slide_id)
    return row


def wrong(
    ended: Ended, store: Path, undisturbed: Undisturbed, code: int, *others: str
) -> list[str]:
    """All oracles that hold whatever became of the damaged slides ``others``."""
    return [
        *wrong_ending(ended, code),
        *wrong_table(store / "status.csv", (*SOUND, *others)),
        *wrong_tree(store, undisturbed.store, *SOUND),
    ]


# What a damaged slide must come to: its state, the words that say why, and how many patches are
# lost where the others must be equal; None where there must be no store.
NO_MPP = "give it with --mpp-override or in an mpp column of a manifest"
CUT_OFF = "cut off.*copy the file again"
LOST = f"{TILE_PATCHES} of 16 patches unreadable"
ENTITIES = "declares XML entities"
TABLE: tuple[object, ...] = (
    fault("B1", made.content(b""), "failed", "the file is empty", None),
    fault("B5", made.content(made.png()), "failed", "a PNG picture", None),
    fault("B6", made.content(made.archive()), "failed", "a zip archive", None),
    fault("B7", made.content(b"<html>404</html>"), "failed", "a web page", None),
    fault("B8", made.cut(0.01), "failed", CUT_OFF, None),
    fault("B9", made.cut(0.1), "failed", CUT_OFF, None),
    fault("B10", made.cut(0.5), "failed", CUT_OFF, None),
    fault("B11", made.cut(0.99), "done", "", 0),
    fault("B12", made.cut_by_one, "done", "", 0),
    fault("B13", edited(made.tile_of_zero_length), "done", LOST, TILE_PATCHES),
    fault("B14", edited(made.tile_zeroed), "done", LOST, TILE_PATCHES),
    fault("B16", edited(made.tile_behind_the_end), "done", LOST, TILE_PATCHES),
    fault("B17", edited(made.tile_frame_too_large), "done", LOST, TILE_PATCHES),
    fault("B18", edited(made.directories_in_a_circle), "failed", "round in a circle", None),
    fault("B19", edited(made.levels_missing), "done", "", 0),
    fault("B20", edited(made.picture_damaged(2)), "done", "", 0),
    fault("B21", edited(made.picture_damaged(1)), "done", "", 0),
    fault("B23", made.tiff(np.full((1, 1, 3), 99, np.uint8), tile=(16, 16)), "no_tissue",
          "smaller than one patch", None),
    fault("B24", made.flat((255, 255, 255)), "no_tissue", "no tissue found", None),
    fault("B25", made.flat((0, 0, 0)), "no_tissue", "no tissue found", None),
    fault("B26", made.flat(made.PEN), "no_tissue", "all 16 patches .* spoilt by artifacts", None),
    fault("B27", made.told_mpp(""), "failed", NO_MPP, None),
    fault("B28", made.told_mpp("MPP = 0"), "failed", f"no.* a positive number; {NO_MPP}", None),
    fault("B29", made.told_mpp("MPP = NaN"), "failed", f"no.* a positive number; {NO_MPP}", None),
    fault("B30", made.told_mpp("MPP = -0.5"), "failed", f"no.* a positive number; {NO_MPP}", None),
    fault("B31", made.told_mpp("MPP = 0,5000"), "done", "", 0),
    fault("B34", made.told_mpp("MPP = 5.0000"), "failed", "objective of 20x gives .*0.5", None),
    fault("B35", made.one_huge_tile, "failed", "more than can be decoded in bounded memory", None),
    fault("B36", edited(made.described(made.bomb(made.PLAIN))), "failed", ENTITIES, None),
    fault("B38", made.tiff(description=made.bomb(made.OME)), "failed", ENTITIES, None),
)  # fmt: skip


@pytest.mark.parametrize(("damage", "status", "reason", "lost"), TABLE)
def test_a_damaged_slide_ends_as_what_it_is(
    slides, tile, undisturbed, tmp_path, damage: Damage, status: str, reason: str, lost: int | None
):
    damage(slides / "victim.svs")
    store = tmp_path / "store"
    problems = wrong(tile(slides), store, undisturbed, int(status == "failed"), "victim")
    row = row_of(store, "victim")
    assert problems == []
    assert row["status"] == status
    assert re.search(reason, row["reason"]) if reason else row["reason"] == ""
    if lost is None:
        assert not (store / "victim.zarr").exists()
    else:
        assert wrong_pixels(store / "victim.zarr", undisturbed.pixels, lost) == []


@pytest.mark.fault("B35")
def test_a_huge_slide_without_levels_is_stopped_at_its_deadline(slides, cli, undisturbed, tmp_path):
    made.huge_and_empty(slides / "victim.svs")
    store = tmp_path / "store"
    ended = timed(cli, "tile", slides, "-o", store, *SETTINGS, "--set", "tile.deadline_s=6")
    assert wrong_ending(ended, 1) == []
    assert wrong_table(store / "status.csv", (*SOUND, "victim")) == []
    assert "took longer than 6 s" in row_of(store, "victim")["reason"]
    for name in SOUND:  # stores name their deadline, so they are not equal byte by byte
        wanted = pixels(undisturbed.store / f"{name}.zarr")
        assert wrong_pixels(store / f"{name}.zarr", wanted) == []


@pytest.mark.fault("B15")
def test_a_flipped_bit_that_no_decoder_misses_is_told_by_the_hash(
    slides, tile, cli, undisturbed, tmp_path
):
    victim, store = slides / "victim.svs", tmp_path / "store"
    edited(made.tile_bit_flipped)(victim)
    assert wrong(tile(slides), store, undisturbed, 0, "victim") == []
    found = pixels(store / "victim.zarr")
    same = [corner for corner, digest in undisturbed.pixels.items() if found[corner] == digest]
    assert len(same) >= 16 - TILE_PATCHES
    assert PatchStore.open(store / "victim.zarr").info.source_sha256 == sha256_file(victim)
    ended = timed(cli, "verify", store, "--slides", undisturbed.slides)
    assert wrong_ending(ended, 1) == ["does not say what failed"], "it says so on stdout"
    assert "victim.zarr: " in ended.out
    assert "1 outdated" in ended.out


@pytest.mark.fault("B22")
def test_strips_give_the_patches_of_tiles(slides, tile, undisturbed, tmp_path):
    store = tmp_path / "store"
    made.tiff(tile=None, rowsperstrip=64)(slides / "victim.svs")
    made.tiff()(slides / "tiles.tif")
    assert wrong(tile(slides), store, undisturbed, 0, "victim", "tiles") == []
    assert wrong_pixels(store / "victim.zarr", pixels(store / "tiles.zarr")) == []


@pytest.mark.fault("B32")
def test_a_resolution_per_cm_is_that_per_inch(slides, tile, undisturbed, tmp_path):
    store = tmp_path / "store"
    made.tiff(resolution=(50_800, 50_800), resolutionunit="INCH")(slides / "victim.svs")
    made.tiff()(slides / "metric.tif")
    assert wrong(tile(slides), store, undisturbed, 0, "victim", "metric") == []
    assert row_of(store, "victim")["mpp"] == row_of(store, "metric")["mpp"] == "0.5"
    assert wrong_pixels(store / "victim.zarr", pixels(store / "metric.zarr")) == []


@pytest.mark.fault("B33")
def test_an_mpp_of_each_axis_is_kept(slides, tile, undisturbed, tmp_path):
    store = tmp_path / "store"
    made.tiff(resolution=(20_000, 21_000))(slides / "victim.svs")
    made.tiff(resolution=(20_000, 15_000))(slides / "oblong.tif")
    assert wrong(tile(slides), store, undisturbed, 1, "victim", "oblong") == []
    info = PatchStore.open(store / "victim.zarr").info
    assert (info.mpp.x, info.mpp.y) == pytest.approx((0.5, 10_000 / 21_000))
    um = [info.plan.patch_px0.x * info.mpp.x, info.plan.patch_px0.y * info.mpp.y]
    assert um == pytest.approx([64, 64], rel=0.01)
    assert "more oblong than any scanner's pixels" in row_of(store, "oblong")["reason"]


@pytest.mark.parametrize("text", [fault("B37", made.PLAIN), fault("B39", made.OME)])
def test_an_external_entity_is_not_fetched(slides, tile, undisturbed, tmp_path, text):
    secret, store = tmp_path / "secret.txt", tmp_path / "store"
    secret.write_text("the content of another file")
    made.tiff(description=made.entity(text, secret))(slides / "victim.svs")
    ended = tile(slides)
    assert wrong(ended, store, undisturbed, 1, "victim") == []
    assert ENTITIES in row_of(store, "victim")["reason"]
    held = [path for path in store.rglob("*") if path.is_file()]
    assert all(b"content of another" not in path.read_bytes() for path in held)
    assert "content of another" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        fault("B42", "v i c.svs", "v i c"),
        fault("B43", "v\ni.svs", "v_i"),
        fault("B44", "-victim.svs", "-victim"),
        fault("B45", "=cmd|' C'!A0.svs", "=cmd|' C'!A0"),
        fault("B46", "...svs", "_.."),
        fault("B48", "v" * 251 + ".svs", None),
    ],
)
def test_an_odd_name_gives_the_same_patches(
    slides, tile, undisturbed, tmp_path, name: str, slide_id: str | None
):
    store = tmp_path / "store"
    (slides / "victim.svs").rename(slides / name)
    ended = tile(*sorted(slides.iterdir()))  # in a folder, names with a dot in front are hidden
    (row,) = (row for row in read_rows(store / "status.csv") if row["slide_id"] not in SOUND)
    assert wrong(ended, store, undisturbed, 0, row["slide_id"]) == []
    (found,) = (path for path in store.glob("*.zarr") if path.stem not in SOUND)
    if slide_id is not None:
        assert found.name == f"{slide_id}.zarr"
        assert row["slide_id"] == ("'" + slide_id if slide_id[0] in "=-" else slide_id)
    assert wrong_pixels(found, undisturbed.pixels) == []
    assert {path.name for path in tmp_path.iterdir()} == {"slides", "store"}
    assert sum(path.is_dir() for path in store.iterdir()) == 5, "stores, masks, qc"


@pytest.mark.fault("B47")
def test_names_of_two_unicode_forms_are_two_slides(slides, tile, undisturbed, tmp_path):
    composed, decomposed = "v\u00fc", "vu\u0308"
    (slides / "victim.svs").rename(slides / f"{composed}.svs")
    made.write_victim(slides / f"{decomposed}.svs", 7)
    store = tmp_path / "store"
    ended = tile(slides)
    ids = [row["slide_id"] for row in read_rows(store / "status.csv")]
    others = [slide_id for slide_id in ids if slide_id not in SOUND]
    assert len(set(others)) == 2
    assert wrong(ended, store, undisturbed, 0, *others) == []
    found = {digest for name in others for digest in pixels(store / f"{name}.zarr").values()}
    assert found > set(undisturbed.pixels.values()), "both were tiled"


@pytest.mark.fault("B40", "B41")
def test_slides_that_change_under_their_reader_fail_and_are_tiled_again(
    slides, tile, undisturbed, tmp_path, hooked
):
    """A colleague puts another file there; a scanner is still copying."""
    (slides / "victim.svs").rename(slides / "replaced.svs")
    shutil.copy(slides / "replaced.svs", slides / "grown.svs")
    made.write_victim(slides / "replaced.other", 9)
    shutil.copy(slides / "replaced.other", slides / "grown.more")
    store, changed = tmp_path / "store", ("replaced", "grown")
    assert wrong(tile(slides), store, undisturbed, 1, *changed) == []
    for name in changed:
        assert "changed" in row_of(store, name)["reason"]
        assert not (store / f"{name}.zarr").exists()
    assert wrong(tile(slides), store, undisturbed, 0, *changed) == []
    for name in changed:
        digest = PatchStore.open(store / f"{name}.zarr").info.source_sha256
        assert digest == sha256_file(slides / f"{name}.svs")
    assert wrong_pixels(store / "grown.zarr", undisturbed.pixels) == []


def unprivileged(*args: object) -> Ended:
    """Run a command as somebody for whom permissions count, also where we are root."""
    before = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and there is no setpriv")
        powers = "-dac_override,-dac_read_search"
        before = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"]
    call = [*before, sys.executable, "-c", "from pipelines.cli import main; main()"]
    begun = time.monotonic()
    ended = subprocess.run(
        [*call, *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - begun)


@pytest.mark.fault("B4")
def test_a_slide_that_may_not_be_read_fails_alone(slides, undisturbed, tmp_path):
    store = tmp_path / "store"
    (slides / "victim.svs").chmod(0)
    ended = unprivileged("tile", slides, "-o", store, *SETTINGS)
    assert wrong(ended, store, undisturbed, 1, "victim") == []
    assert "may not be read; change its permissions" in row_of(store, "victim")["reason"]


@pytest.mark.fault("B52")
def test_an_output_that_cannot_be_written_is_one_sentence(slides, tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    ended = unprivileged("tile", slides, "-o", folder / "store", *SETTINGS)
    assert wrong_ending(ended, 2) == []
    assert f"{folder / 'store'}: " in ended.err
    assert list(folder.iterdir()) == []


@pytest.mark.fault("B49")
def test_one_stem_in_two_folders_is_two_slides(slides, tile, undisturbed, tmp_path):
    store = tmp_path / "store"
    for number, folder in enumerate(("one", "two")):
        made.write_victim(slides / folder / "victim.svs", number)
    (slides / "victim.svs").unlink()
    assert wrong(tile(slides), store, undisturbed, 0, "one_victim", "two_victim") == []
    assert wrong_pixels(store / "one_victim.zarr", undisturbed.pixels) == []
    assert pixels(store / "two_victim.zarr") != undisturbed.pixels


@pytest.mark.fault("B50")
def test_links_that_lead_in_a_circle_end(slides, tile, undisturbed, tmp_path):
    store = tmp_path / "store"
    (slides / "round").symlink_to(slides)
    (slides / "self").symlink_to("self")
    (slides / "self.svs").symlink_to("self.svs")
    assert wrong(tile(slides), store, undisturbed, 1, "victim", "self") == []
    assert wrong_pixels(store / "victim.zarr", undisturbed.pixels) == []
    assert "cannot be read" in row_of(store, "self")["reason"]


@pytest.mark.fault("B51")
def test_links_that_leave_the_folder_are_followed_once(slides, tile, undisturbed, tmp_path):
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (slides / "victim.svs").rename(elsewhere / "victim.svs")
    (slides / "victim.svs").symlink_to(elsewhere / "victim.svs")
    (slides / "folder").symlink_to(elsewhere)
    ended = tile(slides)
    ids = [row["slide_id"] for row in read_rows(store / "status.csv")]
    others = [slide_id for slide_id in ids if slide_id not in SOUND]
    assert wrong(ended, store, undisturbed, 0, *others) == []
    (done,) = (one for one in others if row_of(store, one)["status"] == "done")
    assert wrong_pixels(store / f"{done}.zarr", undisturbed.pixels) == []


@pytest.mark.fault("B2")
def test_an_absent_slide_of_a_manifest_fails_alone(slides, tile, undisturbed, tmp_path):
    store, manifest = tmp_path / "store", tmp_path / "manifest.csv"
    (slides / "victim.svs").unlink()
    paths = [slides / f"{name}.svs" for name in ("victim", *SOUND)]
    manifest.write_text("slide\n" + "".join(f"{path}\n" for path in paths))
    assert wrong(tile(manifest), store, undisturbed, 1, "victim") == []
    assert row_of(store, "victim")["reason"] == "no such file"


@pytest.mark.fault("B3")
def test_a_folder_under_a_slides_name_is_no_slide(slides, tile, undisturbed, tmp_path):
    store, manifest = tmp_path / "store", tmp_path / "manifest.csv"
    (slides / "victim.svs").unlink()
    (slides / "victim.svs").mkdir()
    assert wrong(tile(slides), store, undisturbed, 0) == []
    manifest.write_text("slide\n" + "".join(f"{slides}/{n}.svs\n" for n in ("victim", *SOUND)))
    assert wrong(tile(manifest), store, undisturbed, 1, "victim") == []
    assert "a folder, not a slide" in row_of(store, "victim")["reason"]
    ended = tile(slides / "victim.svs")
    assert wrong_ending(ended, 2) == []
    assert "no slides found" in ended.err


@pytest.mark.fault("A15", "B2")
def test_a_mistyped_name_leaves_nothing(slides, tile, undisturbed, tmp_path):
    store = tmp_path / "store"
    for given in ((f"{slides}s",), (slides / "a.svs", slides / "b.svs", slides / "z.svs")):
        ended = tile(*given)
        assert wrong_ending(ended, 2) == []
        assert "no such file" in ended.err
        assert not store.exists()
    assert wrong(tile(slides), store, undisturbed, 0, "victim") == []


@pytest.mark.fault("B53")
def test_the_label_of_a_slide_that_its_vendors_reader_refuses_is_no_slide(
    slides, tile, undisturbed, tmp_path
):
    """A Philips TIFF without what their reader needs; its first page is a label, tiled."""
    store, victim = tmp_path / "store", slides / "victim.svs"
    victim.unlink()
    how = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib", "metadata": None}
    how |= {"resolution": made.PER_CM, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(slides / "victim.tif") as writer:
        told = '<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"></DataObject>'
        writer.write(made.tissue(1), software="Philips DP v1.0", description=told, **how)
        writer.write(made.tissue(2), **how)
    assert wrong(tile(slides), store, undisturbed, 1, "victim") == []
    row = row_of(store, "victim")
    assert row["status"] == "failed"
    assert "it is in the format Philips TIFF" in row["reason"]
