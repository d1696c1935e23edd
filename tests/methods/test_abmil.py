"""ABMIL: features are computed once, the encoder never changes, memory is that of one part."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from helpers import Recorder, context, pixel_encoder, random_bag
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ReadError, TrainingError, WriteError
from wsi_hr.method_config import ABMILConfig
from wsi_hr.methods.abmil import ABMIL
from wsi_hr.methods.feature_files import FeatureFiles
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.z_block import ZBlock
from wsi_hr.testing.memory_patches import MemoryPatches


def make(**settings) -> ABMIL:
    torch.manual_seed(0)
    config = ABMILConfig(**{"width": 8, "dropout": 0.0, "features": "f32"} | settings)
    return ABMIL(config, pixel_encoder(4, 6).float(), [1.0, 2.0, 1.0]).train()


def bags() -> list[Bag]:
    rng = np.random.default_rng(0)
    return [random_bag(rng, num, label=num % 3, slide_id=f"slide {num}") for num in (12, 1, 30)]


def gradient(method: ABMIL, given: list[Bag]) -> dict[str, Tensor]:
    update = Recorder(method)
    torch.manual_seed(1)
    method.train_bags(given, update, context())
    (step,) = update.steps
    return step


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_patches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_patches += len(x)
        return x.mean((2, 3))


@pytest.mark.parametrize("chunk", [1, 7, 12, 4096])
def test_in_parts_the_gradient_is_that_of_all_at_once(chunk: int) -> None:
    method, given = make(chunk=chunk), bags()
    found = gradient(method, given)
    method.head.double()
    labels = torch.tensor([bag.label for bag in given])
    with torch.no_grad():
        z = [method.encoder(bag.read(np.arange(len(bag)))).double() for bag in given]
    logits = method.head(ZBlock.of_bags(given, z))
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    (each * torch.tensor([1.0, 2.0, 1.0])[labels]).mean().backward()
    for name, parameter in method.head.named_parameters():
        if name == "score.bias":  # a softmax does not see it
            continue
        assert torch.allclose(found[f"head.{name}"].double(), parameter.grad, 1e-4, 1e-6), name


def test_the_encoder_neither_learns_nor_drifts() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    method = ABMIL(ABMILConfig(width=8), Encoder(net, dim=6, chunk=8), [1.0] * 3).train()
    before = {name: tensor.clone() for name, tensor in method.encoder.state_dict().items()}
    assert not any(p.requires_grad for p in method.encoder.parameters())
    step = gradient(method, bags())
    assert all(name.startswith("head.") for name in step)
    assert not any(module.training for module in method.encoder.modules())
    assert method.head.training
    for name, tensor in method.encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("features", ["f16", "f32"])
def test_kept_or_not_the_bits_are_the_same(tmp_path, features: str) -> None:
    settings = {"features": features, "chunk": 8, "dropout": 0.3}
    plain, keeping, again = make(**settings), make(**settings), make(**settings)
    keeping.keep_in(tmp_path)
    again.keep_in(tmp_path)
    given = [bag.subset(np.arange(0, len(bag), 2)) for bag in bags()]  # as a sampler leaves them
    for _ in range(2):
        steps = [gradient(method, given) for method in (plain, keeping, again)]
        for name, grad in steps[0].items():
            assert torch.equal(steps[1][name], grad), name
            assert torch.equal(steps[2][name], grad), name
    for bag in given:
        first, second = plain.predict_bag(bag), keeping.predict_bag(bag)
        assert np.array_equal(first.probs, second.probs)
        assert np.array_equal(first.saliency, second.saliency)
        assert first.saliency.sum() == pytest.approx(1)


def test_features_are_computed_once(tmp_path) -> None:
    net = Counting()
    method = ABMIL(ABMILConfig(width=8), Encoder(net, dim=3, chunk=4), [1.0] * 3).train()
    method.keep_in(tmp_path)
    for _ in range(3):
        gradient(method, bags())
        method.predict_bag(bags()[2])
    assert net.num_patches == 12 + 4 + 32  # each slide once, its last chunk padded
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "slide 1.npy", "slide 12.npy", "slide 30.npy"]  # fmt: skip
    assert (tmp_path / "slide 30.npy").stat().st_size < 30 * 3 * 2 + 200


def features_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", ["missing", "byte", "digest", "cut", "empty", "other"])
def test_what_is_damaged_or_of_another_encoder_is_made_anew(tmp_path, caplog, damage: str) -> None:
    method = make()
    method.keep_in(tmp_path)
    expected, sound = gradient(method, bags()), features_of
    before = sound(tmp_path)
    path = tmp_path / "slide 30.npy"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        other = make()
        with torch.no_grad():
            next(other.encoder.parameters()).mul_(2)
        other.keep_in(tmp_path)
        gradient(other, bags())
        assert sound(tmp_path) != before
    else:
        at = -40 if damage == "byte" else -1
        flipped = bytes([data[at] ^ 1])
        path.write_bytes({
            "byte": data[:at] + flipped + data[at + 1 :], "digest": data[:at] + flipped,
            "cut": data[:-50], "empty": b""}[damage])  # fmt: skip
    again = make()
    again.keep_in(tmp_path)
    for name, grad in gradient(again, bags()).items():
        assert torch.equal(grad, expected[name]), name
    assert sound(tmp_path) == before
    assert bool(caplog.records) == (damage != "missing")


def test_features_that_f16_cannot_hold_are_one_sentence() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * 1e6

    encoder = Encoder(Large(), dim=3, chunk=8)
    bright = np.full((3, 4, 4, 3), 255, np.uint8)
    bag = Bag.of(MemoryPatches(bright, slide_id="s"), 0)
    with pytest.raises(TrainingError, match="s: the encoder's features are no numbers .* try f32"):
        ABMIL(ABMILConfig(width=8), encoder, [1.0, 1.0]).predict_bag(bag)
    ABMIL(ABMILConfig(width=8, features="f32"), encoder, [1.0, 1.0]).predict_bag(bag)


@given(
    rows=st.lists(st.integers(0, 19), min_size=1, max_size=40),
    parts=st.lists(st.integers(0, 20), max_size=3).map(sorted),
)
def test_rows_are_read_in_whatever_order(rows: list[int], parts: list[int]) -> None:
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    with TemporaryDirectory() as folder:
        files = FeatureFiles(Path(folder), np.float32)
        written = files.write("s", b"x", (20, 3), np.split(values, parts))
        found = FeatureFiles(Path(folder), np.float32).find("s", b"x")
        for features in (written, found):
            assert features is not None
            assert np.array_equal(features.read(np.array(rows, np.int64)), values[rows])
        assert np.array_equal(np.load(written.path), values)


def test_a_file_that_became_shorter_is_one_sentence(tmp_path) -> None:
    files = FeatureFiles(tmp_path, np.float32)
    features = files.write("s", b"", (20, 3), [np.zeros((20, 3), np.float32)])
    with features.path.open("r+b") as handle:
        handle.truncate(200)
    with pytest.raises(ReadError, match="s.npy: cannot be read .*same command again"):
        features.read(np.arange(20))


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    files = FeatureFiles(tmp_path, np.float16)
    with pytest.raises(WriteError, match="s.npy: cannot be written .* make room"):
        files.write("s", b"", (1, 1), [])
