"""The settings that bind a folder of stores: ``tile.json``, from its first store on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipelines.hashed_names import NAMES, require_same_names
from wsi_hr.cohort.name_key import NameKey
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError, reading
from wsi_hr.listing import matching, read_if_there
from wsi_hr.remote import Place
from wsi_hr.runtime import write_text_atomic
from wsi_hr.store.manifest import is_ours
from wsi_hr.store.patch_store import STORE_SUFFIX

TILE_FILE = "tile.json"
RUN_LIMITS = frozenset({"deadline_s", "memory_gib", "max_unreadable"})
"""Settings that decide whether a slide comes out, not what comes out: they may change."""


@contextmanager
def settled(store: Place, config: TileConfig, key: NameKey | None) -> Iterator[None]:
    """Have the settings written down before there is a store of them, and not where none came."""
    names = {} if key is None else {NAMES: key.fingerprint}
    text = json.dumps({**config.model_dump(mode="json"), **names}, indent=2) + "\n"
    write_text_atomic(store / TILE_FILE, text)
    try:
        yield
    finally:
        if not _holds_stores(store):
            (store / TILE_FILE).unlink(missing_ok=True)


def _holds_stores(store: Place) -> bool:
    with reading(store):
        return any(is_ours(path) for path in matching(store, f"*{STORE_SUFFIX}"))


def require_same_settings(store: Place, config: TileConfig, key: NameKey | None) -> None:
    """Make sure that the stores already in a folder were cut with ``config`` and named by ``key``.

    A folder without stores is bound by no settings, whatever a run left there in which all failed.

    Raises:
        ConfigError: it is not.
        ReadError: what binds them cannot be read just now.
    """
    path = store / TILE_FILE
    if not _holds_stores(store):
        return
    try:
        there = dict(json.loads(read_if_there(path) or b"{}"))
    except (ValueError, TypeError) as cause:
        raise ConfigError(
            f"{path}: damaged; restore it, or delete it if the stores beside it were cut with the "
            "settings of this run"
        ) from cause
    if there:
        require_same_names(store, str(there.pop(NAMES, "")), key)
    changed = differing(there, config) if there else []
    if changed:
        raise ConfigError(
            f"{store}: holds stores of other settings ({'; '.join(changed)}); choose another "
            "output folder or the old settings"
        )


def differing(settled: Mapping[str, object], config: TileConfig) -> list[str]:
    """Settings that change what comes out and are not the same, with both values."""
    asked = config.model_dump(mode="json")
    return [
        f"tile.{key} was {settled.get(key)}, now {asked.get(key)}"
        for key in sorted({*settled, *asked} - RUN_LIMITS)
        if settled.get(key) != asked.get(key)
    ]
