"""A recipe: the settings of a study in a YAML file, and where in it each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_hr.errors import ConfigError, reading
from wsi_hr.plain_yaml import PlainYamlError, read_plain_yaml

_MOST_BYTES = 1 << 20


class Recipe(dict[str, Any]):
    """A recipe's settings, nested as they are written.

    Attributes:
        path: the file.
        lines: dotted setting, such as ``train.lr`` -> its line in the file.
    """

    def __init__(self, settings: Mapping[str, Any], path: Path, lines: Mapping[str, int]) -> None:
        super().__init__(settings)
        self.path = path
        self.lines = lines


def load_recipe(path: Path) -> Recipe:
    """Read a recipe: YAML as plain data (:mod:`wsi_hr.plain_yaml`).

    Raises:
        ConfigError: the file is missing, too large, not plain YAML (naming the line), or not a
            mapping.
        ReadError: it cannot be read just now.
    """
    with reading(path):
        try:
            with path.open("rb") as handle:
                content = handle.read(_MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as cause:
            raise ConfigError(f"{path}: the recipe cannot be read ({cause})") from cause
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{path}: the recipe cannot be read ({cause})") from cause
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than 1 MiB, so it is no recipe")
    try:
        read = read_plain_yaml(text)
    except PlainYamlError as cause:
        raise ConfigError(
            f"{path}, line {cause.line}: not valid YAML for a recipe: {cause.reason}"
        ) from cause
    if not isinstance(read.data, dict):
        raise ConfigError(f"{path}: a recipe is a mapping such as 'train: {{epochs: 20}}'")
    return Recipe(read.data, path, read.lines)
