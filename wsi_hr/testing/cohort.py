"""A cohort of synthetic slides: half of them carry a small lesion, at places that are known.

The tissue is real (see :mod:`wsi_hr.testing.texture`); lesions differ in texture, not only in mean
colour (see :mod:`wsi_hr.testing.lesion_texture`); regions of another colour lie in both classes.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from wsi_hr.errors import ConfigError
from wsi_hr.file_names import file_in
from wsi_hr.geometry import Size
from wsi_hr.runtime import rng_for, write_text_atomic
from wsi_hr.testing.lesions import (
    LESIONS_FILE,
    Ellipse,
    Lesions,
    load_cohort_settings,
    load_lesions,
    save_lesions,
)
from wsi_hr.testing.specimen import Drawing, Specimen, design
from wsi_hr.testing.svs import TILE_PX, write_svs

__all__ = ["PlantedSlide", "Lesions", "load_lesions", "make_cohort"]

MPP = 0.5  # um per level-0 px

_FORMAT = 1  # raised when the same settings would draw other pixels
_CLASSES = ("normal", "lesion")
_TEST_SHARE, _VAL_SHARE = 1 / 3, 1 / 8  # of the slides of each class
_SLIDES_FOR_A_PAIR = 5  # a class's part of a split this large has one patient with two slides


@dataclass(frozen=True)
class PlantedSlide:
    """One slide of the cohort.

    Attributes:
        slide_id: stem of the file.
        path: the slide.
        label: ``lesion`` or ``normal``.
        patient_id: a few patients have two slides, on the same side of the split.
        split: ``train``, ``val`` or ``test``.
        lesions_px0: the lesions, level-0 px; none in a normal slide.
        tissue_area_px0: area of the tissue, level-0 px squared.
    """

    slide_id: str
    path: Path
    label: str
    patient_id: str
    split: str
    lesions_px0: tuple[Ellipse, ...]
    tissue_area_px0: float


def make_cohort(
    folder: Path,
    *,
    num_slides: int = 48,
    size_px: int = 6144,
    seed: int = 0,
    workers: int = 1,
    lesion_share: tuple[float, float] = (0.025, 0.047),
    on_slide: Callable[[PlantedSlide], object] | None = None,
) -> list[PlantedSlide]:
    """Make ``slides/*.svs``, ``labels.csv`` and ``lesions.json`` in ``folder``.

    Slides that are there already are kept, so an interrupted call is resumed by repeating it. The
    files depend on ``num_slides``, ``size_px``, ``seed`` and ``lesion_share`` alone.

    Args:
        folder: made if need be.
        num_slides: half of them, rounded down, carry a lesion.
        size_px: edge of every slide, level-0 px of 0.5 um; a multiple of 256.
        seed: of all randomness.
        workers: processes, which import the caller's main module anew; 1: this process.
        lesion_share: least and greatest part of the tissue that is lesion.
        on_slide: called in this thread with each slide as soon as it is there.

    Returns:
        The slides by slide_id.

    Raises:
        ConfigError: ``folder`` holds a cohort that was made with other settings.
        ValueError: a setting is out of range.
    """
    if num_slides < 2:
        raise ValueError(f"num_slides is {num_slides}; a cohort has 2 slides or more")
    if size_px < TILE_PX or size_px % TILE_PX:
        raise ValueError(f"size_px is {size_px}; slides are made of whole tiles of {TILE_PX} px")
    settings = {
        "format": _FORMAT,
        "num_slides": num_slides,
        "size_px": size_px,
        "seed": seed,
        "lesion_share": list(lesion_share),
    }
    if (folder / LESIONS_FILE).exists() and load_cohort_settings(folder) != settings:
        raise ConfigError(f"{folder}: holds another synthetic cohort; choose a new folder")
    specimens: dict[str, Specimen] = {}
    slides: list[PlantedSlide] = []
    for slide_id, label, patient_id, split in _roster(num_slides, seed):
        specimen = design(
            slide_id,
            seed=seed,
            size_px0=size_px,
            diseased=label == "lesion",
            lesion_share=lesion_share,
        )
        specimens[slide_id] = specimen
        slides.append(
            PlantedSlide(
                slide_id=slide_id,
                path=file_in(folder / "slides", slide_id, ".svs", of="slide id"),
                label=label,
                patient_id=patient_id,
                split=split,
                lesions_px0=specimen.planted.lesions,
                tissue_area_px0=specimen.tissue_area_px0,
            )
        )
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    planted = {slide_id: specimen.planted for slide_id, specimen in specimens.items()}
    save_lesions(folder, settings, planted)
    write_text_atomic(folder / "labels.csv", _labels_csv(slides))
    by_id = {slide.slide_id: slide for slide in slides}
    jobs = [(specimens[slide.slide_id], slide.path) for slide in slides]
    for slide_id in _make_slides(jobs, workers):
        if on_slide is not None:
            on_slide(by_id[slide_id])
    return slides


def _make_slides(jobs: list[tuple[Specimen, Path]], workers: int) -> Iterator[str]:
    """Make slides, and name each as soon as it is there."""
    if workers == 1:
        for job in jobs:
            yield _make_slide(*job)
        return
    # Processes: with two threads the many short numpy calls wait for one another.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(_make_slide, *job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _make_slide(specimen: Specimen, path: Path) -> str:
    if not path.exists():  # files appear whole: one that is there is complete
        drawing = Drawing(specimen)
        size = Size(specimen.size_px0, specimen.size_px0)
        write_svs(path, size=size, mpp=MPP, tile_at=drawing.tile_at, glass=drawing.glass)
    return specimen.slide_id


def _roster(num_slides: int, seed: int) -> list[tuple[str, str, str, str]]:
    """(slide_id, label, patient_id, split) of each slide; order says nothing about the class."""
    rng = rng_for(seed, num_slides, "roster")
    places: list[tuple[str, str, int]] = []  # label, split, patient
    num_patients = 0
    for label, count in zip(_CLASSES, (num_slides - num_slides // 2, num_slides // 2), strict=True):
        for split, part in _split_counts(count).items():
            pair = part >= _SLIDES_FOR_A_PAIR
            for index in range(part):
                num_patients += not (pair and index == 1)
                places.append((label, split, num_patients - 1))
    patient_numbers = rng.permutation(num_patients) + 1
    shuffled = [places[index] for index in rng.permutation(num_slides)]
    return [
        (f"slide_{number:03d}", label, f"patient_{patient_numbers[patient]:03d}", split)
        for number, (label, split, patient) in enumerate(shuffled, start=1)
    ]


def _split_counts(count: int) -> dict[str, int]:
    """How many of a class's slides go where; each split gets one before any gets two."""
    test = max(1, round(count * _TEST_SHARE)) if count >= 2 else 0
    val = max(1, round(count * _VAL_SHARE)) if count >= 3 else 0
    return {"train": count - val - test, "val": val, "test": test}


def _labels_csv(slides: list[PlantedSlide]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("slide_id", "label", "patient_id", "split"))
    for slide in slides:
        writer.writerow((slide.slide_id, slide.label, slide.patient_id, slide.split))
    return text.getvalue()
