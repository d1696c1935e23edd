"""Slides that an earlier call of predict finished: their picture says what it was made from.

The picture is a slide's last file, so where it stands the slide is finished; no other state is
kept. Its text chunk ``wsi-hr`` holds the probabilities, the SHA-256 of the other files, and a key.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from wsi_hr import __version__
from wsi_hr.listing import read_if_there
from wsi_hr.prediction.exports.tables import PredictionRow
from wsi_hr.runtime import sha256_file
from wsi_hr.store.manifest import MANIFEST_NAME
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.training.run import TrainedRun

_CHUNK = "wsi-hr"


def result_key(run: TrainedRun, store: PatchStore, max_px: int) -> str:
    """All that predicting ``store`` with ``run`` and drawing it ``max_px`` large depends on.

    Equal keys mean equal predictions, patch scores and pictures.
    """
    facts = (
        __version__,
        run.digest,
        run.method.encoder.device.type,
        str(run.method.encoder.decodes),
        sha256_file(store.path / MANIFEST_NAME),  # it holds the digests of all other files
        str(max_px),
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def seal(picture: Image.Image, row: PredictionRow, others: Sequence[Path], key: str) -> None:
    """Put into the picture's texts what :func:`finished_row` needs; ``others`` are written."""
    facts = {"key": key, "probs": row.probs, "num_patches": row.num_patches}
    picture.info[_CHUNK] = json.dumps({**facts, "others_sha256": list(map(sha256_file, others))})


def finished_row(
    slide_id: str, heatmap: Path, others: Sequence[Path], key: str, classes: Sequence[str]
) -> PredictionRow | None:
    """The row of a slide whose files are there, whole, and made from the same; else None.

    Raises:
        ReadError: one of them cannot be read just now.
    """
    drawn = read_if_there(heatmap)
    beside = [content for content in map(read_if_there, others) if content is not None]
    if drawn is None or len(beside) < len(others):
        return None
    try:
        with Image.open(io.BytesIO(drawn), formats=["PNG"]) as picture:
            facts = json.loads(picture.info[_CHUNK])
            picture.verify()
        digests = [hashlib.sha256(content).hexdigest() for content in beside]
        if facts["key"] != key or facts["others_sha256"] != digests:
            return None
        probs = tuple(float(prob) for prob in facts["probs"])
        predicted = classes[max(range(len(probs)), key=probs.__getitem__)]
        return PredictionRow(slide_id, "done", "", probs, predicted, int(facts["num_patches"]))
    except (OSError, SyntaxError, ValueError, LookupError, TypeError):
        return None  # absent, damaged, or drawn by something else: made anew
