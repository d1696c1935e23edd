"""What all settings have in common: frozen, and an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class Frozen(BaseModel):
    """A group of settings; read, never written. A number is finite unless its field says not."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, data: Any) -> Any:
        """Keep pydantic from taking true for 1: YAML reads ``epochs: on`` as true."""
        if not isinstance(data, Mapping):
            return data
        return {
            name: _as_no_number(value)
            if name in cls.model_fields and not _takes_truth(cls.model_fields[name].annotation)
            else value
            for name, value in data.items()
        }


class _Truth:
    """True or false where a number or text belongs: no field takes it for one."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"{self._value}, as YAML reads {'yes and on' if self._value else 'no and off'}"


def _as_no_number(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_no_number(item) for item in value]
    return _Truth(value) if isinstance(value, bool) else value


def _takes_truth(kind: Any) -> bool:
    """Whether a field of this type may be true or false."""
    if get_origin(kind) is Literal:
        return any(isinstance(value, bool) for value in get_args(kind))
    return kind in (bool, Any) or any(map(_takes_truth, get_args(kind)))
