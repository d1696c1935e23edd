"""Recipes by name or by file, and what wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.settings import read_recipe, recipe_names, resolve
from wsi_hr.config import dump_config
from wsi_hr.errors import ConfigError


def test_defaults_give_way_to_recipe_to_options_to_assignments(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 2, batch_size: 3, lr: 0.5}\nseed: 4\n")
    config = resolve(str(file), {"train.batch_size": 5, "train.lr": 0.25}, ["train.lr=0.125"])
    assert config.seed == 4
    assert config.train.epochs == 2
    assert config.train.batch_size == 5
    assert config.train.lr == 0.125
    assert config.train.weight_decay == resolve(None, {}, None).train.weight_decay


def test_what_show_prints_is_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "shown.yaml"
    for name in recipe_names():
        config = resolve(name, {"seed": 3}, ["split.val=0.3"])
        file.write_text(dump_config(config))
        assert resolve(str(file), {}, None) == config


def test_a_shipped_name_goes_before_a_file_of_that_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("train: {epochs: 1}")
    Path("other").write_text("train: {epochs: 1}")
    assert "tile" in read_recipe("demo")
    assert read_recipe("other") == {"train": {"epochs": 1}}


def test_a_name_that_is_nothing_lists_those_that_are() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("camelyon17", {}, None)
    said = str(caught.value)
    assert said.startswith("--recipe camelyon17: no such file, and not one of: ")
    assert all(name in said for name in recipe_names())


@pytest.mark.parametrize("name", ["", "..", "../recipes/demo", "demo.yaml"])
def test_a_name_is_not_a_way_out_of_the_folder(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        read_recipe(name)


def test_a_mistake_in_a_recipe_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epoch: 2}\n")
    with pytest.raises(ConfigError, match=r"train\.epoch: unknown setting.*train\.epochs"):
        resolve(str(file), {}, None)
