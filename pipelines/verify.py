"""Patch stores read back against their manifests, and a store folder against its own tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from pipelines.hashed_names import NAMES, hashed, names_key_of, open_key, require_same_names
from pipelines.progress import progress_bar
from pipelines.replacement import ATTEMPT
from pipelines.status import STATUS_COLUMNS, STATUS_FILE, printable
from pipelines.tile_settings import RUN_LIMITS, TILE_FILE
from wsi_hr.cohort.manifest import SlideRecord, find_slides
from wsi_hr.cohort.name_key import NameKey
from wsi_hr.cohort.same_content import same_content
from wsi_hr.cohort.table import read_table
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError, LabelError, ReadError, SlideError, StoreError, StoreReadError
from wsi_hr.file_names import file_in, name_problem
from wsi_hr.listing import is_there, read_if_there
from wsi_hr.machine import num_usable_cores
from wsi_hr.remote import Place
from wsi_hr.slides.source import Source
from wsi_hr.store.digests import read_digests
from wsi_hr.store.manifest import MANIFEST_NAME, is_ours, problems_of
from wsi_hr.store.patch_store import STORE_SUFFIX, PatchStore
from wsi_hr.tiling.slide_pixels import SlideGoneError, require_slide

STATES = ("sound", "damaged", "unfinished", "unreadable", "foreign", "outdated", "unmatched")
"""``outdated``: sound, but of another slide file than the one of its name; ``unmatched``: sound,
but there is no slide to compare it with. Both only where slides are given, or the store is virtual
and its slide is where its patches are."""

_UNKNOWN = ("damaged", "unfinished", "unreadable", "foreign")  # what they hold
_STRAYS = (f"{STORE_SUFFIX}.tmp", f"{STORE_SUFFIX}.old")


@dataclass(frozen=True)
class StoreCheck:
    """What was found in one store.

    Attributes:
        path: the store.
        state: one of :data:`STATES`.
        problems: one sentence each; none where the state is ``sound``.
    """

    path: Place
    state: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """What was found in everything that was asked for.

    Attributes:
        stores: every store once, in the order of the folders and of their names.
        problems: of the folders themselves, one sentence each.
    """

    stores: tuple[StoreCheck, ...]
    problems: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """All problems."""
        return [*(text for check in self.stores for text in check.problems), *self.problems]

    @property
    def summary(self) -> str:
        """How many stores are in which state, one sentence."""
        counts = Counter(check.state for check in self.stores)
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        aside = f"; {len(self.problems)} problems beside the stores" if self.problems else ""
        return f"{len(self.stores)} stores: {states or 'none'}{aside}"


def verify_stage(
    places: Sequence[Place],
    slides: Sequence[Path] = (),
    *,
    hash_names: Path | None = None,
    console: Console | None = None,
) -> VerifyReport:
    """Read every file of every store back; nothing is written, deleted or mended.

    Args:
        places: folders of stores, or single stores.
        slides: folders, slides or manifests the stores were made from, as ``wsi-hr tile`` was given
            them; each store's slide is read through and compared. Empty: no comparison.
        hash_names: the key file that the slides were tiled with; None: none was.
        console: where progress is shown; None: nowhere.

    Raises:
        WsiHrError: there is no store, there are no slides to compare with, or another key is given
            than that of the stores.
    """
    paths: dict[Place, None] = {}
    folders: dict[Place, None] = {}
    for place in places:
        if place.name.endswith(STORE_SUFFIX):
            if not _is_there(place):
                raise StoreError(f"{place}: no such patch store; run wsi-hr tile to make it")
            paths[place] = None
        else:
            folders[place] = None
            paths |= dict.fromkeys(_stores_in(place))
    key = None if hash_names is None else open_key(hash_names, places)
    if key is not None and not slides:
        raise ConfigError(
            f"--hash-names {hash_names}: tells which slide a store is of, to compare it with; give "
            "--slides too, or leave it out"
        )
    for folder in {path.parent for path in paths} if slides else ():
        if is_there(folder / TILE_FILE):
            require_same_names(folder, names_key_of(folder / TILE_FILE), key)
    records = _records(slides, key)
    with (
        ThreadPoolExecutor(num_usable_cores()) as pool,
        progress_bar(console, "verifying", len(paths)) as advance,
    ):
        checks = []
        try:
            for check in pool.map(partial(_check_store, records=records), paths):
                checks.append(check)
                advance(1, check.path.name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    problems = [sentence for folder in folders for sentence in _check_folder(folder, checks)]
    problems += _check_copies(checks)
    return VerifyReport(tuple(checks), tuple(problems))


def _is_there(path: Place) -> bool:
    return is_there(path) or (isinstance(path, Path) and path.is_symlink())


def _stores_in(folder: Place) -> list[Place]:
    """What stands in ``folder`` under a store's name, whatever it is.

    Raises:
        StoreError: nothing does, and no table says that anything did.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; make it with: wsi-hr tile SLIDES -o {folder}")
    found: list[Place] = [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith(STORE_SUFFIX) and not path.name.startswith(".")
    ]
    if not found and not is_there(folder / STATUS_FILE):
        raise StoreError(f"{folder}: no patch store there; give the folder that wsi-hr tile wrote")
    return found


def _records(slides: Sequence[Path], key: NameKey | None) -> dict[str, SlideRecord] | None:
    """The slides to compare with, by id; None: there is nothing to compare with."""
    if not slides:
        return None
    found = find_slides(slides)
    if not found:
        raise SlideError(f"{', '.join(map(printable, slides))}: no slides found")
    if key is not None:
        found = hashed(found, key)
    return {record.slide_id: record for record in found}


def _check_store(path: Place, records: dict[str, SlideRecord] | None) -> StoreCheck:
    found = problems_of(path)
    problems = tuple(map(str, found))
    try:
        ours, finished = is_ours(path), is_there(path / MANIFEST_NAME)
    except ReadError as error:
        return StoreCheck(path, "unreadable", (*problems, str(error)))
    if problems:
        state = "damaged" if finished else "unfinished"
        if all(isinstance(problem, StoreReadError) for problem in found):
            state = "unreadable"
        return StoreCheck(path, state if ours else "foreign", problems)
    try:
        store = PatchStore.open(path)
    except StoreReadError as error:
        return StoreCheck(path, "unreadable", (str(error),))
    except StoreError as error:
        return StoreCheck(path, "damaged", (str(error),))
    if path.name != f"{store.slide_id}{STORE_SUFFIX}":
        problem = (
            f"{path}: is the store of slide {store.slide_id!r}; rename it to "
            f"{store.slide_id}{STORE_SUFFIX}, or delete it if that is there too"
        )
        return StoreCheck(path, "damaged", (problem,))
    if store.virtual:
        try:
            require_slide(store)
        except SlideGoneError as error:
            return StoreCheck(path, "unmatched", (str(error),))
        except StoreError as error:
            return StoreCheck(path, "outdated", (str(error),))
    return StoreCheck(path, "sound") if records is None else _compare(store, records)


def _compare(store: PatchStore, records: dict[str, SlideRecord]) -> StoreCheck:
    """A sound store beside the slide it was made from."""
    record = records.get(store.slide_id)
    if record is None or record.problem is not None:
        why = f"no slide of this name among those given, of {store.info.source_name}"
        problem = f"{store.path}: {record.problem if record else why}; nothing to compare it with"
        return StoreCheck(store.path, "unmatched", (problem,))
    try:
        source = Source.of(record.path)
        same = source.size == store.info.source_size and source.sha256() == store.info.source_sha256
    except SlideError as error:
        return StoreCheck(store.path, "unmatched", (f"{store.path}: {error}",))
    if same:
        return StoreCheck(store.path, "sound")
    problem = (
        f"{store.path}: {printable(record.path)} is not the file it was made from any more; run "
        "wsi-hr tile again, or restore the slide"
    )
    return StoreCheck(store.path, "outdated", (problem,))


def _check_copies(checks: Sequence[StoreCheck]) -> Iterator[str]:
    """Slides that are there under several names, in one folder or in several."""
    digests: dict[Place, tuple[str, str]] = {}
    for check in checks:
        if check.state not in _UNKNOWN:
            found = read_digests(check.path)
            digests[check.path] = found.source_sha256, found.pixels_sha256
    for group in same_content(digests):
        if len({path.name for path in group}) > 1:
            yield (
                f"{' and '.join(map(str, group))}: the same slide under several names; keep one, "
                "or it counts several times"
            )


def _check_folder(folder: Place, checks: Sequence[StoreCheck]) -> Iterator[str]:
    """Problems of a folder as a whole, which no store can tell by itself."""
    yield from _check_settings(folder, checks)
    yield from _check_status(folder)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(_STRAYS) or path.name.startswith(ATTEMPT):
            yield (
                f"{path}: left by an interrupted run, unless one is at work now; wsi-hr tile into "
                "this folder removes it"
            )


def _check_settings(folder: Place, checks: Sequence[StoreCheck]) -> Iterator[str]:
    """Whether ``tile.json`` is there, sound, and what the stores were cut with."""
    path = folder / TILE_FILE
    try:
        content = read_if_there(path)
        if content is None:
            if any(check.path.parent == folder for check in checks):
                yield f"{path}: missing; run the same wsi-hr tile again, which writes it"
            return  # else no slide has come out yet, so no settings bind the folder
        told = {name: value for name, value in json.loads(content).items() if name != NAMES}
        settled = TileConfig.model_validate(told).model_dump(exclude=set(RUN_LIMITS))
    except ReadError as error:
        yield str(error)
        return
    except (ValueError, ValidationError, AttributeError):
        yield (
            f"{path}: damaged; restore it, or delete it and run wsi-hr tile again with the "
            "settings of the stores"
        )
        return
    for check in checks:
        if check.path.parent != folder or check.state in _UNKNOWN:
            continue
        asked = PatchStore.open(check.path).info.asked.model_dump(exclude=set(RUN_LIMITS))
        differing = [name for name, value in asked.items() if settled[name] != value]
        if differing:
            names = " and ".join(f"tile.{name}" for name in differing)
            yield f"{check.path}: was cut with another {names} than {path.name} says; move it away"


def _check_status(folder: Place) -> Iterator[str]:
    """Whether ``status.csv`` is there, sound, and every slide it calls done has its store."""
    path = folder / STATUS_FILE
    again = "run the same wsi-hr tile again, which keeps what is sound"
    try:
        if not is_there(path):
            yield f"{path}: missing; {again}"
            return
        table = read_table(path)
    except ReadError as error:
        yield str(error)
        return
    except LabelError:
        yield f"{path}: damaged; {again}"
        return
    if not set(STATUS_COLUMNS) <= set(table.columns):
        yield f"{path}: is no status table of wsi-hr tile; {again}"
        return
    counts = Counter(row["slide_id"] for row in table.rows)
    for slide_id, count in counts.items():
        if count > 1:
            yield f"{path}: has {count} rows of slide {slide_id!r}; {again}"
    for row in table.rows:
        problem = name_problem(row["slide_id"], STORE_SUFFIX)
        if problem is not None:
            yield f"{path}: slide id {row['slide_id']!r} {problem}, which no slide's does; {again}"
            continue
        store = file_in(folder, row["slide_id"], STORE_SUFFIX, of="slide id")
        if row["status"] == "done" and not _is_there(store):
            yield f"{store}: missing, though {path.name} says done; {again}"
