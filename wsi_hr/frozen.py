"""What all settings have in common: frozen, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A group of settings; read, never written."""

    model_config = ConfigDict(frozen=True, extra="forbid")
