"""Samplers in training: what they see, and that a killed run ends with the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.config import Config, resolve_config
from wsi_hr.errors import CheckpointError
from wsi_hr.methods import build_method
from wsi_hr.methods.method import Method, NoMemory, StepContext, Update
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.thumbnail_vit import at_patches, build_thumbnail_vit, token_grid
from wsi_hr.models.timm_nets import load_net
from wsi_hr.runtime import rng_for
from wsi_hr.samplers.attention import Attention, attention_weights
from wsi_hr.samplers.draw import gumbel_top
from wsi_hr.samplers.features import colour_features
from wsi_hr.samplers.glance import Glance
from wsi_hr.testing.memory_patches import MemoryPatches
from wsi_hr.training.checkpoint import load_checkpoint
from wsi_hr.training.loop import BEST, LAST, METRICS, TrainingSet, fit
from wsi_hr.training.sampling import Sampling

CPU = torch.device("cpu")


class MemoryBags:
    """Six slides of 30 and more patches, every fifth of them unreadable."""

    def __init__(self) -> None:
        self.bags = {}
        for number in range(6):
            patches = np.random.default_rng(number).integers(
                60, 120, (30 + number, 4, 4, 3), dtype=np.uint8
            )
            patches[3 : 3 + 4 * (number % 2)] = 230
            source = MemoryPatches(
                patches, slide_id=f"s{number}", valid=np.arange(len(patches)) % 5 != 1
            )
            self.bags[source.slide_id] = Bag.of(source, number % 2)

    def open(self, slide_id: str) -> Bag:
        return self.bags[slide_id]


seen: list[list[tuple[str, list[int]]]] = []
recalled: list[list[np.ndarray | None]] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()
    recalled.clear()


def data() -> TrainingSet:
    bags = MemoryBags()
    labels = {slide_id: bag.label for slide_id, bag in bags.bags.items()}
    return TrainingSet(bags, ("s0", "s1", "s2", "s3"), ("s4", "s5"), labels)  # pyright: ignore


THUMBNAIL = MemoryBags().open("s1").source.thumbnail

METHODS = {
    "dbps": {"num_salient": 4, "num_sub_salient": 4, "heads": 2, "explore": "none"},
    "patchgd": {"sample": 0.5},
}


def config(sampler: object, epochs: int = 4, method: str = "dbps") -> Config:
    train = {"epochs": epochs, "batch_size": 2, "lr": 0.01}
    settings = {"name": method, **METHODS[method]}
    return resolve_config({"sampler": sampler, "method": settings, "train": train, "seed": 5})


def method_for(cfg: Config) -> Method:
    """A small method that tells which patches it was given, and what it could recall of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten())  # fmt: skip
    method = build_method(cfg.method, Encoder(net, dim=8, chunk=8), [1.0, 1.0])
    own = method.train_bags

    def watched(bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        seen.append([(bag.slide_id, bag.indices.tolist()) for bag in bags])
        recalled.append([context.memory.recall(bag.slide_id) for bag in bags])
        return own(bags, update, context)

    method.train_bags = watched
    return method


ATTENTION = {"name": "attention", "keep": 0.6, "aggregate": "entropy"}
LEARNED = {"name": "learned", "keep": 0.6, "random": 0.3}
CHAIN = [LEARNED, ATTENTION | {"keep": 0.8}]


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.mark.parametrize(
    ("sampler", "method"),
    [(ATTENTION, "dbps"), (ATTENTION, "patchgd"), (LEARNED, "dbps"), (CHAIN, "dbps")],
    ids=["attention", "attention patchgd", "learned", "both"],
)
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path, sampler, method: str) -> None:
    cfg = config(sampler, method=method)
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = fit(method_for(cfg), data(), cfg, whole, {})
    drawn = [*seen]
    for steps in (3, 6):  # of two an epoch
        torn = tmp_path / f"torn{steps}"
        torn.mkdir()
        left = steps

        def die(_: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed

        with pytest.raises(_Killed):
            fit(method_for(cfg), data(), cfg, torn, {}, on_slides=die)
        seen.clear()
        assert fit(method_for(cfg), data(), cfg, torn, {}) == expected
        assert seen == drawn[-len(seen) :]
        for name in (BEST, LAST, METRICS):
            assert (whole / name).read_bytes() == (torn / name).read_bytes()
        assert {path.name for path in torn.iterdir()} == {BEST, LAST, METRICS}


def test_what_another_run_kept_before_it_was_stopped_is_forgotten(tmp_path) -> None:
    """A run that was stopped in its first epoch binds nobody, and must not show either."""
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    whole.mkdir()
    mixed.mkdir()

    def die(_: int) -> None:
        raise _Killed

    other = config(LEARNED).model_copy(update={"seed": 6})
    with pytest.raises(_Killed):
        fit(method_for(other), data(), other, mixed, {}, on_slides=die)
    (kept,) = mixed.glob("memory/*")
    (kept / "s0.npy").write_bytes(b"another run's")
    cfg = config(LEARNED)
    assert fit(method_for(cfg), data(), cfg, mixed, {}) == fit(
        method_for(cfg), data(), cfg, whole, {}
    )
    assert (whole / LAST).read_bytes() == (mixed / LAST).read_bytes()


def test_attention_draws_from_what_the_epoch_before_kept(tmp_path) -> None:
    """What an epoch sees is drawn by the logits kept in the epoch before, by hand."""
    cfg, training = config(ATTENTION, epochs=2), data()
    fit(method_for(cfg), training, cfg, tmp_path, {})
    assert all(logits is None for batch in recalled[:2] for logits in batch)
    for batch, before in zip(seen[2:], recalled[2:], strict=True):
        for (slide_id, indices), logits in zip(batch, before, strict=True):
            assert logits is not None
            bag = training.bags.open(slide_id)
            told = Glance(slide_id, 1, bag.grid, Told(logits[:, bag.indices]))  # pyright: ignore
            drawn = Attention(cfg.sampler[0]).select(told, 8, rng_for(5, 1, slide_id, "drop"))  # pyright: ignore
            assert bag.indices[drawn].tolist() == indices
            assert np.isnan(logits).any(axis=0).sum() >= len(logits[0]) - 0.6 * len(bag) - 1


class Told:
    """A sight of attention alone."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def attention(self) -> np.ndarray:
        return self.logits


def test_the_learned_sampler_is_in_the_last_checkpoint_alone(tmp_path) -> None:
    cfg = config(LEARNED)
    fit(method_for(cfg), data(), cfg, tmp_path, {})
    last, best = (load_checkpoint(tmp_path / name).tensors for name in (LAST, BEST))
    assert any(name.startswith("sampler.layers") for name in last)
    assert any(name.startswith("sampler_optimizer.") for name in last)
    assert all(name.startswith("model.") for name in best)


@pytest.mark.parametrize(
    "sampler",
    [{"name": "windows"}, {"name": "checkerboard"}, {"name": "least_similar"},
     [{"name": "windows"}, {"name": "random_drop"}]],
    ids=str,
)  # fmt: skip
def test_no_memory_is_kept_where_nobody_asks(tmp_path, sampler) -> None:
    cfg = config(sampler, epochs=1)
    method = method_for(cfg)

    def nothing_there(module, inputs) -> None:
        assert list(tmp_path.iterdir()) == []

    method.classifier.register_forward_pre_hook(nothing_there)
    training = TrainingSet(data().bags, ("s0", "s1"), (), data().labels)
    fit(method, training, cfg, tmp_path, {})
    assert all(8 <= len(indices) < 26 for batch in seen for _, indices in batch)


def test_prediction_sees_everything(tmp_path) -> None:
    cfg = config({"name": "checkerboard"}, epochs=1)
    method = method_for(cfg)
    visited = []
    predict = method.predict_bag
    method.predict_bag = lambda bag: (visited.append(len(bag)), predict(bag))[1]  # pyright: ignore
    fit(method, data(), cfg, tmp_path, {})
    assert visited == [len(data().bags.open(slide_id)) for slide_id in ("s4", "s5")]


class Kept:
    """A memory of one value."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def recall(self, slide_id: str) -> np.ndarray:
        return self.values

    def keep(self, slide_id: str, values_JN: np.ndarray) -> None:
        raise AssertionError("samplers keep nothing of the method's")


def test_attention_of_another_number_of_patches_is_refused(tmp_path) -> None:
    sampling = Sampling(config(ATTENTION).sampler, 0, CPU, tmp_path)
    bag = MemoryBags().open("s0")
    with pytest.raises(CheckpointError, match="s0: has 30 patches, and had 29 when"):
        sampling.choose(bag, 1, 4, Kept(np.zeros((2, 29), np.float32)))


def test_the_thumbnail_is_looked_at_through_the_bags_view(tmp_path) -> None:
    """Least similar by hand, over the readable patches of the slide alone."""
    bag = MemoryBags().open("s1")
    sampler = {"name": "least_similar", "temperature": 0, "keep": 0.25}
    chosen = Sampling(config(sampler).sampler, 0, CPU, tmp_path).choose(bag, 0, 1, Kept(None))  # pyright: ignore
    source = bag.source
    features = colour_features(source.grid, source.thumbnail, source.level0_size)[bag.indices]
    likeness = (features @ features.T).sum(axis=1)
    expected = bag.indices[np.argsort(likeness, kind="stable")[: len(bag) // 4]]
    assert chosen.indices.tolist() == sorted(expected.tolist())
    # the four bright patches, one of which is unreadable, are among those
    assert {4, 5} <= set(chosen.indices.tolist())


def test_the_thumbnail_is_looked_at_once_and_by_the_same_eyes_every_epoch(
    tmp_path, monkeypatch
) -> None:
    """Draws of two epochs by hand, from what the transformer itself says of the thumbnail."""
    torch.manual_seed(0)
    weights = tmp_path / "vit.safetensors"
    save_file(load_net("test_vit", "none").net.state_dict(), weights)
    sampler = {"name": "attention", "source": "thumbnail", "keep": 0.5, "vit": "test_vit",
               "vit_weights": str(weights)}  # fmt: skip
    cfg = config(sampler, method="patchgd")
    sampling = Sampling(cfg.sampler, 5, CPU, tmp_path)
    bag = MemoryBags().open("s1")
    source = bag.source
    look = build_thumbnail_vit("test_vit", str(weights)).look(
        source.thumbnail, token_grid(source.grid, source.level0_size)
    )
    logits = at_patches(look, source.grid, source.level0_size)[:, bag.indices]
    weighed = attention_weights(logits.astype(np.float16), "mean")
    looks = []
    monkeypatch.setattr(
        MemoryPatches, "thumbnail", property(lambda _: looks.append(1) or THUMBNAIL)
    )
    for epoch in (0, 1):
        chosen = sampling.choose(bag, epoch, 4, NoMemory())
        drawn = gumbel_top(np.log(weighed), len(bag) // 2, rng_for(5, epoch, "s1", "drop"))
        if epoch == 0:
            assert looks == [1]
        assert chosen.indices.tolist() == bag.indices[np.sort(drawn)].tolist()
    assert looks == [1]
