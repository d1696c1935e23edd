"""Which slides a run is about: folders, files and manifests become one list of records."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_hr.cohort.table import MPP_ALIASES, SLIDE_ALIASES, match_column, read_table
from wsi_hr.errors import LabelError, SlideError
from wsi_hr.file_names import plain_name
from wsi_hr.listing import is_there
from wsi_hr.slides.dicom_series import DICOM_SUFFIXES, beside_series, series_uid
from wsi_hr.slides.open import SLIDE_SUFFIXES, slide_id_of

logger = logging.getLogger(__name__)

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv"})
PATH_ALIASES = ("path", "slide_path", "image_path", "file_path", "wsi_path")
"""Columns that hold a path for certain; without one, the slide column is read as a path."""

_LONGEST_ID = 200  # bytes: a file name has 255, the store adds its suffixes


@dataclass(frozen=True)
class SlideRecord:
    """One slide to be worked on, or the reason why it cannot be.

    Attributes:
        slide_id: unique in its list, fit for a file name.
        path: the slide's file, as it was reached.
        mpp: um per level-0 px the manifest gives; None: it gives none.
        problem: known before opening, one sentence; None: there is none.
        redundant: ``problem`` says that the file belongs to another record, which is no failure.
        named: other files that ``problem`` names.
        name: of a slide whose id is a hash, the id that its file would give it, by which its
            owner's files know it; empty where the id is that name itself.
    """

    slide_id: str
    path: Path
    mpp: float | None = None
    problem: str | None = None
    redundant: bool = False
    named: tuple[Path, ...] = ()
    name: str = ""

    @property
    def known_as(self) -> tuple[str, ...]:
        """What files that belong to the slide may be called after."""
        return (self.slide_id, self.name) if self.name else (self.slide_id,)


def find_slides(inputs: Sequence[Path]) -> list[SlideRecord]:
    """List the slides of folders (searched through), files and manifests, each once.

    In a folder, files of unknown suffix are counted in the log and left alone; a file that is
    named is tried whatever its suffix. Symbolic links are followed, also in circles. The folder
    beside an MRXS file belongs to it; of a DICOM series the first file that is no label,
    overview or thumbnail stands for all.

    Returns:
        Records sorted by path. Where two slides have the same stem, the folder's name is put
        before it, so that no slide overwrites another. A slide that cannot be worked on is
        listed with its ``problem``, never left out.

    Raises:
        SlideError: some inputs are not there; names all of them.
        LabelError: a manifest cannot be used.
    """
    require_inputs(inputs)
    found: list[SlideRecord] = []
    for given in inputs:
        if given.is_dir():
            found += [_record(path) for path in _search(given)]
        elif given.suffix.lower() in MANIFEST_SUFFIXES and given.is_file():
            found += _read_manifest(given)
        elif given.is_file():
            found.append(_record(given))
        else:
            found.append(replace(_record(given), problem=f"{given}: neither a file nor a folder"))
    found.sort(key=lambda record: os.fsencode(record.path))
    return _with_unique_ids(_without_repetitions(found))


def require_inputs(inputs: Sequence[Path]) -> None:
    """See that what was named is there: a mistyped name is a wrong request, no slide that failed.

    Raises:
        SlideError: some inputs are not there; names all of them.
    """
    missing = [given for given in inputs if not is_there(given)]
    if missing:
        names = (os.fsencode(given).decode("utf-8", "backslashreplace") for given in missing)
        raise SlideError(f"{', '.join(names)}: no such file or folder; correct the name")


def _record(path: Path) -> SlideRecord:
    return SlideRecord(slide_id=slide_id_of(path), path=path)


def _search(folder: Path) -> Iterator[Path]:
    """The slides below a folder; every real folder is entered once, whatever links say."""
    entered: set[tuple[int, int]] = set()
    passed_over: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_warn_of_folder):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in entered:
            folders.clear()
            continue
        entered.add((here.st_dev, here.st_ino))
        companions = {Path(name).stem for name in names if name.lower().endswith(".mrxs")}
        folders[:] = sorted(
            name for name in folders if name not in companions and not name.startswith(".")
        )
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SLIDE_SUFFIXES:
                yield Path(parent) / name
            else:
                passed_over[suffix or "(none)"] += 1
    if passed_over:
        kinds = ", ".join(f"{count} x {suffix}" for suffix, count in passed_over.most_common(8))
        logger.info("%s: files that are not slides were passed over: %s", folder, kinds)


def _warn_of_folder(cause: OSError) -> None:
    logger.warning("%s: folder cannot be read (%s)", cause.filename, cause.strerror)


def _read_manifest(path: Path) -> list[SlideRecord]:
    """The slides a manifest lists, found relative to its own folder.

    Raises:
        LabelError: no column of slides, or no row.
    """
    table = read_table(path)
    path_column = match_column(table, PATH_ALIASES, what="slide path", required=False)
    slide_column = match_column(table, SLIDE_ALIASES, what="slide", required=path_column is None)
    mpp_column = match_column(table, MPP_ALIASES, what="mpp", required=False)
    beside: dict[Path, dict[str, list[Path]]] = {}
    records = []
    for index, row in enumerate(table.rows):
        cell = (row[path_column] if path_column else row[slide_column or ""]).strip()
        if not cell:
            raise LabelError(
                f"{path}, line {table.line_of(index)}: no slide is named; fill in column "
                f"{path_column or slide_column!r} or delete the line"
            )
        record = _located(path.parent / cell, beside)
        if path_column and slide_column and row[slide_column].strip():
            record = replace(record, slide_id=_id_of_name(row[slide_column].strip()))
        if mpp_column and row[mpp_column].strip():
            record = _with_mpp(record, row[mpp_column], path, table.line_of(index))
        records.append(record)
    if not records:
        raise LabelError(f"{path}: the manifest lists no slide; give it a line for each")
    return records


def _located(path: Path, beside: dict[Path, dict[str, list[Path]]]) -> SlideRecord:
    """A manifest's cell as a file: as it is written, or else the one slide of that stem.

    Args:
        path: what the cell names.
        beside: slides by stem of the folders seen so far; filled here.
    """
    if path.is_file():
        return _record(path)
    if path.is_dir():
        return replace(_record(path), problem=f"{path}: a folder, not a slide")
    if path.parent not in beside:
        beside[path.parent] = defaultdict(list)
        for other in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
            if other.suffix.lower() in SLIDE_SUFFIXES and other.is_file():
                beside[path.parent][slide_id_of(other)].append(other)
    twins = beside[path.parent].get(path.name, [])
    if len(twins) == 1:
        return _record(twins[0])
    problem = f"{path}: no such file"
    if twins:
        problem = f"{path}: could be {' or '.join(twin.name for twin in twins)}; write the suffix"
    return replace(_record(path), problem=problem, named=tuple(twins))


def _id_of_name(name: str) -> str:
    """An id as a table gives it: a slide's suffix goes, other text after a dot belongs to it."""
    if Path(name).suffix.lower() in SLIDE_SUFFIXES:
        return slide_id_of(Path(name))
    return slide_id_of(Path(f"{name}.slide"))


def _with_mpp(record: SlideRecord, cell: str, manifest: Path, line: int) -> SlideRecord:
    """Take the manifest's mpp, with a decimal point or comma."""
    try:
        mpp = float(cell.strip().replace(",", "."))
    except ValueError:
        mpp = math.nan
    if math.isfinite(mpp) and mpp > 0:
        return replace(record, mpp=mpp)
    if record.problem is not None:
        return record
    problem = f"{manifest}, line {line}: mpp {cell.strip()!r} is not a positive number of um per px"
    return replace(record, problem=problem, named=(manifest,))


def _without_repetitions(records: list[SlideRecord]) -> list[SlideRecord]:
    """Mark files reached twice and members of a DICOM series that has a record already."""
    files: dict[tuple[int, int], Path] = {}
    stands_for = _dicom_slides(records)
    kept = []
    for record in records:
        if record.problem is None:
            try:
                found = record.path.stat()
            except OSError as cause:
                problem = f"{record.path}: cannot be read ({cause.strerror})"
                kept.append(replace(record, problem=problem))
                continue
            first = files.setdefault((found.st_dev, found.st_ino), record.path)
            if first is not record.path:
                problem = f"the same file as {first}"
                kept.append(replace(record, problem=problem, redundant=True, named=(first,)))
                continue
            first = stands_for.get(record.path, record.path)
            if first != record.path:
                problem = f"belongs to the DICOM series of {first}"
                kept.append(replace(record, problem=problem, redundant=True, named=(first,)))
                continue
        kept.append(record)
    return kept


def _dicom_slides(records: Sequence[SlideRecord]) -> dict[Path, Path]:
    """The file that stands for the series of each DICOM file.

    It is the first that holds no label, overview or thumbnail; where all do, the first.
    """
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for record in records:
        if record.problem is None and record.path.suffix.lower() in DICOM_SUFFIXES:
            uid = series_uid(record.path)
            if uid is not None:
                series[record.path.parent.resolve(), uid].append(record.path)
    return {
        member: next((path for path in members if beside_series(path) is None), members[0])
        for members in series.values()
        for member in members
    }


def _with_unique_ids(records: list[SlideRecord]) -> list[SlideRecord]:
    """Put folder names before ids that occur twice, then whole file names, then numbers.

    Ids that differ only in letter case or Unicode form count as equal: some file systems say so.
    A redundant record never changes the id of the one it repeats.
    """
    ids = [record.slide_id for record in records]
    own = [index for index, record in enumerate(records) if not record.redundant]
    deepest = max((len(record.path.absolute().parts) for record in records), default=0)
    for depth in range(1, deepest):
        for group in _shared(ids, own):
            if len({records[index].path.absolute().parent for index in group}) > 1:
                for index in group:
                    folders = records[index].path.absolute().parts[1:-1][-depth:]
                    ids[index] = _id_of_name("_".join([*folders, records[index].slide_id]))
    for group in _shared(ids, own):
        for index in group:
            ids[index] = plain_name(ids[index] + records[index].path.suffix)
    ids = [_shortened(slide_id) for slide_id in ids]
    while shared := _shared(ids, range(len(records))):
        for group in shared:
            group.sort(key=lambda index: records[index].redundant)
            for number, index in enumerate(group[1:], start=2):
                ids[index] += f"-{number}"
    return [replace(record, slide_id=ids[index]) for index, record in enumerate(records)]


def _shared(ids: Sequence[str], indices: Iterable[int]) -> list[list[int]]:
    """Groups of ``indices`` whose ids count as equal."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        groups[unicodedata.normalize("NFC", ids[index]).casefold()].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _shortened(slide_id: str) -> str:
    """An id that leaves room for the store's suffixes in a file name of 255 bytes."""
    raw = os.fsencode(slide_id)
    if len(raw) <= _LONGEST_ID:
        return slide_id
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{raw[: _LONGEST_ID - 13].decode('utf-8', 'ignore')}-{digest}"
