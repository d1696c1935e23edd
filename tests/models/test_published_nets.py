"""Encoders whose makers describe them: hf-hub: and local-dir:, read as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from wsi_hr.errors import ConfigError
from wsi_hr.method_config import EncoderConfig
from wsi_hr.models import published_nets
from wsi_hr.models.encoder import build_encoder
from wsi_hr.models.published_nets import resolve_encoder

ARGS = {"init_values": 1e-5, "reg_tokens": 2, "img_size": 160}


def config(name: str, **more) -> EncoderConfig:
    return EncoderConfig.model_validate({"name": name, **more})


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder as timm writes it."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(2)
    net = timm.create_model("test_vit", **ARGS)
    net.pretrained_cfg = {**net.pretrained_cfg, "mean": (0.7, 0.6, 0.5), "std": (0.3, 0.2, 0.1)}
    for one in net.state_dict().values():
        one.normal_(std=0.2)
    save_for_hf(net, folder, model_args=ARGS, safe_serialization=True)
    return folder


def described(folder: Path, **more) -> str:
    """The name of a folder with this config.json alone."""
    folder.mkdir(exist_ok=True)
    facts = {"architecture": "test_vit", "pretrained_cfg": {}, **more}
    (folder / "config.json").write_text(json.dumps(facts))
    return f"local-dir:{folder}"


@pytest.mark.parametrize("weights", [{}, {"weights": "pretrained"}])
def test_a_folder_is_the_network_that_timm_makes_of_it(published, weights) -> None:
    name = f"local-dir:{published}"
    found = resolve_encoder(config(name, **weights))
    assert found.config.name == "test_vit"
    assert ARGS.items() <= found.config.args.given.items()
    assert Path(found.config.weights).parent == published
    encoder = build_encoder(found.config, 160).eval()
    twin = timm.create_model(name, pretrained=True, num_classes=0).eval()
    twin = twin.to(memory_format=torch.channels_last)  # pyright: ignore
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(encoder.net(x), twin(x))
    assert encoder.origin.normalisation is not None
    assert encoder.origin.normalisation.mean == (0.7, 0.6, 0.5)
    assert found.normalisation_from == f"mean and std by config.json of {name}"


def test_what_the_user_sets_goes_first(published, tmp_path) -> None:
    name = f"local-dir:{published}"
    own = config(name, weights="none", args={"reg_tokens": 1}, mean=(0.1,) * 3, std=(0.2,) * 3)
    found = resolve_encoder(own)
    assert found.config.weights == "none"
    assert "without its weights" in (found.said or "")
    assert found.config.args.given.items() >= {**ARGS, "reg_tokens": 1}.items()
    assert (found.config.mean, found.normalisation_from) == ((0.1,) * 3, None)
    half = resolve_encoder(config(name, weights="none", mean=(0.1,) * 3))
    assert (half.config.mean, half.config.std) == ((0.1,) * 3, (0.3, 0.2, 0.1))
    assert half.normalisation_from == f"std by config.json of {name}"
    assert resolve_encoder(config(name, weights="mine.pt")).config.weights == "mine.pt"
    builtin = config("test_vit")
    assert resolve_encoder(builtin) == (builtin, None, None)


def test_a_model_of_the_hub_is_read_from_what_was_fetched(published, monkeypatch) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def fetch(repo: str, name: str, *, revision: str | None) -> str:
        asked.append((repo, name, revision))
        return str(published / name)

    monkeypatch.setattr(published_nets, "hf_hub_download", fetch)
    found = resolve_encoder(config("hf-hub:lab/net@main"))
    assert asked == [("lab/net", "config.json", "main"), ("lab/net", "model.safetensors", "main")]
    assert found.config.name == "test_vit"
    assert found.config.args.given.items() >= ARGS.items()
    asked.clear()
    assert resolve_encoder(config("hf-hub:lab/net"), weights=False).config.weights == "none"
    assert asked == [("lab/net", "config.json", None)]


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(published_nets, "hf_hub_download", unreachable)
    with pytest.raises(ConfigError, match=r"no route to host\); on a machine without int") as told:
        resolve_encoder(config("hf-hub:lab/net"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"architecture": "their_net"}, "says 'their_net', which timm does not build"),
        ({"architecture": "hf-hub:a/b"}, "says 'hf-hub:a/b', which timm does not build"),
        ({"architecture": None}, "does not say `architecture`"),
        ({"model_args": {"block_fn": "os.system"}}, "the argument 'block_fn', which is not among"),
        ({"model_args": {"mlp_layer": "their.Mlp"}}, "sets mlp_layer to 'their.Mlp'"),
        ({"model_args": {"depth": 10**9}}, "sets depth to '1000000000'"),
        ({"model_args": {"in_chans": 4}}, "is for pictures of 4 channels"),
        ({"pretrained_cfg": {"mean": [1, 2], "std": [1]}}, "mean in its config.json is not three"),
    ],
)
def test_a_description_is_data_of_a_short_list(tmp_path, more, why) -> None:
    with pytest.raises(ConfigError, match=why):
        resolve_encoder(config(described(tmp_path / "there", **more)), weights=False)


def test_an_older_description_is_read_too(tmp_path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    facts = {
        "architecture": "test_vit", "num_classes": 0, "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3,
        "input_size": [3, 96, 96], "fixed_input_size": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(facts))
    found = resolve_encoder(config(f"local-dir:{folder}", weights="none")).config
    assert (found.name, found.mean, found.args.given) == (
        "test_vit", (0.1, 0.2, 0.3), {"img_size": 96},
    )  # fmt: skip


def test_a_folder_must_say_what_it_is_and_which_weights(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        resolve_encoder(config(f"local-dir:{empty}"))
    (empty / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not timm's, which is a table"):
        resolve_encoder(config(f"local-dir:{empty}"))
    name = described(empty)
    with pytest.raises(ConfigError, match="has no weights file; say which"):
        resolve_encoder(config(name))
    for file in ("a.pt", "b.pth"):
        (empty / file).write_bytes(b"")
    with pytest.raises(ConfigError, match="has 2 weights files; say which"):
        resolve_encoder(config(name))
