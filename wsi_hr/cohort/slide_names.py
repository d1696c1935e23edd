"""Which slide a cell of somebody's table means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsi_hr.cohort.excel_damage import bare_number, damage_of
from wsi_hr.cohort.same_text import how_they_differ, same_text, twin_key
from wsi_hr.slides.open import SLIDE_SUFFIXES, slide_id_of

_DERIVED_SUFFIXES = frozenset({".zarr", ".h5", ".pt"})  # stores, and the features STAMP names


class SlideNames:
    """Finds slides by id, file name or path; the same text only, nothing is guessed.

    Args:
        slide_ids: the slides there are. Where several files had one stem, their ids carry folder
            names in front or the suffix behind (:func:`wsi_hr.cohort.manifest.find_slides`).
    """

    def __init__(self, slide_ids: Sequence[str]) -> None:
        self._exact = frozenset(slide_ids)
        self._ids: dict[str, list[str]] = defaultdict(list)
        for slide_id in sorted(slide_ids):
            self._ids[_composed(slide_id)].append(slide_id)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_twin: dict[str, list[str]] = defaultdict(list)
        self._by_number: dict[str, list[str]] = defaultdict(list)
        for name, same in sorted(self._ids.items()):
            for stem in _stems_in(name):
                self._by_stem[stem] += same
            self._by_twin[twin_key(name)] += same
            number = bare_number(name)
            if number is not None:
                self._by_number[number] += same

    def find(self, cell: str) -> str | None:
        """The id of the slide that ``cell`` names; None: there is none, or "" is asked for."""
        if cell in self._exact:
            return cell
        found = next((self._ids[key] for key in _keys(cell) if key in self._ids), [])
        return found[0] if len(found) == 1 else None

    def namesakes(self, cell: str) -> list[str]:
        """Several slides that ``cell`` could be, sorted.

        Their names differ in blanks or in Unicode form only; or ``cell`` is a file name without a
        folder, of which a collision of stems may have made them.
        """
        text = _composed(cell)
        same = next((self._ids[key] for key in _keys(cell) if key in self._ids), [])
        if len(same) > 1 or "/" in text:
            return same if len(same) > 1 else []
        return self._by_stem.get(_stem(text), [])

    def hint(self, cell: str) -> str | None:
        """Why a cell that names no slide may be meant for one, as a clause."""
        stem = _stem(_composed(cell))
        number = bare_number(stem)
        if number is not None and number in self._by_number:
            return f"slide {self._by_number[number][0]!r}? Excel drops leading zeros"
        damage = damage_of(stem)
        if damage is not None:
            return damage
        for twin in self._by_twin.get(twin_key(stem), []):
            return f"slide {twin!r}? {how_they_differ(stem, _composed(twin))}"
        namesakes = self.namesakes(cell)
        return f"slide {namesakes[0]!r}?" if namesakes else None


def _keys(cell: str) -> Iterator[str]:
    """Ids that the slide named by ``cell`` can have, the plainest first."""
    text = _composed(cell)
    yield text
    path = PurePosixPath(text)
    yield path.name
    stem = _stem(text)
    yield stem
    folders = [folder for folder in path.parts[:-1] if folder != "/"]
    for depth in range(1, len(folders) + 1):
        for joint in ("_", "__"):
            parents = joint.join(folders[-depth:])
            yield f"{parents}{joint}{stem}"
            yield f"{parents}{joint}{path.name}"


def _stem(text: str) -> str:
    """The file name without folders and without a suffix that slides or their stores have."""
    path = PurePosixPath(text)
    suffix = path.suffix.lower()
    if suffix in SLIDE_SUFFIXES:
        return _composed(slide_id_of(Path(path.name)))
    if suffix in _DERIVED_SUFFIXES:
        return path.stem
    return path.name.removesuffix(".ome")


def _stems_in(name: str) -> Iterator[str]:
    """Stems that an id may have had before it was made unique."""
    parts = name.split("_")
    for start in range(1, len(parts)):
        if parts[start]:
            yield "_".join(parts[start:])
    path = PurePosixPath(name)
    if path.suffix.lower() in SLIDE_SUFFIXES:
        yield path.stem


def _composed(text: str) -> str:
    """One form of accents (macOS writes another), of blanks, and of path separators."""
    return same_text(text).replace("\\", "/")
