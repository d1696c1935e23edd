"""What every method must do, whichever it is: parametrised over the table of methods."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import JpegMemory, Recorder, context, random_bag
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.method_config import (
    GIVE_ATTENTION,
    ABMILConfig,
    ABMILXConfig,
    DBPSConfig,
    GDConfig,
    IPSConfig,
    PatchGDConfig,
)
from wsi_hr.methods import METHODS, build_method
from wsi_hr.methods.method import Method, NoMemory
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.jpeg_decoder import JpegDecoder
from wsi_hr.slide_prediction import Role

CONFIGS = {
    "dbps": DBPSConfig(num_salient=4, num_sub_salient=5, scan_chunk=6, heads=2),
    "dbps global": DBPSConfig(num_salient=4, num_sub_salient=5, heads=2, score="global"),
    "dbps half sampled": DBPSConfig(num_salient=4, heads=2, explore="half_sampled"),
    "dbps concat": DBPSConfig(num_salient=4, heads=2, aggregation="concat", num_sub_salient=None),
    "dbps abmilx": DBPSConfig(num_salient=4, heads=2, aggregation="abmilx", explore="none"),
    "dbps half": DBPSConfig(num_salient=4, heads=2, selection="half_sampled", explore="none"),
    "dbps refreshed": DBPSConfig(num_salient=4, heads=2, score="global", scan_refresh=0.3),
    "ips": IPSConfig(num_salient=4, heads=2, explore="none"),
    "patchgd": PatchGDConfig(num_salient=4, num_sub_salient=5),
    "patchgd cnn": PatchGDConfig(head="cnn", num_salient=4, num_sub_salient=5),
    "patchgd blocks": PatchGDConfig(block=3, num_salient=4, num_sub_salient=5),
    "patchgd exact": PatchGDConfig(exact=True, num_salient=4, num_sub_salient=5),
    "patchgd exact blocks": PatchGDConfig(exact=True, block=2, num_salient=4),
    "gd": GDConfig(num_salient=4, num_sub_salient=5),
    "gd checkpoint": GDConfig(memory="checkpoint", micro_batch=3, num_salient=4),
    "gd image": GDConfig(input="image", image_px=16, num_salient=4, num_sub_salient=5),
    "abmil": ABMILConfig(width=8, chunk=16, num_salient=4, num_sub_salient=5),
    "abmilx": ABMILXConfig(sample=6, width=8, heads=2, num_salient=4, num_sub_salient=5),
    "patchgd window": PatchGDConfig(head="window", heads=1, num_salient=4, num_sub_salient=5),
    "patchgd transformer": PatchGDConfig(head="transformer", num_salient=4, num_sub_salient=5),
}
FROZEN = {"abmil"}  # what their encoder was is what it stays


def make(name: str) -> Method:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    config = CONFIGS[name]
    encoder = Encoder(
        net, dim=16, chunk=8, norm_stats="running" if getattr(config, "exact", False) else "batch"
    )
    return build_method(config, encoder, [1.0, 1.0, 1.0])


def test_every_method_is_covered() -> None:
    assert {type(config) for config in CONFIGS.values()} == set(METHODS)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num", [1, 2, 4, 9, 50])
def test_prediction_is_whole_deterministic_and_leaves_no_trace(name: str, num: int) -> None:
    method = make(name).train()
    bag = random_bag(np.random.default_rng(num), num)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    first, second = method.predict_bag(bag), method.predict_bag(bag)
    assert first.probs.shape == (3,)
    assert first.probs.sum() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(first.saliency).all()
    assert (first.saliency >= 0).all()
    assert len(first.positions(Role.SALIENT)) == min(4, num)
    assert first.role[first.most_salient] == Role.SALIENT
    assert not (first.role == Role.NOT_VISITED).any()
    assert np.array_equal(first.probs, second.probs)
    assert np.array_equal(first.saliency, second.saliency)
    assert np.array_equal(method.judge_bag(bag).probs, first.probs)
    assert method.training
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("progress", [0.0, 0.99])
def test_training_takes_slides_of_any_size_together(name: str, progress: float) -> None:
    method = make(name).train()
    rng = np.random.default_rng(0)
    bags = [
        random_bag(rng, num, label=num % 3, slide_id=f"slide of {num}") for num in (1, 3, 40, 7)
    ]
    update = Recorder(method)
    loss = method.train_bags(bags, update, context(progress))
    assert np.isfinite(loss)
    assert update.steps
    for step in update.steps:
        learned = {key for key, grad in step.items() if grad.abs().sum() > 0}
        assert any(key.startswith("encoder.") for key in learned) == (name not in FROZEN)
        assert any(not key.startswith("encoder.") for key in learned)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_slide_a_thousand_times_larger_than_the_others_trains_with_them(name: str) -> None:
    method = make(name).train()
    rng = np.random.default_rng(1)
    bags = [random_bag(rng, num, label=num % 3, slide_id=str(num)) for num in (2, 2000)]
    update = Recorder(method)
    assert np.isfinite(method.train_bags(bags, update, context(1.0)))
    assert all(torch.isfinite(grad).all() for step in update.steps for grad in step.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_training_is_reproducible(name: str) -> None:
    results = []
    for _ in range(2):
        method = make(name).train()
        update = Recorder(method)
        torch.manual_seed(3)
        bags = [random_bag(np.random.default_rng(s), 30, label=s, slide_id=str(s)) for s in (0, 1)]
        method.train_bags(bags, update, context(0.0))
        results.append(update.steps)
    for first, second in zip(*results, strict=True):
        for key, grad in first.items():
            assert torch.equal(grad, second[key]), key


class Kept:
    """A memory that holds what is kept, and recalls nothing."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}

    def recall(self, slide_id: str) -> None:
        return None

    def keep(self, slide_id: str, values_JN: np.ndarray) -> None:
        self.values[slide_id] = values_JN


@pytest.mark.parametrize("name", CONFIGS)
def test_what_it_looked_at_is_kept_by_patch_of_the_source(name: str) -> None:
    """Samplers read it: finite for what the bag shows, NaN elsewhere; without it all is as was."""
    bags = [random_bag(np.random.default_rng(s), 30, label=s, slide_id=str(s)) for s in (0, 1)]
    bags = [bag.subset(np.arange(3, 30, 2)) for bag in bags]
    steps, memory = [], Kept()
    for kept in (memory, NoMemory()):
        method = make(name).train()
        update = Recorder(method)
        torch.manual_seed(3)
        method.train_bags(bags, update, replace(context(1.0), memory=kept))
        steps.append(update.steps)
    for first, second in zip(*steps, strict=True):
        for key, grad in first.items():
            assert torch.equal(grad, second[key]), key
    if CONFIGS[name].name not in GIVE_ATTENTION:
        assert memory.values == {}
        return
    assert set(memory.values) == {"0", "1"}
    for values_JN in memory.values.values():
        assert values_JN.dtype == np.float32
        seen = np.isfinite(values_JN).all(axis=0)
        assert np.flatnonzero(seen).tolist() == list(range(3, 30, 2))
        assert np.isnan(values_JN[:, ~seen]).all()
        assert values_JN[:, seen].std() > 0


_PEAK = """
import resource, sys
import numpy as np, torch
from torch import nn
from wsi_hr.bags.bag import Bag
from wsi_hr.method_config import ABMILConfig, ABMILXConfig, DBPSConfig, PatchGDConfig
from wsi_hr.methods import build_method
from wsi_hr.methods.method import StepContext
from wsi_hr.models.encoder import Encoder
from wsi_hr.testing.memory_patches import MemoryPatches

class Endless(MemoryPatches):
    '''N patches that are made when they are read, so that only the method's own memory counts.'''
    def __init__(self, num):
        super().__init__(np.zeros((num, 1, 1, 3), np.uint8))
    def read(self, indices):
        return np.broadcast_to((indices % 251).astype(np.uint8)[:, None, None, None],
                               (len(indices), 64, 64, 3)).copy()

class Step:
    def backward(self, loss): loss.backward()
    def backward_from(self, output, gradient): output.backward(gradient)
    def step(self): method.zero_grad(set_to_none=True)

torch.set_num_threads(1)
net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 16))
configs = {
    "dbps": DBPSConfig(),
    "patchgd": PatchGDConfig(max_sampled=64, coverage=0.01),
    "abmil": ABMILConfig(width=16),
    "abmilx": ABMILXConfig(width=16, heads=4),
}
method = build_method(configs[sys.argv[1]], Encoder(net, dim=16), [1.0, 1.0])
context = StepContext(1.0, lambda slide_id: np.random.default_rng(0))
def visit(num):
    bag = Bag.of(Endless(num), 1)
    method.train_bags([bag], Step(), context)
    method.predict_bag(bag)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
visit(500)
print(visit(1_000), visit(20_000))
"""


@pytest.mark.parametrize("name", ["dbps", "patchgd", "abmil", "abmilx"])
def test_memory_does_not_grow_with_the_slide(name: str) -> None:
    """20,000 patches of 64 px are 234 MiB; a slide of 1,000 needs nearly as much memory."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, name], capture_output=True, text=True, check=True
    )
    small, large = map(float, done.stdout.split())
    assert large - small < 40


@pytest.mark.parametrize("name", CONFIGS)
def test_patches_decoded_on_the_device_are_the_same_patches(name: str, monkeypatch) -> None:
    """A CPU in the place of the GPU; it decodes to the same pixels, and so nothing may differ."""
    patches = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    said = []
    for decoded_there in (False, True):
        if decoded_there:
            monkeypatch.setattr("wsi_hr.models.encoder.device_decoder", JpegDecoder)
        source = JpegMemory(patches)
        bag = Bag(source, np.arange(20), 1, low=Bag.of(JpegMemory(patches[:5])))
        method = make(name)
        seen = Recorder(method)
        method.train_bags([bag, bag], seen, context())
        prediction = method.predict_bag(bag)
        said.append((seen.losses, prediction.probs.tolist(), prediction.saliency.tolist()))
        by_streams = decoded_there and name != "gd image"  # its picture is drawn by the CPU
        assert (source.num_read == 0, source.num_undecoded > 0) == (by_streams, by_streams)
    assert said[0] == said[1]
