"""The folder of masks that the user gives for slides."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipelines.hashed_names import files_of_slides
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.errors import ConfigError
from wsi_hr.remote import Place
from wsi_hr.tiling.mask_files import find_masks
from wsi_hr.tiling.review import OUTLINES

logger = logging.getLogger(__name__)


def masks_of(records: Sequence[SlideRecord], masks: Path | None, store: Place) -> dict[str, Path]:
    """The user's masks by slide; files that fit no slide are warned of.

    Args:
        records: the slides.
        masks: the folder; None: there are none.
        store: folder of the stores, whose own masks are not taken.

    Raises:
        ConfigError: the folder cannot be used, or a slide has two files.
    """
    if masks is None:
        return {}
    if masks.resolve() == (store / OUTLINES).resolve():
        raise ConfigError(
            f"--masks {masks}: is where masks are written to; move those you have corrected to a "
            "folder of their own"
        )
    found = find_masks(masks)
    strange = sorted(found.keys() - {name for record in records for name in record.known_as})
    if strange:
        logger.warning(
            "%s: no slide for %d of %d mask files (%s)",
            masks,
            len(strange),
            len(found),
            ", ".join(found[slide_id].name for slide_id in strange[:5]),
        )
    return files_of_slides(found, (record.known_as for record in records), "--masks")
