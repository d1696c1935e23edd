"""What a scan that is refreshed in part misses of a full one, while DBPS learns a cohort.

Before every step the same weights score all patches of its slides, too; the choice that the step
makes of older logits is held against the one that it would have made of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.learning_cohort import AS_SHIPPED, Cohort, settings_for, tiled
from benchmarks.learning_rows import REFRESHED
from wsi_hr.bags.bag import Bag
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.cohort.labels import load_labels
from wsi_hr.cohort.splits import make_splits
from wsi_hr.config import Config
from wsi_hr.geometry import Float32Array
from wsi_hr.method_config import DBPSConfig
from wsi_hr.methods.dbps import DBPS
from wsi_hr.methods.dual_buffer import Candidates, select_global
from wsi_hr.methods.method import SlideMemory, StepContext, Update
from wsi_hr.models.encoder import Encoder, build_encoder, frozen
from wsi_hr.runtime import seed_for
from wsi_hr.training.loop import TrainingSet, evaluate, fit
from wsi_hr.training.run import run_facts

# Letters: J rows of logits, N patches of a slide.

FIGURES = ("scored", "salient", "sub_salient")
"""Parts of a slide's patches that were scored anew, and of both choices of a full scan that the
refreshed one made too."""

_SETTINGS = tuple(text for text in REFRESHED if not text.startswith(AS_SHIPPED))


@dataclass
class Notes:
    """A memory that also remembers what was kept since it was made."""

    memory: SlideMemory
    kept: dict[str, Float32Array] = field(default_factory=dict)

    def recall(self, slide_id: str) -> Float32Array | None:
        """What the epoch before kept."""
        return self.memory.recall(slide_id)

    def keep(self, slide_id: str, values_JN: Float32Array) -> None:
        """Keep it for the epoch after."""
        self.kept[slide_id] = values_JN
        self.memory.keep(slide_id, values_JN)


class JudgedDBPS(DBPS):
    """DBPS that learns as ever, and notes how its choices differ from those of a full scan.

    Attributes:
        found: :data:`FIGURES` of every slide since they were last taken.
    """

    def __init__(
        self, config: DBPSConfig, encoder: Encoder, class_weights: Sequence[float]
    ) -> None:
        super().__init__(config, encoder, class_weights)
        self.found: dict[str, list[float]] = defaultdict(list)

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """As DBPS does."""
        # of the others all patches are scored, or none while it explores
        judged = [bag for bag in bags if context.memory.recall(bag.slide_id) is not None]
        with frozen(self):
            full = [logits_JN for _, logits_JN in self.scan(judged)]
        notes = Notes(context.memory)
        loss = super().train_bags(bags, update, replace(context, memory=notes))
        for bag, full_JN in zip(judged, full, strict=True):
            self._compare(bag, notes.kept[bag.slide_id], full_JN)
        return loss

    def _compare(self, bag: Bag, kept: Float32Array, full_JN: torch.Tensor) -> None:
        partly = kept[:, bag.indices]
        scored_N = np.isclose(partly, full_JN.numpy(), rtol=0, atol=1e-6).all(0)
        self.found["scored"].append(float(scored_N.mean()))
        chosen, wanted = self._selected(torch.from_numpy(partly)), self._selected(full_JN)
        for name, ours, theirs in zip(FIGURES[1:], chosen, wanted, strict=True):
            self.found[name].append(float(np.isin(theirs, ours).mean()))

    def _selected(self, logits_JN: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        num = logits_JN.shape[1]
        everything = Candidates(torch.arange(num), torch.empty(num, 0), logits_JN)
        num_sub = self.config.num_sub_salient
        assert num_sub is not None, "the demo's settings name it"
        buffer = select_global(everything, self.config.num_salient, num_sub)
        return buffer.salient.index.numpy(), buffer.sub_salient.index.numpy()


def measure_refresh(cohort: Cohort) -> dict[str, list[float] | dict[str, float]]:
    """:data:`FIGURES` of every epoch that has a scan to refresh, and metrics on held-out slides."""
    config = settings_for(cohort, _SETTINGS).settled()
    assert isinstance(config.method, DBPSConfig)
    with tiled(cohort) as folder:
        data, held_out = _training_set(folder, config)
        torch.manual_seed(seed_for(config.seed, "init"))
        encoder = build_encoder(config.encoder, config.tile.patch_size)
        method = JudgedDBPS(config.method, encoder, [1.0, 1.0])
        epochs: dict[str, list[float]] = {name: [] for name in FIGURES}

        def on_epoch(_: dict[str, float]) -> None:
            for name, values in method.found.items():
                epochs[name].append(float(np.mean(values)))
            method.found.clear()

        run = folder / "run"
        run.mkdir()
        fit(method, data, config, run, run_facts(config, ("0", "1")), on_epoch=on_epoch)
        return {**epochs, "metrics": evaluate(method, data, held_out, config.dense)}


def _training_set(folder: Path, config: Config) -> tuple[TrainingSet, tuple[str, ...]]:
    """Slides to learn from and to judge epochs by, and those that are held out."""
    table = load_labels(folder / "labels.csv", stored_slides(folder / "store"))
    sides = make_splits(table.rows, val=config.split.val, test=config.split.test, seed=config.seed)
    labels = {row.slide_id: table.classes.index(row.label) for row in table.rows}
    train, val, test = (
        tuple(slide_id for slide_id, side in sorted(sides.items()) if side == wanted)
        for wanted in ("train", "val", "test")
    )
    bags = BagSet(folder / "store", labels)
    return TrainingSet(bags, train, val, labels), test
