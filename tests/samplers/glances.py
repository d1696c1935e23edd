"""Glances at slides that are only a grid, with whatever else a test wants to be seen."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import Float32Array, Pair, PatchGrid
from wsi_hr.samplers.glance import Glance


class Seen:
    """Gives what a test put in, and keeps what was asked for."""

    def __init__(self, **found: Float32Array | None) -> None:
        self.found = found
        self.asked: list[str] = []

    def _look(self, what: str) -> Float32Array | None:
        self.asked.append(what)
        return self.found.get(what)

    def features(self) -> Float32Array:
        found = self._look("features")
        assert found is not None
        return found

    def attention(self) -> Float32Array | None:
        return self._look("attention")

    def thumbnail_attention(self) -> Float32Array:
        found = self._look("thumbnail_attention")
        assert found is not None
        return found

    def scores(self) -> Float32Array | None:
        return self._look("scores")


def grid_at(cells: np.ndarray, shape: tuple[int, int], artifact: np.ndarray | None = None):
    num = len(cells)
    return PatchGrid(
        coords=np.ascontiguousarray(cells[:, ::-1] * 8, dtype=np.int32),
        cells=cells.astype(np.int32),
        shape=shape,
        tissue=np.ones(num, np.float32),
        patch_px0=Pair(8, 8),
        artifact=np.zeros(num, np.float32) if artifact is None else artifact.astype(np.float32),
    )


def patchy(num: int, seed: int = 0, shape: tuple[int, int] | None = None) -> PatchGrid:
    """``num`` cells at random of a grid twice as large, in raster order: a grid with holes."""
    rng = np.random.default_rng([num, seed])
    shape = shape or (int(np.sqrt(2 * num)) + 1, int(np.sqrt(2 * num)) + 2)
    places = np.sort(rng.choice(shape[0] * shape[1], num, replace=False))
    artifact = rng.random(num) * (rng.random(num) < 0.2)
    return grid_at(np.stack(np.divmod(places, shape[1]), 1), shape, artifact)


def unit(features: np.ndarray) -> Float32Array:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(length, 1e-9)).astype(np.float32)


def glance(
    grid: PatchGrid, *, slide_id: str = "slide", epoch: int = 0, seed: int = 0, **found
) -> Glance:
    """A glance in which everything can be asked for: noise, where a test does not say what."""
    rng = np.random.default_rng([len(grid), seed, 1])
    noise = {
        "features": unit(rng.random((len(grid), 6))),
        "attention": rng.normal(size=(3, len(grid))).astype(np.float32),
        "thumbnail_attention": rng.normal(size=(2, len(grid))).astype(np.float32),
        "scores": rng.normal(size=len(grid)).astype(np.float32),
    }
    return Glance(slide_id, epoch, grid, Seen(**{**noise, **found}))
