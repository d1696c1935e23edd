from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_hr.geometry import UInt8Array


@pytest.fixture(scope="session")
def noise() -> UInt8Array:
    """Pixels u8[531, 790, 3] of which no two regions are alike."""
    return np.random.default_rng(0).integers(0, 255, (531, 790, 3), dtype=np.uint8)


@pytest.fixture
def patch_tags():
    """Overwrites tags of a TIFF's first directory, as damage or malice would."""

    def patch(path: Path, **values: object) -> Path:
        with tifffile.TiffFile(path, mode="r+") as file:
            for name, value in values.items():
                file.pages.first.tags[name].overwrite(value)
        return path

    return patch
