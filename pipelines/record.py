"""The run record: a small JSON beside every output that says how it came about."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel

from pipelines.hashed_names import NAMES
from wsi_hr import __version__
from wsi_hr.remote import Place
from wsi_hr.runtime import write_text_atomic

RECORD = "run.json"
_PACKAGES = (
    "torch", "timm", "openslide-python", "openslide-bin", "tifffile", "zarr", "numpy",
)  # fmt: skip


class RunRecord:
    """Started when a command starts, written when it ends.

    Args:
        command: ``tile``, ``train``, ``predict`` or ``demo``.
        config: resolved settings.
    """

    def __init__(self, command: str, config: BaseModel) -> None:
        self._facts: dict[str, Any] = {
            "command": command,
            "argv": sys.argv[1:],
            "started": _now(),
            "wsi_hr": __version__,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _PACKAGES},
            "config": config.model_dump(mode="json"),
        }

    def write(self, folder: Place, *, names: str = "", **facts: Any) -> None:
        """Write ``run.json`` into ``folder``, with what the command found out.

        Args:
            folder: of the output.
            names: fingerprint of the key that hashed the names of slides; it stands in place of the
                command line, which may name them. Empty: nothing is hashed.
            facts: what is found out, as plain values.
        """
        record = {**self._facts, "ended": _now(), **facts}
        if names:
            del record["argv"]
            record[NAMES] = names
        write_text_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
