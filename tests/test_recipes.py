"""Every shipped recipe loads, means what it says, and names an encoder that exists."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml

from pipelines.demo import RECIPES
from pipelines.settings import read_recipe, recipe_names, resolve
from wsi_hr.config import dump_config, resolve_config
from wsi_hr.method_config import low_mpp

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "pipelines" / "recipes"


def test_the_names_are_those_of_the_files() -> None:
    assert recipe_names() == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert {path.suffix for path in FOLDER.iterdir() if path.is_file()} == {".yaml"}
    assert set(RECIPES.values()) <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
class TestRecipe:
    """What holds for every one of them."""

    def test_it_resolves(self, name: str) -> None:
        config = resolve(name, {}, [])
        assert resolve_config(yaml.safe_load(dump_config(config))) == config

    def test_it_says_all_that_makes_the_study(self, name: str) -> None:
        """A default that changes later must not change a study that is published."""
        recipe = read_recipe(name)
        assert {"tile", "encoder", "sampler", "method", "train"} <= recipe.keys()
        assert "name" in recipe["method"]
        assert {"mpp", "patch_size"} <= recipe["tile"].keys()
        assert {"epochs", "batch_size", "lr"} <= recipe["train"].keys()

    def test_every_value_arrives(self, name: str) -> None:
        config = resolve(name, {}, []).model_dump(mode="json")
        for section, values in read_recipe(name).items():
            for key, value in values.items():
                assert config[section][key] == value, f"{section}.{key}"

    def test_the_scales_it_learns_from_are_those_it_tiles(self, name: str) -> None:
        config = resolve(name, {}, [])
        assert low_mpp(config.method) in (None, *config.tile.more_mpp)

    def test_its_encoder_exists(self, name: str) -> None:
        encoder = resolve(name, {}, []).encoder
        assert encoder.name in timm.list_models()
        if encoder.weights == "pretrained":
            assert timm.list_pretrained(f"{encoder.name}*")

    def test_its_patches_fit_the_heads(self, name: str) -> None:
        """The attention's heads must divide the encoder's width; weights are not needed for it."""
        config = resolve(name, {}, [])
        encoder: Any = timm.create_model(config.encoder.name, num_classes=0)
        assert encoder.num_features % (getattr(config.method, "heads", None) or 8) == 0

    def test_it_opens_with_a_sentence(self, name: str) -> None:
        first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ")

    def test_it_is_plain_data(self, name: str) -> None:
        """No anchors, aliases or tags: what is read is what is written."""
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        plain = (yaml.BlockMappingStartToken, yaml.FlowMappingStartToken)
        tokens = list(yaml.scan(text))
        assert any(isinstance(token, plain) for token in tokens)
        strange = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken)
        assert not any(isinstance(token, strange) for token in tokens)


def test_a_wheel_holds_the_recipes() -> None:
    """hatchling packs every file of a package that git does not ignore, whatever its suffix."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["wsi_hr", "pipelines"]}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert not any("yaml" in pattern or "recipes" in pattern for pattern in ignored)
