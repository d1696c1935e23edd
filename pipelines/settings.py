"""Recipes and the resolved config of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from wsi_hr.config import Config, load_recipe, resolve_config
from wsi_hr.errors import ConfigError


def recipe_names() -> list[str]:
    """The recipes that ship with wsi-hr, sorted."""
    return sorted(_shipped())


def _shipped() -> dict[str, Traversable]:
    """Their files by their names."""
    folder = resources.files("pipelines") / "recipes"
    return {
        entry.name.removesuffix(".yaml"): entry
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }


def read_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path.

    Raises:
        ConfigError: neither exists, or the file is not a recipe.
    """
    shipped = _shipped().get(name)
    if shipped is not None:
        with resources.as_file(shipped) as path:
            return load_recipe(path)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"--recipe {name}: no such file, and not one of: {', '.join(recipe_names())}"
        )
    return load_recipe(path)


def resolve(
    recipe: str | None, options: Mapping[str, Any], assignments: Sequence[str] | None
) -> Config:
    """Defaults < recipe < options < ``--set``.

    Raises:
        ConfigError: an unknown setting or a value out of range, named.
    """
    return resolve_config(read_recipe(recipe) if recipe else None, options, assignments or ())


def segmenter_option(assignments: Sequence[str] | None) -> str | None:
    """The segmenter that ``--set tile.segmenter=...`` names, where nothing else can be set.

    Raises:
        ConfigError: something else is set, or that is no segmenter.
    """
    if not assignments:
        return None
    config = resolve(None, {}, assignments)
    if config.model_fields_set != {"tile"} or config.tile.model_fields_set != {"segmenter"}:
        raise ConfigError(
            f"--set {' --set '.join(assignments)}: the run has its settings; only tile.segmenter "
            "is named again, where it is a function of yours"
        )
    return config.tile.segmenter


def scales_option(text: str | None) -> dict[str, object]:
    """The settings that ``--mpp`` stands for: the main mpp, and further ones after commas.

    Raises:
        ConfigError: it is not numbers.
    """
    if text is None:
        return {}
    try:
        main, *others = (float(part) for part in text.split(","))
    except ValueError as cause:
        raise ConfigError(f"--mpp {text}: give um per px, as in 0.5 or 0.5,1.0") from cause
    return {"tile.mpp": main, "tile.more_mpp": others}
