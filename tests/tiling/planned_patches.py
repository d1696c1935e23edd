"""All patches of a slide, as tiling plans them where everything is tissue."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import Pair, PatchGrid, PatchSpec, ReadPlan, TissueMask
from wsi_hr.tiling.plan import covered_size, plan_grid, plan_read, reduced_by_decoder


def planned(
    slide, mpp: float, patch: int, stride: int, *, fast: bool
) -> tuple[ReadPlan, PatchGrid]:
    spec = PatchSpec(patch_px=patch, stride_px=stride, mpp=mpp, mpp_tolerance=0.02, min_tissue=0.0)
    plan = plan_read(slide, spec)
    if fast:
        plan = reduced_by_decoder(plan)
    size = covered_size(slide, plan)
    mask = TissueMask(np.ones((1, 1), np.bool_), Pair(*map(float, size)), "all")
    return plan, plan_grid(size, slide.bounds, plan, mask, 0.0)
