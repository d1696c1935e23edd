"""The command line as a person meets it: exit codes, sentences, no traceback, nothing wrapped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.cli import app
from wsi_hr import __version__

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]


def test_version(cli):
    assert cli("--version").out == f"wsi-hr {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_the_command(cli, command):
    for option in ("--help", "-h"):
        ended = cli(command, option)
        assert ended.code == 0
        text = " ".join(ended.out.split())
        assert f"Example: wsi-hr {command}" in text


def test_help_tells_the_exit_codes(cli):
    text = " ".join(cli("--help").out.split())
    assert "0 all done, 1 some slides failed (listed), 2 the request was wrong, 130" in text
    for command in COMMANDS:
        assert command in text


def test_the_script_starts_without_heavy_imports(tmp_path):
    code = "import sys, pipelines.cli; print({'torch', 'numpy', 'zarr'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    script = Path(sys.executable).with_name("wsi-hr")
    done = subprocess.run([script, "show"], capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout)["train"]["epochs"] == 50


def one_sentence(err: str) -> str:
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_wrong_requests_are_one_sentence_and_2(cli, store, run, cohort, tmp_path):
    labels = ("--labels", cohort / "labels.csv")
    out = ("-o", tmp_path / "a folder with a long name, so that no line of eighty would hold it")
    (tmp_path / "file").touch()
    key = tmp_path / "key.csv"
    none, slide = tmp_path / "none", cohort / "slides/slide_001.svs"
    for args, sentence in (
        (("train", tmp_path / "none", *labels, *out), "no such folder; make it with: wsi-hr tile"),
        (("train", store, "--labels", tmp_path / "none.csv", *out), "the table cannot be read"),
        (("train", store, *labels, *out, "--set", "train.epoch=3"), "known one is train.epochs"),
        (("train", store, *labels, *out, "--set", "train.epochs"), "expected key=value"),
        (("train", store, *labels, *out, "--method", "pachgd"), "patchgd"),
        (("train", store, *labels, *out, "--encoder", "resnet19"), "near: "),
        (("train", store, *labels, *out, "--recipe", "none"), "no such file, and not one of: "),
        (("train", store, *labels, *out, "--device", "gpu"), "use auto, cpu, cuda or cuda:N"),
        (("train", store, *labels, *out, "--label-column", "diagnosis"), "diagnosis"),
        (("train", store, *labels, "-o", tmp_path / "file"), "a file, not a folder"),
        (("train", store, *labels, "-o", "/proc/run"), "cannot be written"),
        (("train", store, *labels, "-o", store), "is the store; choose a folder of its own"),
        (("predict", run, store, "-o", run), "is what is read here; choose a folder of its own"),
        (("predict", run, store, "-o", store), "is what is read here; choose a folder of its own"),
        (("predict", run, store, *out, "--mpp-override", "0.5"), "is tiled already"),
        (("predict", tmp_path / "none", store, *out), "no such checkpoint"),
        (("predict", run, store, *out, "--split", "tset"), "train, val, test"),
        (("predict", run, store, store, *out), "not several inputs"),
        (("predict", run, tmp_path / "file", "-o", "/proc/out"), "cannot be written"),
        (("predict", run, none, *out), "none: no such file or folder; correct the name"),
        (("predict", run, slide, none, *out), "none: no such file or folder; correct the name"),
        (("train", store, *labels, *out, "--annotations", none), "none"),
        (("train", store, *labels, *out, "--set", "encoder.weights=none.pt"), "none.pt"),
        (("train", store, *labels, *out, "--mpp", "7"), "7"),
        (("tile", none, *out), "none: no such file or folder; correct the name"),
        (("tile", slide, none, *out), "none: no such file or folder; correct the name"),
        (("tile", none, *out, "--dry-run"), "none: no such file or folder; correct the name"),
        (("tile", slide, *out, "--masks", none), "none"),
        (("tile", slide, *out, "--coords", none), "none: no such folder"),
        (("export", none, *out, "--format", "clam"), "no such folder"),
        (("export", store, *out, "--format", "clam", "--mpp", "7"), "7"),
        (("sample", none, *out), "no such folder"),
        (("sample", store, *out, "--set", "sampler.name=attention", "--epoch", "1"), "epoch 1"),
        (("sample", store, *out, "--encoder=x"), ""),
        (("verify", none), "no such folder"),
        (("verify", store, "--slides", none), "none: no such file or folder; correct the name"),
        (("demo", *out, "--method", "x"), "the demo knows"),
        (("demo", *out, "--set", "train.epoch=3"), "known one is train.epochs"),
        (("demo", *out, "--set", "encoder.name=resnet19"), "near: "),
        (("demo", *out, "--set", "train.device=gpu"), "use auto, cpu, cuda or cuda:N"),
        (("demo", "-o", tmp_path / "file"), "a file, not a folder"),
        (("tile", slide, *out, "--coords", none, "--hash-names", key), "none: no such folder"),
        (("info", slide, none), "none: no such file or folder; correct the name"),
    ):  # fmt: skip
        ended = cli(*args)
        assert ended.code == 2, (args, ended)
        if sentence:  # else it is typer's
            assert sentence in one_sentence(ended.err), ended.err
        assert not out[1].exists(), args
        assert not key.exists(), args


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(cli, store, run, cohort, tmp_path):
    for args in (
        ("train", store, "--labels", cohort / "labels.csv", "-o", tmp_path / "r"),
        ("predict", run, store, "-o", tmp_path / "o"),
    ):
        ended = cli(*args, "--device", "cuda")
        assert ended.code == 2
        assert "0 CUDA device(s) here; see wsi-hr doctor, or use --device cpu" in ended.err
        one_sentence(ended.err)


def test_usage_errors_are_2(cli, store):
    for args in (("train", store), ("predict",), ("nonsense",), ("train", "--epochs", "many")):
        ended = cli(*args)
        assert ended.code == 2
        assert "Traceback" not in ended.err


def test_options_reach_the_config(cli, store, cohort, tmp_path):
    ended = cli(
        *("train", store, "--labels", cohort / "labels.csv", "-o", tmp_path / "run"),
        *("--method", "patchgd", "--encoder", "test_resnet", "--epochs", "1", "--batch-size", "3"),
        *("--lr", "0.002", "--seed", "5", "--device", "cpu"),
        *("--set", "train.threads=1", "--set", "method.head=cnn", "--slide-column", "slide_id"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["method"]["name"] == "patchgd"
    assert config["method"]["head"] == "cnn"
    assert config["encoder"]["name"] == "test_resnet"
    assert config["seed"] == 5
    wanted = {"epochs": 1, "batch_size": 3, "lr": 0.002, "device": "cpu", "threads": 1}
    assert {key: config["train"][key] for key in wanted} == wanted
    assert ended.err == ""
    assert "\x1b" not in ended.out, "no colours, no progress where nobody watches"
    assert f"next: wsi-hr predict {tmp_path / 'run'} SLIDES -o OUT\n" in ended.out
    assert "held-out slides: loss " in ended.out
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["argv"][:2] == ["train", str(store)]


def test_a_loss_that_explodes_is_1_and_keeps_nothing_bad(cli, store, cohort, tmp_path):
    ended = cli(
        *("train", store, "--labels", cohort / "labels.csv", "-o", tmp_path / "run"),
        *("--encoder", "test_resnet", "--epochs", "2", "--lr", "1e30", "--device", "cpu"),
        *("--set", "train.threads=1"),
    )  # fmt: skip
    assert ended.code == 1
    assert "the last good checkpoint is kept. Lower train.lr" in one_sentence(ended.err)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_what_the_system_refuses_is_a_sentence_and_1(cli, run, store, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "heatmaps").touch()
    ended = cli("predict", run, store, "-o", out, "--device", "cpu")
    assert ended.code == 1
    sentence = one_sentence(ended.err)
    assert f"{out / 'heatmaps'}: cannot be written (File exists)" in sentence
    assert "Traceback" in cli("-v", "predict", run, store, "-o", out, "--device", "cpu").err


def test_names_that_are_no_text(cli, tmp_path):
    name = os.fsdecode(b"\xff\xe4 [red].svs")
    (tmp_path / name).write_text("<html>")
    ended = cli("info", tmp_path / name)
    assert ended.code == 1
    assert "[red]" in one_sentence(ended.err)
    assert cli("train", tmp_path / name, "--labels", "x", "-o", tmp_path / "o").code == 2


def test_tiling_says_nothing_but_warnings(start, cohort, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("a", "b"):
        (slides / f"{name}.svs").write_bytes((cohort / "slides/slide_001.svs").read_bytes())
    tile = ("tile", slides, "-o", tmp_path / "store", "--mpp", "2", "--patch-size", "64")
    process = start(*tile, "--workers", "1")
    assert process.wait() == 0
    assert process.err.read_text() == (
        "WARNING: a and b have identical content; keep one, or the same slide counts twice\n"
    )
    assert process.out.read_text() == (f"2 slides: 2 done; see {tmp_path / 'store/status.csv'}\n")
