"""A run knows the weights it began with, and says where its normalisation is from."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from pipelines.weights_of_run import WEIGHTS
from wsi_hr.training.checkpoint import load_checkpoint
from wsi_hr.training.loop import BEST, LAST

SMALL = ("--set", "train.epochs=1", "--set", "encoder.name=test_resnet", "--device", "cpu")


@pytest.fixture
def weights(tmp_path) -> Path:
    return write(tmp_path / "w.pt", 9)


def write(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    torch.save({"model": timm.create_model("test_resnet").state_dict()}, path)
    return path


@pytest.fixture
def train(cli, store, labels, tmp_path):
    given = ("--labels", labels.path, "-o", tmp_path / "run", *SMALL, "--recipe", "demo")
    return lambda *more: cli("train", store, *given, *more)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_file_is_told_and_written_down(train, weights, tmp_path):
    ended = train("--set", f"encoder.weights={weights}")
    assert ended.code == 0, ended.err
    told = " ".join(ended.out.split())
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "taken from `model`" in told
    assert sha256 in told.replace(" ", "")
    assert "warning: normalisation: mean [0.5, 0.5, 0.5]" in told or "mean [0.485" in told
    assert "set encoder.mean and encoder.std" in told
    with (tmp_path / "run" / WEIGHTS).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "setting": "encoder.weights", "file": str(weights), "sha256": sha256,
        "bytes": str(weights.stat().st_size),
    }  # fmt: skip
    facts = json.loads((tmp_path / "run/run.json").read_text())["encoder"]
    assert facts["weights"]["sha256"] == sha256
    assert facts["weights"]["said"] == ["taken from `model`"]
    assert facts["weights"]["left_out"] == ["fc.bias", "fc.weight"]
    assert facts["normalisation_is_a_guess"]
    assert load_checkpoint(tmp_path / "run" / BEST).meta["encoder"] == facts


def test_a_file_that_is_replaced_behind_its_path_is_another_run(train, weights, tmp_path):
    given = ("--set", f"encoder.weights={weights}")
    assert train(*given).code == 0
    kept, before = weights.read_bytes(), bytes_of(tmp_path / "run")
    first = hashlib.sha256(kept).hexdigest()
    write(weights, 10)
    os.utime(weights, (1, 1))
    ended = train(*given)
    assert ended.code == 2
    now = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"another encoder.weights {weights} (SHA-256 {first[:12]}... there" in ended.err
    assert f"{now[:12]}... now" in ended.err
    assert bytes_of(tmp_path / "run") == before
    weights.write_bytes(kept)
    assert train(*given).code == 0
    weights.unlink()
    assert train(*given).code == 0, "resuming needs the file no more"
    after = bytes_of(tmp_path / "run")
    assert after[WEIGHTS] == before[WEIGHTS]
    records = [json.loads(files["run.json"])["encoder"] for files in (before, after)]
    assert records[0] == records[1]


def test_a_run_without_a_file_says_nothing_of_files(train, tmp_path):
    ended = train()
    assert ended.code == 0
    assert not (tmp_path / "run" / WEIGHTS).exists()
    assert "weights:" not in ended.out
    assert "warning: normalisation" not in " ".join(ended.out.split())
    assert "normalisation: mean [" in " ".join(ended.out.split())


def test_normalisation_that_is_set_is_taken_told_and_kept(train, weights, tmp_path):
    given = ("--set", f"encoder.weights={weights}", "--set", "encoder.mean=[0.7,0.6,0.5]")
    given += ("--set", "encoder.std=[0.25,0.5,0.125]")
    ended = train(*given)
    assert ended.code == 0, ended.err
    told = " ".join(ended.out.split())
    assert "normalisation: mean [0.7, 0.6, 0.5], std [0.25, 0.5, 0.125] (as set)" in told
    assert "warning: normalisation" not in told
    checkpoint = load_checkpoint(tmp_path / "run" / LAST)
    assert checkpoint.meta["encoder"]["normalisation_from"] == "as set"
    scale = checkpoint.tensors["model.encoder.scale"]
    assert torch.allclose(1 / (255 * scale), torch.tensor([0.25, 0.5, 0.125]))
    ended = train(*given[:-2], "--set", "encoder.std=[0.3,0.3,0.3]")
    assert ended.code == 2
    assert "encoder.std: [0.25, 0.5, 0.125] there, [0.3, 0.3, 0.3] now" in ended.err


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("encoder.mean=[123.675,116.28,103.53]", "would be [0.485, 0.456, 0.406]"),
        ("encoder.std=[58.395,57.12,57.375]", "would be [0.229, 0.224, 0.225]"),
        ("encoder.std=[0,1,1]", "must be of pixels in 0..1"),
        ("encoder.mean=[0.5]", "encoder.mean"),
        ("encoder.args.init_valus=1", "the nearest known one is encoder.args.init_values"),
        ("encoder.args.mlp_layer=os.system", "encoder.args.mlp_layer"),
        ("encoder.args={init_values: 1e-5}", "test_resnet has no such argument"),
    ],
)
def test_numbers_and_arguments_that_will_not_do(train, tmp_path, given, why):
    ended = train("--set", given)
    assert ended.code == 2
    assert why in " ".join(ended.err.split())
    assert not (tmp_path / "run" / LAST).exists()


def test_a_run_of_a_published_folder_needs_it_no_more(cli, train, store, tmp_path):
    folder = tmp_path / "published"
    torch.manual_seed(4)
    net = timm.create_model("test_resnet")
    net.pretrained_cfg = {**net.pretrained_cfg, "mean": (0.7, 0.6, 0.5)}
    save_for_hf(net, folder, model_args={}, safe_serialization=True)
    named = ("--encoder", f"local-dir:{folder}", "--set", "encoder.weights=pretrained")
    ended = cli(
        *("train", store, "--labels", store.parent / "none.csv"), "-o", tmp_path / "run", *named
    )
    assert ended.code == 2
    ended = train(*named[2:], "--set", f"encoder.name=local-dir:{folder}")
    assert ended.code == 0, ended.err
    told = " ".join(ended.out.split())
    assert "is test_resnet" in told
    assert "mean [0.7, 0.6, 0.5]" in told
    assert "(mean and std by config.json of local-dir:" in told
    checkpoint = load_checkpoint(tmp_path / "run" / BEST)
    assert checkpoint.meta["config"]["encoder"]["name"] == "test_resnet"
    assert checkpoint.meta["config"]["encoder"]["mean"] == [0.7, 0.6, 0.5]
    shutil.rmtree(folder)
    assert cli("predict", tmp_path / "run", store, "-o", tmp_path / "out").code == 0


def test_a_network_built_by_arguments_is_built_again_by_its_checkpoint(cli, train, store, tmp_path):
    """LayerScale and registers: trained, gone on with, and used without the file."""
    path = tmp_path / "vit.pt"
    torch.manual_seed(5)
    built = timm.create_model("test_vit", init_values=1e-5, reg_tokens=2)
    torch.save(built.state_dict(), path)
    vit = ("--set", "encoder.name=test_vit", "--set", f"encoder.weights={path}")
    ended = train(*vit, "--set", "encoder.args.init_values=1e-5")
    assert ended.code == 2
    assert "would fit with --set 'encoder.args={reg_tokens: 2}'" in " ".join(ended.err.split())
    vit += ("--set", "encoder.args={init_values: 1e-5}", "--set", "encoder.args.reg_tokens=2")
    assert train(*vit).code == 0
    path.unlink()
    assert train(*vit).code == 0
    assert cli("predict", tmp_path / "run", store, "-o", tmp_path / "out").code == 0
    ended = train(*vit, "--set", "encoder.args.reg_tokens=3")
    assert ended.code == 2
    assert "encoder.args.reg_tokens: 2 there, 3 now" in ended.err


def test_a_run_that_did_not_write_its_weights_down_goes_on(train, weights, tmp_path):
    """As one of an earlier wsi-hr: what it began with is not known, and not said."""
    given = ("--set", f"encoder.weights={weights}")
    assert train(*given).code == 0
    (tmp_path / "run" / WEIGHTS).unlink()
    assert train(*given).code == 0
    assert not (tmp_path / "run" / WEIGHTS).exists()
