"""A device whose memory is too small for a step: it is done again, or told what to lower."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pipelines.train import device_in_words
from wsi_hr.config import Config, resolve_config
from wsi_hr.errors import DeviceMemoryError, TrainingError
from wsi_hr.methods import build_method
from wsi_hr.methods.method import Method
from wsi_hr.models.encoder import Encoder
from wsi_hr.training.loop import LAST, METRICS, fit

from .test_loop import config, data, method_for

EXACT = ["method.exact=true", "method.dropout=0.2"]


class Tight(nn.Module):
    """Runs out of memory above ``most`` patches at a time, in the passes that ``when`` names."""

    def __init__(self, most: int, when: str) -> None:
        super().__init__()
        self.most = most
        self.when = when
        self.num_refused = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most and not self.training and self.when == "eval":
            self._refuse()
        if len(x) > self.most and self.training:
            if self.when == ("second pass" if torch.is_grad_enabled() else "fill"):
                self._refuse()
            if self.when == "backward" and torch.is_grad_enabled():
                x.register_hook(lambda _: self._refuse())
        return x

    def _refuse(self) -> None:
        self.num_refused += 1
        raise torch.OutOfMemoryError("CUDA out of memory")


def tight_method(
    cfg: Config, chunk: int, most: int, when: str, norms: Sequence[nn.Module] = ()
) -> Method:
    """With randomness in encoder and head; as long as there is no norm, chunks change no bit."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Dropout(0.2), Tight(most, when), *norms, nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    encoder = Encoder(net, dim=8, chunk=chunk, norm_stats="recalibrate")
    return build_method(cfg.method, encoder, [1.0, 1.0])


@pytest.mark.fault("D12")
@pytest.mark.parametrize("when", ["fill", "second pass", "backward"])
def test_a_step_is_done_again_with_the_chunk_that_fits(tmp_path, caplog, when):
    """To the bit as with that chunk from the start: nothing of the failed attempts is left."""
    cfg = config("patchgd", EXACT, epochs=3)
    for run in ("tight", "roomy"):
        (tmp_path / run).mkdir()
    roomy, tight = tight_method(cfg, 2, 99, when), tight_method(cfg, 8, 3, when)
    with caplog.at_level(logging.WARNING):
        fit(tight, data(), cfg, tmp_path / "tight", {})
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "encoder.chunk" in text] == [
        "the device's memory is too small for encoder.chunk 8; going on with 4",
        "the device's memory is too small for encoder.chunk 4; going on with 2",
    ]
    assert tight.encoder.chunk == 2
    fit(roomy, data(), cfg, tmp_path / "roomy", {})
    for name in (METRICS, LAST):
        assert (tmp_path / "tight" / name).read_bytes() == (tmp_path / "roomy" / name).read_bytes()


@pytest.mark.fault("D12")
@pytest.mark.parametrize(
    ("name", "more", "when", "norms"),
    [
        ("patchgd", EXACT, "fill", 0),
        ("patchgd", EXACT, "second pass", 0),
        ("patchgd", EXACT, "backward", 0),
        pytest.param("patchgd", EXACT, "eval", 0, id="validation"),
        pytest.param("patchgd", EXACT, "eval", 1, id="statistics of norms"),
        pytest.param("patchgd", [], "eval", 0, id="fill of Z"),
        pytest.param("dbps", ["method.explore=none"], "eval", 0, id="scan"),
        pytest.param("abmil", [], "eval", 0, id="features"),
    ],
)
def test_where_not_one_patch_fits_it_is_said_what_to_choose(tmp_path, name, more, when, norms):
    """Whoever asks the encoder; settings of the step have no part in it, and none is named."""
    cfg = config(name, more, epochs=1)
    method = tight_method(cfg, 8, 0, when, [nn.BatchNorm2d(8)] * norms)
    with pytest.raises(
        DeviceMemoryError, match=r"at a time \(encoder.chunk is 1 already"
    ) as caught:
        fit(method, data(), cfg, tmp_path, {})
    assert method.encoder.chunk == 1
    for setting in ("encoder.name", "encoder.cut", "tile.patch_size"):
        assert setting in str(caught.value)
    assert "train.batch_size" not in str(caught.value)
    assert not (tmp_path / LAST).exists()


@pytest.mark.fault("D12")
def test_a_head_for_which_there_is_no_memory_halves_no_chunk(tmp_path):
    cfg = config("patchgd", EXACT, epochs=1)
    method = tight_method(cfg, 8, 99, "fill")
    starve(method.head)
    with pytest.raises(TrainingError, match="3 slide.*lower train.batch_size, or set method.block"):
        fit(method, data(), cfg, tmp_path, {})
    assert method.encoder.chunk == 8


@pytest.mark.fault("D12")
@pytest.mark.parametrize(
    ("name", "more", "advice"),
    [
        ("dbps", [], "lower train.batch_size, method.num_salient or method.explore_patches"),
        ("patchgd", [], "lower train.batch_size or method.max_sampled, or set method.exact=true"),
        ("patchgd", ["method.fill_mode=train"], "lower encoder.chunk, train.batch_size"),
        ("gd", ["method.memory=none"], "set method.micro_batch=1, or set method.memory=checkpoint"),
        ("gd", [], "set method.micro_batch=1, or raise method.segments, or learn by --method"),
        ("gd", ["method.micro_batch=1"], "at a time; raise method.segments, or learn by --method"),
        (
            "gd",
            ["method.input=image", "method.memory=none", "method.image_px=64"],
            "method.memory=offload, or lower method.image_px",
        ),
        (
            "gd",
            ["method.input=image", "method.memory=offload", "method.micro_batch=1"],
            "at a time; lower method.image_px",
        ),
        ("abmilx", [], "lower train.batch_size or method.sample"),
        ("abmil", [], "lower method.chunk"),
    ],
)
def test_the_settings_that_a_step_takes_its_memory_by_are_named(tmp_path, name, more, advice):
    cfg = config(name, more, epochs=1)
    method = method_for(cfg)
    starve(getattr(method, "classifier", None) or method.head)
    with pytest.raises(TrainingError, match=r"too small to learn from 3 slide\(s\)") as caught:
        fit(method, data(), cfg, tmp_path, {})
    assert advice in str(caught.value)
    for setting in advice.replace(",", " ").split():
        if "." in setting:
            key, _, value = setting.partition("=")
            resolve_config({}, {}, [f"method.name={name}", f"{key}={value or 8}"])


def starve(module: nn.Module) -> None:
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for part in module.modules():
        part.register_forward_hook(refuse)
        part.register_forward_pre_hook(refuse)


@pytest.mark.parametrize("emulated", [True, False])
def test_bfloat16_that_is_emulated_is_not_taken(monkeypatch, emulated):
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or not emulated

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(Encoder, "device", property(lambda _: torch.device("cuda")))
    made = Encoder(nn.Flatten(), dim=3)
    assert made.autocast is not emulated
    made.precision = "bfloat16"
    assert made.autocast, "who asks for it gets it"


@pytest.mark.parametrize(
    ("emulated", "precision", "said"),
    [
        (True, "auto", "encoder.precision auto is float32"),
        (True, "bfloat16", "warning: it emulates bfloat16"),
        (True, "float32", ""),
        (False, "auto", ""),
        (False, "bfloat16", ""),
    ],
)
def test_a_gpu_that_emulates_bfloat16_is_told(monkeypatch, emulated, precision, said):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: not emulated
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    words = device_in_words(torch.device("cuda"), config(more=[f"encoder.precision={precision}"]))
    assert words.startswith("device: Some GPU")
    assert said in words
    assert bool(said) is ("bfloat16" in words)
