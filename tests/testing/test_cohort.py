from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest

from wsi_hr.errors import ConfigError
from wsi_hr.runtime import sha256_file, temporary_name
from wsi_hr.testing.cohort import PlantedSlide, load_lesions, make_cohort
from wsi_hr.testing.cohort import _roster as roster

NUM, SIZE = 6, 1024


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, list[PlantedSlide]]:
    folder = tmp_path_factory.mktemp("cohort")
    return folder, make_cohort(folder, num_slides=NUM, size_px=SIZE)


def test_openslide_opens_every_slide(cohort):
    _, slides = cohort
    for slide in slides:
        with openslide.OpenSlide(slide.path) as opened:
            assert opened.properties["openslide.vendor"] == "aperio"
            assert float(opened.properties["openslide.mpp-x"]) == 0.5
            assert opened.level_dimensions == ((SIZE, SIZE), (SIZE // 4,) * 2, (SIZE // 16,) * 2)
            image = np.asarray(opened.read_region((0, 0), 1, (SIZE // 4, SIZE // 4)))[..., :3]
        tissue = (image.max(axis=2).astype(int) - image.min(axis=2)) > 12
        assert 0.3 < tissue.mean() < 0.45


def test_tables_say_what_was_drawn(cohort):
    folder, slides = cohort
    with (folder / "labels.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [tuple(row.values()) for row in rows] == [
        (slide.slide_id, slide.label, slide.patient_id, slide.split) for slide in slides
    ]
    assert list(rows[0]) == ["slide_id", "label", "patient_id", "split"]
    planted = load_lesions(folder)
    assert sorted(planted) == sorted(path.stem for path in (folder / "slides").iterdir())
    for slide in slides:
        assert planted[slide.slide_id].lesions == slide.lesions_px0
        assert bool(slide.lesions_px0) == (slide.label == "lesion")
        assert len(planted[slide.slide_id].decoys) == 2
        area = sum(lesion.area_px0 for lesion in slide.lesions_px0)
        if slide.lesions_px0:
            assert 0.02 <= area / slide.tissue_area_px0 <= 0.05


@pytest.mark.parametrize(
    ("num", "expected"),
    [
        (48, {"train": (13, 13), "val": (3, 3), "test": (8, 8)}),
        (8, {"train": (2, 2), "val": (1, 1), "test": (1, 1)}),
        (6, {"train": (1, 1), "val": (1, 1), "test": (1, 1)}),
        (5, {"train": (1, 1), "val": (1, 0), "test": (1, 1)}),
        (2, {"train": (1, 1), "val": (0, 0), "test": (0, 0)}),
    ],
)
def test_splits_hold_both_classes_and_whole_patients(num, expected):
    rows = roster(num, 0)
    assert len({slide_id for slide_id, _, _, _ in rows}) == num
    counts = Counter((split, label) for _, label, _, split in rows)
    for split, (normal, lesion) in expected.items():
        assert (counts[split, "normal"], counts[split, "lesion"]) == (normal, lesion)
    sides: dict[str, set[tuple[str, str]]] = {}
    for _, label, patient_id, split in rows:
        sides.setdefault(patient_id, set()).add((label, split))
    assert all(len(each) == 1 for each in sides.values())


def test_a_few_patients_have_two_slides_and_names_tell_nothing():
    rows = roster(48, 0)
    slides_of = Counter(patient_id for _, _, patient_id, _ in rows)
    assert sorted(slides_of.values()) == [1] * 40 + [2] * 4
    first_half = [label for _, label, _, _ in rows[:24]]
    assert 6 <= first_half.count("lesion") <= 18
    assert rows != roster(48, 1)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_interrupted_cohort_is_resumed_to_the_same_bytes(cohort, tmp_path):
    folder, slides = cohort
    done: list[str] = []

    def stop_after_two(slide: PlantedSlide) -> None:
        done.append(slide.slide_id)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_cohort(tmp_path, num_slides=NUM, size_px=SIZE, on_slide=stop_after_two)
    made = sorted((tmp_path / "slides").iterdir())
    assert [path.stem for path in made] == done
    stray = temporary_name(tmp_path / "slides" / slides[2].path.name)  # a kill leaves it
    stray.write_bytes(b"half")
    before = [path.stat().st_mtime_ns for path in made]
    told: list[str] = []
    again = make_cohort(
        tmp_path, num_slides=NUM, size_px=SIZE, on_slide=lambda slide: told.append(slide.slide_id)
    )
    assert [path.stat().st_mtime_ns for path in made] == before
    assert told == [slide.slide_id for slide in again]
    assert hashes(tmp_path) == hashes(folder)


def test_processes_make_the_same_bytes(cohort, tmp_path):
    folder, slides = cohort
    told: list[PlantedSlide] = []
    made = make_cohort(tmp_path, num_slides=NUM, size_px=SIZE, workers=2, on_slide=told.append)
    assert hashes(tmp_path) == hashes(folder)
    assert sorted(slide.slide_id for slide in told) == [slide.slide_id for slide in made]
    assert [slide.label for slide in made] == [slide.label for slide in slides]


def test_another_cohort_in_the_folder_is_not_mixed_in(cohort):
    folder, _ = cohort
    before = hashes(folder)
    for other in ({"seed": 1}, {"num_slides": 4}, {"size_px": 1280}, {"lesion_share": (0.1, 0.2)}):
        with pytest.raises(ConfigError, match="choose a new folder"):
            make_cohort(folder, **{"num_slides": NUM, "size_px": SIZE, **other})
    assert hashes(folder) == before


@pytest.mark.parametrize("wrong", [{"num_slides": 1}, {"size_px": 1000}, {"size_px": 0}])
def test_settings_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_cohort(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
