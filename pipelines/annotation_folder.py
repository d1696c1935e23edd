"""The folder of annotations that the user gives for the slides of a training run."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.hashed_names import files_of_slides
from pipelines.run_folder import SIDES
from pipelines.sentences import say
from wsi_hr.bags.bag_set import BagSet
from wsi_hr.bags.patch_labels import (
    UNKNOWN,
    AnnotationFile,
    PatchLabels,
    class_of,
    read_annotations,
)
from wsi_hr.cohort.label_report import listed
from wsi_hr.cohort.name_key import NameKey
from wsi_hr.errors import AnnotationError, ConfigError
from wsi_hr.exchange.drawings import find_drawings
from wsi_hr.method_config import DenseConfig

ANNOTATION_SUFFIXES = (".geojson", ".json", ".xml")


@dataclass(frozen=True)
class Annotations:
    """What somebody drew on the slides of a run.

    Attributes:
        files: by slide id.
        dense: the settings, with the classes that were found where none were named.
        nameless: the files' names must not be told.
    """

    files: Mapping[str, AnnotationFile]
    dense: DenseConfig
    nameless: bool

    def rows(self) -> list[dict[str, str]]:
        """The rows of ``annotations.csv``, by slide."""
        return [
            {
                "slide_id": slide_id,
                "file": f"{slide_id}{file.path.suffix}" if self.nameless else file.path.name,
                "sha256": file.sha256,
            }
            for slide_id, file in sorted(self.files.items())
        ]


def annotations_of(
    folder: Path,
    splits: Sequence[dict[str, str]],
    bags: BagSet,
    dense: DenseConfig,
    console: Console | None,
    key: NameKey | None = None,
) -> Annotations:
    """Find and read the files of all slides, and say what they give.

    Args:
        folder: a file a slide, named after it.
        splits: the labelled slides and their sides.
        bags: opens their stores.
        dense: which classes count; none named: all that are found.
        console: told what fits what, and how many patches of which class there are.
        key: tells the names of slides by which files may be called; None: there are no others.

    Raises:
        ConfigError: there is no such folder, two files are for one slide, or a class is not there.
        AnnotationError: no file fits a slide, a file cannot be used, or a class has no patch that
            could be learned from.
    """
    slide_ids = [row["slide_id"] for row in splits]
    found = find_drawings(folder, ANNOTATION_SUFFIXES, "--annotations")
    names = {s: s for s in slide_ids} if key is None else key.slide_names(slide_ids)
    drawn = files_of_slides(found, names.items(), "--annotations")
    files = {slide_id: AnnotationFile.of(path) for slide_id, path in drawn.items()}
    if not files:
        theirs = listed(path.name for path in found.values()) or "no file of annotations"
        raise AnnotationError(
            f"--annotations {folder}: holds {theirs}; name files after the labelled slides, "
            f"SLIDE_ID{' or SLIDE_ID'.join(ANNOTATION_SUFFIXES)}, e.g. {slide_ids[0]}.geojson"
        )
    say(console, *(f"warning: {text}" for text in _misfits(folder, found, drawn, slide_ids, dense)))
    there = _classes_in(files, bags)
    dense = dense.model_copy(update={"classes": _chosen(folder, there, dense.classes)})
    left_out = sorted(there - set(dense.classes))
    labels = PatchLabels(files, dense)
    counts = {
        side: _count((s["slide_id"] for s in splits if s["split"] == side), labels, bags, dense)
        for side in SIDES
    }
    say(
        console,
        f"annotation classes: {', '.join(dense.classes)}"
        + (f"; not counted: {', '.join(left_out)}" if left_out else ""),
        f"annotated patches: {'; '.join(_in_words(side, counts[side]) for side in SIDES)}",
    )
    for name in dense.names:
        if not counts["train"][name]:
            raise AnnotationError(
                f"--annotations {folder}: no patch of the train slides is {name!r}, so it cannot "
                "be learned; "
                + (
                    "lower dense.min_cover, or leave the class out by dense.classes"
                    if name in dense.classes
                    else "annotate slides less than whole, or set dense.unannotated=background"
                )
            )
    return Annotations(files, dense, nameless=key is not None)


def _misfits(
    folder: Path,
    found: Mapping[str, Path],
    drawn: Mapping[str, Path],
    slide_ids: Sequence[str],
    dense: DenseConfig,
) -> list[str]:
    """Files without a slide, and slides without a file."""
    strange = [path.name for path in found.values() if path not in set(drawn.values())]
    bare = sorted(set(slide_ids) - drawn.keys())
    what = "count as background" if dense.unannotated == "background" else "are not learned from"
    lines = []
    if strange:
        lines.append(
            f"{folder}: annotations of no labelled slide: {len(strange)} of {len(found)}: "
            f"{listed(strange)}"
        )
    if bare:
        lines.append(
            f"{folder}: slides without annotations, whose patches {what}: {len(bare)} of "
            f"{len(slide_ids)}: {listed(map(repr, bare))}"
        )
    return lines


def _classes_in(files: Mapping[str, AnnotationFile], bags: BagSet) -> set[str]:
    """The classes of all polygons; all files are read, and the bad ones told at once."""
    there: set[str] = set()
    problems: dict[str, str] = {}
    for slide_id, file in files.items():
        try:
            polygons = read_annotations(file, bags.store(slide_id).info)
            there |= {name for name in map(class_of, polygons) if name is not None}
        except AnnotationError as error:
            problems[file.path.name] = str(error)
    if problems:
        first, *others = problems.values()
        also = f" (also: {listed(list(problems)[1:])})" if others else ""
        raise AnnotationError(f"{first}; or take the file away{also}")
    return there


def _chosen(folder: Path, there: set[str], asked: Sequence[str]) -> tuple[str, ...]:
    """The classes that count."""
    if not there:
        raise AnnotationError(
            f"--annotations {folder}: its files show no polygon of any class; annotate what is to "
            "be found"
        )
    for name in asked:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"there is {listed(sorted(there))}"
            raise ConfigError(f"dense.classes: no polygon in {folder} is {name!r}; {hint}")
    return tuple(asked) or tuple(sorted(there))


def _count(
    slide_ids: Iterable[str], labels: PatchLabels, bags: BagSet, dense: DenseConfig
) -> Counter[str]:
    """Patches of each class; ``not known`` for the others."""
    counts: Counter[str] = Counter()
    names = {UNKNOWN: "not known", **dict(enumerate(dense.names))}
    for slide_id in slide_ids:
        store = bags.store(slide_id)
        for label in labels.of(store.info, store.grid)[store.valid].tolist():
            counts[names[label]] += 1
    return counts


def _in_words(side: str, counts: Counter[str]) -> str:
    inside = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{side} {counts.total()}" + (f" ({inside})" if inside else "")
