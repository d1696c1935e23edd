"""Section E of docs/faults.md: every file of a store harmed in turn, by command."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wsi_hr.store.chunks import seal
from wsi_hr.store.manifest import commit_folder

from .oracle import Ended, fault, timed, wrong_ending, wrong_table, wrong_tree

SLIDES = tuple(f"slide_00{number}" for number in range(1, 9))
SETTINGS = ("--encoder", "test_resnet", "--epochs", 1, "--device", "cpu")
Harm = Callable[[Path], object]


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def names(store) -> list[str]:
    """Every file of a store, relative to it."""
    folder = store / f"{SLIDES[0]}.zarr"
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert len(found) > 15
    return found


@pytest.fixture
def train(cli, cohort, tmp_path) -> Callable[..., Ended]:
    labels = ("--labels", cohort / "labels.csv", "--set", "train.threads=1")
    return lambda store: timed(cli, "train", store, *labels, "-o", tmp_path / "run", *SETTINGS)


@pytest.fixture
def predict(cli, run, tmp_path) -> Callable[..., Ended]:
    out = ("-o", tmp_path / "out", "--device", "cpu")
    return lambda store: timed(cli, "predict", run, store, *out)


def harmed(own_store: Path, harm: Harm, names: list[str], sound: Path) -> dict[str, str]:
    """Harm a file of each store but the last; the harmed file by slide."""
    chosen = dict(zip(SLIDES[:-1], names, strict=False))
    for slide, name in chosen.items():
        shutil.rmtree(own_store / f"{slide}.zarr")
        shutil.copytree(sound / f"{slide}.zarr", own_store / f"{slide}.zarr")
        harm(own_store / f"{slide}.zarr" / name)
    for slide in SLIDES[len(chosen) : -1]:
        shutil.rmtree(own_store / f"{slide}.zarr")
        shutil.copytree(sound / f"{slide}.zarr", own_store / f"{slide}.zarr")
    return chosen


def portions(names: list[str]) -> list[list[str]]:
    each = len(SLIDES) - 1
    return [names[first : first + each] for first in range(0, len(names), each)]


@pytest.mark.parametrize("harm", [fault("E5", delete), fault("E6", empty), fault("E7", cut)])
def test_train_refuses_whatever_lacks_bytes_by_name(
    train, own_store, store, names, tmp_path, harm: Harm
):
    for portion in portions(names):
        chosen = harmed(own_store, harm, portion, store)
        ended = train(own_store)
        assert wrong_ending(ended, 2) == []
        assert f"{len(chosen)} of 8 labelled slides cannot be trained on" in ended.err
        told = [slide for slide in SLIDES if re.search(rf"\b{slide}\b", ended.err)]
        assert told == list(chosen)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("harm", [fault("E9", delete), fault("E10", empty), fault("E11", cut)])
def test_predict_fails_whatever_lacks_bytes_by_name(
    predict, own_store, store, predicted, names, tmp_path, harm: Harm
):
    for portion in portions(names):
        chosen = harmed(own_store, harm, portion, store)
        ended = predict(own_store)
        assert wrong_ending(ended, 1) == []
        assert wrong_table(tmp_path / "out/predictions.csv", SLIDES) == []
        states = states_in(tmp_path / "out/predictions.csv")
        assert [slide for slide, state in states.items() if state == "failed"] == list(chosen)
        sound = [slide for slide in SLIDES if slide not in chosen]
        assert wrong_tree(tmp_path / "out", predicted, *sound) == []
        assert not any(list((tmp_path / "out").rglob(f"{slide}.*")) for slide in chosen)


def states_in(table: Path) -> dict[str, str]:
    with table.open(newline="", encoding="utf-8") as handle:
        return {row["slide_id"]: row["status"] for row in csv.DictReader(handle)}
