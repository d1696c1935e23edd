"""Reasons of slides whose names are hashed: they say what is wrong, and of nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.nameless import without_names
from wsi_hr.cohort.manifest import SlideRecord

ID = "s3k7q2m5tz4ab"


def told(text: str, path: str, name: str = "") -> str:
    return without_names(text, SlideRecord(ID, Path(path), name=name or Path(path).stem))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("/data/DOE_JANE/DOE 1961.svs: is no slide", f"{ID}: is no slide"),
        ("the reader said 'DOE 1961.svs' is bad", f"the reader said '{ID}' is bad"),
        ("/m/DOE 1961.png: has no tissue", f".../{ID}.png: has no tissue"),
        ("/data/DOE_JANE/a b/DOE 1961.png: bad", f".../ b/{ID}.png: bad"),
        ("/m/DOE 1961.svs.geojson: damaged", f".../{ID}.geojson: damaged"),
        ("/c: has neither DOE 1961.h5 nor DOE 1961_patches.h5", f".../: has neither {ID}.h5 nor "
         f"{ID}_patches.h5"),
        ("DOE_JANE/masks/x.png: damaged", ".../masks/x.png: damaged"),
        ("/data/DOE_JANE/other.dcm: cannot be read", ".../: cannot be read"),
        (f"/data/DOE_JANE/store/{ID}.zarr: exists", f".../{ID}.zarr: exists"),
        ("4 of 24 patches unreadable", "4 of 24 patches unreadable"),
        ("asked 0.5 um/px, and/or CLAM/TRIDENT", "asked 0.5 um/px, and/or CLAM/TRIDENT"),
    ],
)  # fmt: skip
def test_what_names_the_file_goes_and_the_sentence_stays(reason, expected):
    assert told(reason, "/data/DOE_JANE/DOE 1961.svs") == expected


def test_a_name_that_is_a_number_leaves_counts_alone():
    told_of_24 = told("24.svs has 24 of 240 patches; see 24_patches.h5 and 24.h5", "/d/24.svs")
    assert told_of_24 == f"{ID} has 24 of 240 patches; see {ID}_patches.h5 and {ID}.h5"
    assert told("1234567 is bad", "/d/1234567.svs") == f"{ID} is bad", "as long as a record number"


def test_the_name_that_a_manifest_gives_goes_too():
    assert told("slide 'PAT_7' is bad", "/d/scan.svs", name="PAT_7") == f"slide '{ID}' is bad"


def test_names_that_are_not_text_go_in_all_their_forms():
    path = os.fsdecode(b"/data/caf\xe9/DOE\xe9.svs")
    for form in (path, repr(path), os.fsencode(path).decode("utf-8", "backslashreplace")):
        cleaned = told(f"{form}: bad", path)
        assert "DOE" not in cleaned
        assert "caf" not in cleaned


def test_a_relative_path_goes_as_it_was_given_and_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real DOE").mkdir()
    (tmp_path / "real DOE/x.svs").touch()
    (tmp_path / "link").symlink_to("real DOE")
    record = SlideRecord(ID, Path("link/x.svs"), name="x")
    for path in (record.path, record.path.absolute(), record.path.resolve()):
        assert without_names(f"{path}: bad", record) == f"{ID}: bad"


def test_the_other_files_of_a_slide_go_too(tmp_path):
    slide = tmp_path / "case.vms"
    names = ("DOE_JANE-0.jpg", "DOE_JANE-1.jpg")
    for name in names:
        (tmp_path / name).touch()
    slide.write_text("".join(f"ImageFile({i})={name}\n" for i, name in enumerate(names)))
    record = SlideRecord(ID, slide, name="case")
    assert "DOE" not in without_names("Can't open DOE_JANE-1.jpg: DOE_JANE-0 too", record)
