"""``wsi-hr info``: what one slide is, and what stands in its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.sentences import say
from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError
from wsi_hr.geometry import Point, Size
from wsi_hr.slides.isolate import run_isolated
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import Source
from wsi_hr.slides.tiff_damage import tiff_damage

if TYPE_CHECKING:
    from rich.console import Console

_PROBE_PX = 256
_LARGE_FLAT_PX = 10_000  # an overview of a larger flat slide means decoding 100 megapixels
_LARGE_TILE_PX = 4096 * 4096
_UNITS = ("B", "kB", "MB", "GB", "TB")


def slide_info(
    path: Path, *, mpp_override: float | None = None, sha256: bool = False
) -> dict[str, Any]:
    """Facts about a slide, as plain values that JSON can hold.

    The slide is looked at in a child process, so one that crashes its reader does no harm. Nothing
    that could name a patient is among the facts, unless the file's own name does.

    Args:
        path: the slide.
        mpp_override: um per level-0 px, instead of its own word.
        sha256: whether to read the whole slide for its SHA-256.

    Returns:
        ``path``, ``slide_id``, ``reader``, ``vendor``, ``num_files``, ``num_bytes``, ``sha256``,
        ``size`` and ``bounds`` (level-0 px), ``levels`` (``size``, ``downsample``, ``tile_size``
        of each), ``mpp`` (um/px) and ``mpp_source`` or None, ``objective_power``,
        ``associated_images`` (names) and ``problems`` (sentences; [] = none found).

    Raises:
        SlideError: it is no slide, or cannot be opened.
    """
    limits = TileConfig()  # pyright: ignore[reportCallIssue]
    return run_isolated(
        _look,
        path,
        mpp_override,
        sha256,
        deadline_s=limits.deadline_s,
        memory_gib=limits.memory_gib,
    )


def print_info(info: dict[str, Any], console: Console) -> None:
    """Print the facts of :func:`slide_info`, problems last."""
    width, height = info["size"]
    x, y, w, h = info["bounds"]
    lines = [
        f"{info['path']}",
        f"  slide id       {info['slide_id']}",
        f"  format         {info['vendor']}, read by {info['reader']}",
        f"  files          {info['num_files']} ({_readable(info['num_bytes'])})",
        f"  size           {width} x {height} px",
    ]
    if [x, y, w, h] != [0, 0, width, height]:
        lines.append(f"  scanned        {w} x {h} px at ({x}, {y})")
    if info["mpp"] is None:
        lines.append("  mpp            unknown")
    else:
        lines.append(f"  mpp            {_pair(info['mpp'])} um/px ({info['mpp_source']})")
    if info["objective_power"] is not None:
        lines.append(f"  objective      {info['objective_power']:g}x")
    for number, level in enumerate(info["levels"]):
        tile = "unknown" if level["tile_size"] is None else "{} x {}".format(*level["tile_size"])
        lines.append(
            f"  level {number:<8} {level['size'][0]} x {level['size'][1]} px, downsample "
            f"{_pair(level['downsample'])}, tiles {tile}"
        )
    if info["associated_images"]:
        lines.append(f"  also holds     {', '.join(info['associated_images'])} (never read)")
    if info["sha256"] is not None:
        lines.append(f"  sha256         {info['sha256']}")
    lines += [f"  problem        {problem}" for problem in info["problems"]]
    say(console, *lines)


def _look(path: Path, mpp_override: float | None, sha256: bool) -> dict[str, Any]:
    with open_slide(path, mpp_override=mpp_override) as slide:
        source = Source.of(path)
        return {
            "path": os.fsencode(path).decode("utf-8", "backslashreplace"),
            "slide_id": slide.slide_id,
            "reader": slide.reader,
            "vendor": slide.vendor,
            "num_files": len(source.files),
            "num_bytes": source.size,
            "sha256": source.sha256() if sha256 else None,
            "size": list(slide.level_dimensions[0]),
            "bounds": list(slide.bounds),
            "levels": [
                {
                    "size": list(size),
                    "downsample": list(downsample),
                    "tile_size": None if tile_size is None else list(tile_size),
                }
                for size, downsample, tile_size in zip(
                    slide.level_dimensions,
                    slide.level_downsamples,
                    slide.level_tile_sizes,
                    strict=True,
                )
            ],
            "mpp": None if slide.mpp is None else [slide.mpp.x, slide.mpp.y],
            "mpp_source": None if slide.mpp is None else slide.mpp.source,
            "objective_power": slide.objective_power,
            "associated_images": list(slide.associated_images),
            "problems": list(_problems(slide)),
        }


def _problems(slide: Slide) -> Iterator[str]:
    if slide.mpp is None and slide.mpp_problem is not None:
        yield slide.mpp_problem
    damage = tiff_damage(slide.path)
    if damage is not None:
        yield f"the file is damaged: {damage.what}; copy it again from its source"
    for level, size in enumerate(slide.level_dimensions):
        try:
            _probe(slide, level, size)
        except SlideError as cause:
            yield str(cause).removeprefix(f"{slide.path}: ")
    size = slide.level_dimensions[0]
    if len(slide.level_dimensions) == 1 and max(size) > _LARGE_FLAT_PX:
        yield "it has no pyramid, so that finding its tissue means decoding all of it: slow"
    tile_size = slide.level_tile_sizes[0]
    if tile_size is not None and tile_size.w * tile_size.h > _LARGE_TILE_PX:
        yield f"it is stored in pieces of {tile_size.w} x {tile_size.h} px: slow, and takes memory"


def _probe(slide: Slide, level: int, size: Size) -> None:
    """Read a little from the middle of a level."""
    downsample = slide.level_downsamples[level]
    probe = Size(min(size.w, _PROBE_PX), min(size.h, _PROBE_PX))
    corner0 = Point(
        round((size.w - probe.w) // 2 * downsample.x),
        round((size.h - probe.h) // 2 * downsample.y),
    )
    slide.read_region(corner0, level, probe)


def _pair(values: list[float]) -> str:
    x, y = (f"{value:.4g}" for value in values)
    return x if x == y else f"{x} x {y}"


def _readable(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
