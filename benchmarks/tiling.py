"""The table of tiling targets: what each step makes of the decoding speed of this machine.

    python benchmarks/tiling.py [--slide FILE] [--json OUT] [--repeats 5]

LIMIT is one core of libjpeg-turbo that decodes, once each and from memory, the slide's own tiles
that a task needs. Every figure is formed inside one round from LIMIT and the task, measured seconds
apart; the median of all rounds is printed with the least and greatest. Without ``--slide`` a slide
of synthetic tissue is made (20480 x 15360 px, 0.25 um/px).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.measure import TARGET_HEADING, Rounds, Target, machine, seconds
from benchmarks.peers import available_peers, tile_with
from benchmarks.tiling_cores import cohort_s
from wsi_hr.config import TileConfig
from wsi_hr.geometry import PatchGrid, Point, ReadPlan, Size
from wsi_hr.pixel_memory import empty_pixels
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import Source
from wsi_hr.store.chunks import unseal
from wsi_hr.store.layout import parse_layout
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.store.shards import find_chunk, index_bytes, parse_index
from wsi_hr.store.store_info import scale_name
from wsi_hr.testing.svs import TILE_PX, write_svs
from wsi_hr.testing.texture import tissue_texture
from wsi_hr.tiling.blocks import tasks_of
from wsi_hr.tiling.plan import plan_read
from wsi_hr.tiling.survey import Scale, survey_slide
from wsi_hr.tiling.tile import Origin, tile_slide, write_store
from wsi_hr.tiling.tile_pixels import TilePatches

_LIMIT_TILES = 1500  # decoded per round; more of the same tell nothing new
_READ_TILES = 2000
_RANDOM_READS = 1500
_BATCH = 256
_PEER_PATCHES = 150
_PACKAGES = ("simplejpeg", "opencv-python-headless", "numpy", "openslide-bin", "zarr", "wsi-hr")


TARGETS = {
    "aligned_read_pct": Target("aligned read to memory, % of LIMIT per core", 90, 97),
    "mpp224_pct": Target("224 px @ 0.5 from 0.25 to a JPEG store, % of LIMIT", 70, 85),
    "native224_pct": Target("native 224 px to a JPEG store, % of LIMIT", 48, 60),
    "passthrough_x": Target("passthrough of whole tiles, x LIMIT", 4, 15),
    "second_core_x": Target("four slides on two cores against one, x", 1.8, 1.95),
    "random_patch_pct": Target("random single patch out of the store, % of LIMIT", 90, 97),
    "peak_rss_mib": Target("peak memory of one tiling thread, MiB", 364, 200, low=True),
    "mask_s": Target("overview, mask and grid, s", 0.3, 0.1, low=True),
    "vs_openslide_x": Target("against an OpenSlide loop, 224 @ 0.5, x", 4.5, 5.5),
}


class Workload:
    """A slide to be tiled with some settings, and the tiles which that takes."""

    def __init__(self, path: Path, config: TileConfig, folder: Path) -> None:
        self.path = path
        self.config = config
        self.store = folder / "s.zarr"
        with open_slide(path) as slide:
            tiles, scale = planned(slide, config)
            self.plan, self.grid = scale.plan, scale.grid
            self.needed = needed_tiles(tiles, self.plan, self.grid)
            rng = np.random.default_rng(0)
            sample = rng.permutation(len(self.needed))[:_LIMIT_TILES]
            self._streams = [tiles.stream(*self.needed[k]) for k in sorted(sample)]
            self._tile = empty_pixels(tiles.tile_size.h, tiles.tile_size.w, 3)

    def limit_s(self) -> float:
        """Seconds in which one core decodes all needed tiles once."""
        sample_s = seconds(lambda: decode_all(self._streams, self._tile))
        return sample_s * len(self.needed) / len(self._streams)

    def limit_of_two_x(self) -> float:
        """How much more two threads decode than one, that do nothing else."""

        def decode(_: int) -> None:
            decode_all(self._streams, empty_pixels(*self._tile.shape))

        one_s = seconds(lambda: decode(0))
        with ThreadPoolExecutor(2) as pool:
            return 2 * one_s / seconds(lambda: list(pool.map(decode, range(2))))

    def store_s(self, threads: int = 1) -> float:
        """Seconds from a slide that was looked over to its store, flushed to disk."""
        shutil.rmtree(self.store, ignore_errors=True)
        with open_slide(self.path, slide_id="s") as slide:
            survey = survey_slide(slide, self.config)
            origin = Origin(Source.of(self.path), "0" * 64, self.config, None, "s")
            return seconds(lambda: write_store(self.store, origin, survey, threads))

    def whole_s(self) -> float:
        """Seconds of all of ``tile_slide``: hash of the slide, mask, and the store."""
        shutil.rmtree(self.store, ignore_errors=True)
        return seconds(lambda: tile_slide(self.path, "s", self.store, self.config, None, ""))


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Print the table of tiling targets.")
    parser.add_argument("--slide", type=Path, help="a tiled JPEG slide of about 0.25 um/px")
    parser.add_argument("--mask-slide", type=Path, help="another, larger one for the mask's time")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as scratch:
        folder = Path(scratch)
        slide = arguments.slide or make_slide(folder / "synthetic.svs")
        report = measure(slide, arguments.mask_slide or slide, folder, arguments.repeats)
    print_table(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(path: Path, mask_path: Path, folder: Path, repeats: int) -> dict[str, object]:
    """All figures of one slide; how long the mask takes is measured on ``mask_path``."""
    facts = machine(_PACKAGES)
    with open_slide(path) as slide:
        tiles, mpp = slide.jpeg_tiles(0), slide.mpp
        if tiles is None or mpp is None:
            sys.exit(f"{path}: has no JPEG tiles, or no mpp; give a tiled JPEG slide")
        facts_of_slide = {
            "name": path.name,
            "bytes": path.stat().st_size,
            "level0": list(slide.level_dimensions[0]),
            "tile": list(tiles.tile_size),
            "mpp": mpp.mean,
        }
        edge, native = tiles.tile_size.w, mpp.mean
    halved = Workload(path, config(2 * native, 224), folder)
    unaligned = Workload(path, config(native, 224), folder)
    aligned = Workload(path, config(native, edge), folder)
    with open_slide(mask_path) as slide:
        facts_of_slide["mask_of"] = {"name": mask_path.name, "level0": [*slide.level_dimensions[0]]}
    rounds = Rounds()
    halved.whole_s()  # files into the page cache, libraries into memory
    for _ in range(repeats):
        measure_tiling(rounds, halved, unaligned, aligned)
        measure_reading(rounds, halved, aligned)
        measure_peers(rounds, halved, folder)
        measure_mask(rounds, mask_path, halved.config)
    rounds.add("peak_rss_mib", peak_rss_mib(path, halved.config))
    names = [*TARGETS, *(name for name in rounds.values if name not in TARGETS)]
    return {
        **{name: round(rounds.median(name), 4) for name in names},
        "spread": {name: [round(end, 4) for end in rounds.spread(name)] for name in names},
        "rounds": {name: [round(v, 5) for v in rounds.values[name]] for name in names},
        "slide": facts_of_slide,
        "patches": {"mpp224": len(halved.grid), "passthrough": len(aligned.grid)},
        "machine": facts,
    }


def measure_tiling(
    rounds: Rounds, halved: Workload, unaligned: Workload, aligned: Workload
) -> None:
    """Slides to stores."""
    limit_s, both_s, one_s = halved.limit_s(), halved.store_s(2), halved.store_s()
    rounds.add("limit_tiles_per_s", len(halved.needed) / limit_s)
    rounds.add("mpp224_pct", 100 * limit_s / one_s)
    rounds.add("mpp224_patches_per_s", len(halved.grid) / one_s)
    rounds.add("second_thread_x", one_s / both_s)
    rounds.add("second_core_limit_x", halved.limit_of_two_x())
    on_one_s, on_both_s = (cohort_s(halved.path, halved.config, cores) for cores in (1, 2))
    rounds.add("second_core_x", on_one_s / on_both_s)
    rounds.add("native224_pct", 100 * unaligned.limit_s() / unaligned.store_s())
    rounds.add("passthrough_x", aligned.limit_s() / aligned.store_s())
    for name, workload in (("mpp224", halved), ("native224", unaligned), ("passthrough", aligned)):
        rounds.add(f"{name}_whole_x", workload.limit_s() / workload.whole_s())


def measure_reading(rounds: Rounds, halved: Workload, aligned: Workload) -> None:
    """Patches to memory: out of the slide, and out of the store that was just written."""
    with open_slide(aligned.path) as slide:
        tiles = checked_tiles(slide, aligned.plan.level)
        assert tiles is not None
        edge, read_s, limit_s = tiles.tile_size.w, 0.0, 0.0
        reader = TilePatches(tiles, aligned.plan, edge, fast=True)
        buffer = empty_pixels(tiles.tile_size.h, edge, 3)
        first_grid = aligned.grid.take(np.arange(min(len(aligned.grid), _READ_TILES)))
        for task in tasks_of(first_grid, edge):  # in turns, so that both meet the same machine
            grid = first_grid.take(task)
            streams = [tiles.stream(*tile) for tile in needed_tiles(tiles, aligned.plan, grid)]
            limit_s += seconds(partial(decode_all, streams, buffer))
            read_s += seconds(partial(exhaust, reader, grid))
        rounds.add("aligned_read_pct", 100 * limit_s / read_s)
    shutil.rmtree(halved.store, ignore_errors=True)
    tile_slide(halved.path, "s", halved.store, halved.config, None, "", 1)
    store = PatchStore.open(halved.store)
    patch, random_s, limit_s = empty_pixels(224, 224, 3), 0.0, 0.0
    order = np.random.default_rng(0).integers(0, len(store), _RANDOM_READS)
    for part in np.array_split(order, _RANDOM_READS // 100):
        streams = stored_streams(store, part)
        limit_s += seconds(partial(decode_all, streams, patch))
        random_s += seconds(partial(read_singly, store, part))
    rounds.add("random_patch_pct", 100 * limit_s / random_s)
    batch_s = sum(
        seconds(partial(store.read, order[first : first + _BATCH]))
        for first in range(0, _RANDOM_READS, _BATCH)
    )
    rounds.add("batch_read_x", limit_s / batch_s)


def measure_peers(rounds: Rounds, halved: Workload, folder: Path) -> None:
    """Others' loops on some of the same patches, against our whole run per patch."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(halved.grid))[:_PEER_PATCHES])
    sample = [(int(x), int(y)) for x, y in halved.grid.coords[chosen]]
    ours_s = halved.whole_s() / len(halved.grid)
    for name, read in available_peers(halved.path).items():
        out = folder / name
        out.mkdir(exist_ok=True)

        def loop(read=read, out=out) -> None:
            tile_with(read, sample, edge_px0=448, patch_px=224, out=out)

        rounds.add(f"vs_{name}_x", seconds(loop) / len(sample) / ours_s)


def measure_mask(rounds: Rounds, path: Path, settings: TileConfig) -> None:
    """Seconds from an open slide to its grid, and before that, of the check of its tiles."""
    with open_slide(path) as slide:
        level = plan_read(slide, settings.spec()).level
        rounds.add("self_check_s", seconds(lambda: checked_tiles(slide, level)))
        rounds.add("mask_s", seconds(lambda: survey_slide(slide, settings)))


def peak_rss_mib(path: Path, settings: TileConfig) -> float:
    """Greatest resident memory of a process that tiles the slide with one thread."""
    code = (
        "import re, sys; from pathlib import Path; from wsi_hr.config import TileConfig; "
        "from wsi_hr.tiling.tile import tile_slide; "
        "config = TileConfig.model_validate_json(sys.argv[3]); "
        "tile_slide(Path(sys.argv[1]), 's', Path(sys.argv[2]), config, None, ''); "
        "status = Path('/proc/self/status').read_text(); "  # ru_maxrss would be the parent's
        "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) / 1024)"
    )
    with tempfile.TemporaryDirectory() as out:
        arguments = [str(path), f"{out}/s.zarr", settings.model_dump_json()]
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def config(mpp: float, patch_px: int) -> TileConfig:
    """Settings that differ from the defaults in what is asked only."""
    return TileConfig.model_validate({"mpp": mpp, "patch_size": patch_px})


def planned(slide: Slide, settings: TileConfig) -> tuple[JpegTiles, Scale]:
    """What ``tile_slide`` will read."""
    (scale,) = survey_slide(slide, settings).scales
    if scale.tiles is None:
        sys.exit(f"{slide.path}: its tiles cannot be read directly; give a tiled JPEG slide")
    return scale.tiles, scale


def needed_tiles(tiles: JpegTiles, plan: ReadPlan, grid: PatchGrid) -> list[Point]:
    """The tiles (col, row) that the patches of ``grid`` lie on, in the order of the file."""
    edge = tiles.tile_size
    level = grid.coords / np.array(plan.level_downsample)
    extent = np.array(plan.patch_px0) / np.array(plan.level_downsample)
    first = np.floor(level / edge + 1e-6).astype(int)
    last = np.ceil((level + extent) / edge - 1e-6).astype(int)
    found = {
        Point(col, row)
        for (left, top), (right, bottom) in zip(first.tolist(), last.tolist(), strict=True)
        for row in range(top, bottom)
        for col in range(left, right)
    }
    return sorted(found, key=lambda tile: (tile.y, tile.x))


def stored_streams(store: PatchStore, order: np.ndarray) -> list[bytes]:
    """The JPEG streams of patches as they lie in the store."""
    folder = store.path / scale_name(store.info.tile.mpp) / "patches"
    layout = parse_layout((folder / "zarr.json").read_bytes())
    shards: dict[int, bytes] = {}
    streams = []
    for patch in order.tolist():
        number, slot = divmod(patch, layout.num_slots)
        if number not in shards:
            shards[number] = (folder / layout.shard_name(number)).read_bytes()
        shard = shards[number]
        tail = shard[-index_bytes(layout.num_slots) :]
        index = parse_index(tail, num_slots=layout.num_slots, file_bytes=len(shard))
        place = find_chunk(index, slot)
        assert place is not None, "the slide is sound"
        streams.append(unseal(shard[place[0] : sum(place)]))
    return streams


def decode_all(streams: list[bytes], out: np.ndarray) -> None:
    """LIMIT: the decoder and nothing else."""
    for stream in streams:
        simplejpeg.decode_jpeg(stream, "RGB", buffer=out)


def read_singly(store: PatchStore, order: np.ndarray) -> None:
    """Read patches one by one, as they are drawn, and let go of them."""
    for k in range(len(order)):
        store.read(order[k : k + 1])


def exhaust(reader: TilePatches, grid: PatchGrid) -> None:
    """Read all patches and let go of them."""
    for _ in reader.read(grid):
        pass


def make_slide(path: Path) -> Path:
    """A slide of synthetic tissue: an ellipse of it on glass."""
    size, texture = Size(20480, 15360), tissue_texture()
    rng = np.random.default_rng(0)
    shape = (8, TILE_PX, TILE_PX, 3)
    glass = rng.normal(243, 1.2, shape).clip(0, 255).astype(np.uint8)
    height, width = (edge - TILE_PX for edge in texture.shape[:2])

    def tile_at(corner: Point) -> np.ndarray | None:
        x, y = corner.x / size.w - 0.5, corner.y / size.h - 0.5
        if (x / 0.4) ** 2 + (y / 0.4) ** 2 > 1:
            return None
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        return texture[top : top + TILE_PX, left : left + TILE_PX]

    write_svs(path, size=size, mpp=0.25, tile_at=tile_at, glass=glass)
    return path


def print_table(report: dict) -> None:
    """The figures against their targets."""
    slide = report["slide"]
    print(f"{slide['name']}: {slide['level0'][0]} x {slide['level0'][1]} px, {slide['mpp']} um/px")
    print(f"LIMIT: {report['limit_tiles_per_s']:.0f} tiles/s of {slide['tile'][0]} px on one core")
    print(TARGET_HEADING)
    for name, target in TARGETS.items():
        print(target.line(report[name], *report["spread"][name]))
    for name, what in (("second_thread_x", "of one slide"), ("second_core_limit_x", "decoding")):
        print(f"{f'two threads against one, {what}, x':60}{report[name]:9.4g}")
    print(f"{f'random patches by {_BATCH}, all cores, x LIMIT':60}{report['batch_read_x']:9.4g}")
    for name in ("mpp224", "native224", "passthrough"):
        what = f"{name} with the slide's hash and mask, x LIMIT"
        print(f"{what:60}{report[f'{name}_whole_x']:9.4g}")
    for name in report["rounds"]:
        if name.startswith("vs_") and name not in TARGETS:
            print(f"{'against ' + name[3:-2] + ', same loop, x':60}{report[name]:9.4g}")


if __name__ == "__main__":
    main()
