"""Which slide a cell of somebody's table means."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsi_hr.cohort.excel_damage import bare_number, damage_of
from wsi_hr.slides.open import SLIDE_SUFFIXES, slide_id_of

_DERIVED_SUFFIXES = frozenset({".zarr", ".h5", ".pt"})  # stores, and the features STAMP names


class SlideNames:
    """Finds slides by id, file name or path; equal text only, nothing is guessed.

    Args:
        slide_ids: the slides there are. Where several files had one stem, their ids carry folder
            names in front or the suffix behind (:func:`wsi_hr.cohort.manifest.find_slides`).
    """

    def __init__(self, slide_ids: Sequence[str]) -> None:
        self._ids = {_composed(slide_id): slide_id for slide_id in slide_ids}
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_letters: dict[str, list[str]] = defaultdict(list)
        self._by_number: dict[str, list[str]] = defaultdict(list)
        for name, slide_id in sorted(self._ids.items()):
            for stem in _stems_in(name):
                self._by_stem[stem].append(slide_id)
            self._by_letters[name.casefold()].append(slide_id)
            number = bare_number(name)
            if number is not None:
                self._by_number[number].append(slide_id)

    def find(self, cell: str) -> str | None:
        """The id of the slide that ``cell`` names; None: there is none, or "" is asked for."""
        return next((self._ids[key] for key in _keys(cell) if key in self._ids), None)

    def namesakes(self, cell: str) -> list[str]:
        """Ids that a collision of stems may have made of a file name without folder, sorted."""
        text = _composed(cell)
        return [] if "/" in text else self._by_stem.get(_stem(text), [])

    def hint(self, cell: str) -> str | None:
        """Why a cell that names no slide may be meant for one, as a clause."""
        stem = _stem(_composed(cell))
        number = bare_number(stem)
        if number is not None and number in self._by_number:
            return f"slide {self._by_number[number][0]!r}? Excel drops leading zeros"
        damage = damage_of(stem)
        if damage is not None:
            return damage
        if stem.casefold() in self._by_letters:
            return f"slide {self._by_letters[stem.casefold()][0]!r}? letter case differs"
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
    """One form of characters with accents (macOS writes another), and of path separators."""
    return unicodedata.normalize("NFC", text).replace("\\", "/")
