"""Stores that say what their author likes, with manifests that fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsi_hr.store.manifest import MANIFEST_NAME, Manifest, entry_of, read_manifest


def forge_file(store: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file of a store."""
    file = store / name
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    files = {**read_manifest(store).files, name: entry_of(file)}
    (store / MANIFEST_NAME).write_bytes(Manifest(files).to_bytes())


def forge(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a store says of its slide."""
    forge_file(store, "zarr.json", lambda document: change(document["attributes"]["wsi_hr"]))
