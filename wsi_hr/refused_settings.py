"""Why settings were refused: each as the user writes it, with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from wsi_hr.recipe import Recipe

_MOST_SHOWN = 80  # characters of what is refused


@dataclass(frozen=True)
class RefusedSettings:
    """Puts pydantic's errors into words.

    Attributes:
        config: all settings.
        tables: sections whose settings are told apart by a name: section -> name -> its settings.
        several_samplers: the section ``sampler`` was given as a list.
    """

    config: type[BaseModel]
    tables: Mapping[str, Mapping[str, type[BaseModel]]]
    several_samplers: bool

    def explain(
        self, error: ValidationError, recipe: Mapping[str, Any] | None, given: Sequence[str]
    ) -> Iterator[str]:
        """A clause per mistake, with the line of a :class:`Recipe` that made it.

        Args:
            error: what pydantic found.
            recipe: what was merged below all else; None: nothing.
            given: dotted settings that came from elsewhere.
        """
        lines = recipe.lines if isinstance(recipe, Recipe) else {}
        for item in error.errors():
            where, name = self._place(item["loc"])
            if not where:  # what holds between sections says itself where
                why = item["msg"].removeprefix("Value error, ")
            elif item["type"] == "extra_forbidden":
                why = f"{where}: {self._why_unknown(where, name)}"
            elif item["type"] in ("union_tag_invalid", "literal_error"):
                why = f"{where}: {item['msg']}"
            else:
                why = f"{where}: {item['msg']} (got {shortened(repr(item['input']))})"
            overridden = any(f"{where}.".startswith(f"{key}.") for key in given)
            if where in lines and isinstance(recipe, Recipe) and not overridden:
                why = f"{recipe.path}, line {lines[where]}: {why}"
            yield why

    def _place(self, location: Sequence[int | str]) -> tuple[str, str | None]:
        """A setting as the user writes it, and the method or sampler it was looked for in."""
        parts = [str(part) for part in location]
        number: list[str] = []
        if parts[:1] == ["sampler"] and len(parts) > 1:
            number.append(parts.pop(1))
            if not self.several_samplers:  # which is a list of one to pydantic only
                number.clear()
        if parts[:1] in (["method"], ["sampler"]) and len(parts) > 1:  # the union's tag in between
            return ".".join([parts[0], *number, *parts[2:]]), parts[1]
        return ".".join([*parts[:1], *number, *parts[1:]]), None

    def _why_unknown(self, where: str, name: str | None) -> str:
        section, key = where.split(".")[0], where.split(".")[-1]
        for other, model in self.tables.get(section, {}).items():
            if name is not None and key in model.model_fields:
                return f"a setting of {other}, not of {name}"
        if where in self._known_keys():  # the key itself has the dot
            return (
                f"unknown setting; in a recipe it stands in its section: {section}: {{{key}: ...}}"
            )
        near = difflib.get_close_matches(where, self._known_keys(), n=1, cutoff=0.5)
        hint = f"the nearest known one is {near[0]}" if near else "wsi-hr show lists them"
        return f"unknown setting; {hint}"

    def _known_keys(self) -> list[str]:
        keys = [*self.config.model_fields]
        for section, field in self.config.model_fields.items():
            for model in self.tables.get(section, {section: field.annotation}).values():
                if isinstance(model, type) and issubclass(model, BaseModel):
                    keys += [f"{section}.{name}" for name in _names_in(model)]
        return keys


def _names_in(model: type[BaseModel]) -> Iterator[str]:
    """Settings of a section, and dotted those of a section in it."""
    for name, field in model.model_fields.items():
        yield name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{one}" for one in _names_in(inner))


def shortened(text: str) -> str:
    """``text``, or its beginning."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
