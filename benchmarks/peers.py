"""How others read a patch: loops as their users write them, each with its own library.

Every loop reads patches of a given footprint at level 0, reduces them to the patch's px, and writes
each as a JPEG file of the store's quality. Libraries that are not installed are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image

Corner = tuple[int, int]
ReadPatch = Callable[[Corner, int], Image.Image]


def available_peers(path: Path) -> dict[str, ReadPatch]:
    """A function per library that is installed: (level-0 corner, level-0 edge) to a picture."""
    peers: dict[str, ReadPatch] = {"openslide": _openslide(path)}
    for name, build in (("tiffslide", _tiffslide), ("pyvips", _pyvips), ("cucim", _cucim)):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        peers[name] = build(library, path)
    return peers


def tile_with(
    read: ReadPatch, corners: Sequence[Corner], *, edge_px0: int, patch_px: int, out: Path
) -> None:
    """The loop itself."""
    for x, y in corners:
        patch = read((x, y), edge_px0)
        if edge_px0 != patch_px:
            patch = patch.resize((patch_px, patch_px), Image.Resampling.BICUBIC)
        patch.save(out / f"{x}_{y}.jpg", quality=90)


def _openslide(path: Path) -> ReadPatch:
    slide = openslide.OpenSlide(path)
    return lambda corner, edge: slide.read_region(corner, 0, (edge, edge)).convert("RGB")


def _tiffslide(library: Any, path: Path) -> ReadPatch:
    slide = library.TiffSlide(path)
    return lambda corner, edge: slide.read_region(corner, 0, (edge, edge)).convert("RGB")


def _pyvips(library: Any, path: Path) -> ReadPatch:
    region = library.Region.new(library.Image.new_from_file(str(path), level=0))

    def read(corner: Corner, edge: int) -> Image.Image:
        data = np.frombuffer(region.fetch(*corner, edge, edge), np.uint8)
        return Image.fromarray(np.ascontiguousarray(data.reshape(edge, edge, -1)[..., :3]))

    return read


def _cucim(library: Any, path: Path) -> ReadPatch:
    slide = importlib.import_module("cucim").CuImage(str(path))
    return lambda corner, edge: Image.fromarray(
        np.asarray(slide.read_region(corner, (edge, edge), 0))
    )
