"""Folders, files and manifests in; one record per slide out."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from wsi_hr.cohort.manifest import SlideRecord, find_slides
from wsi_hr.errors import LabelError, SlideError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path))  # all different
    return path


def names(records: list[SlideRecord]) -> dict[str, str]:
    return {record.slide_id: record.path.name for record in records}


def test_folders_are_searched_and_sorted(tmp_path, caplog):
    for name in (
        "b.svs",
        "a.tif",
        "deep/er/c.NDPI",
        "notes.docx",
        "data.xml",
        "more.xml",
        ".x.svs",
    ):
        touch(tmp_path / name)
    with caplog.at_level(logging.INFO, "wsi_hr.cohort.manifest"):
        records = find_slides([tmp_path])
    assert [record.slide_id for record in records] == ["a", "b", "c"]
    assert all(record.problem is None and record.mpp is None for record in records)
    assert "2 x .xml" in caplog.text
    assert "1 x .docx" in caplog.text


def test_a_named_file_is_tried_whatever_its_suffix(tmp_path):
    records = find_slides([touch(tmp_path / "scan.weird")])
    assert names(records) == {"scan": "scan.weird"} or names(records) == {
        "scan.weird": "scan.weird"
    }
    assert records[0].problem is None


def test_inputs_that_are_not_there_are_refused_by_their_names(tmp_path):
    """A mistyped name is a wrong request; of a manifest's rows each is a slide of its own."""
    there = touch(tmp_path / "a.svs")
    (tmp_path / "link.svs").symlink_to(tmp_path / "nowhere.svs")
    mistyped = [tmp_path / "slidess", tmp_path / "b.svs", tmp_path / "link.svs"]
    names_of_all = ", ".join(map(str, mistyped))
    with pytest.raises(SlideError, match=f"^{names_of_all}: no such file or folder; correct"):
        find_slides([mistyped[0], there, *mistyped[1:]])


def test_what_is_neither_file_nor_folder_is_listed_with_its_problem(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")
    (record,) = find_slides([tmp_path / "pipe.svs"])
    assert (record.slide_id, record.redundant) == ("pipe", False)
    assert record.problem == f"{tmp_path / 'pipe.svs'}: neither a file nor a folder"


def test_an_empty_folder_has_no_slides(tmp_path):
    assert find_slides([tmp_path]) == []


def test_equal_stems_never_share_an_id(tmp_path):
    for name in ("one/s.svs", "two/s.svs", "two/t.svs", "x/one/u.svs", "y/one/u.svs"):
        touch(tmp_path / name)
    records = find_slides([tmp_path])
    assert sorted(record.slide_id for record in records) == [
        "one_s", "t", "two_s", "x_one_u", "y_one_u",
    ]  # fmt: skip


def test_equal_stems_in_one_folder_keep_their_suffix(tmp_path):
    for name in ("s.svs", "s.tif", "S.ndpi"):
        touch(tmp_path / name)
    assert names(find_slides([tmp_path])) == {
        "s.svs": "s.svs",
        "s.tif": "s.tif",
        "S.ndpi": "S.ndpi",
    }


def test_ids_are_unique_even_when_prefixes_collide(tmp_path):
    for name in ("a/b_s.svs", "a_b/s.svs", "c/s.svs", "d/b_s.svs"):
        touch(tmp_path / name)
    records = find_slides([tmp_path])
    ids = {record.slide_id.casefold() for record in records}
    assert len(ids) == len(records) == 4


def test_letter_case_and_unicode_form_do_not_make_ids_different(tmp_path):
    touch(tmp_path / "one/\u00e9.svs")
    touch(tmp_path / "two/e\u0301.svs")
    touch(tmp_path / "one/Abc.svs")
    touch(tmp_path / "two/aBC.svs")
    assert sorted(record.slide_id[:4] for record in find_slides([tmp_path])) == [
        "one_", "one_", "two_", "two_",
    ]  # fmt: skip


def test_very_long_names_leave_room_for_the_stores_suffix(tmp_path):
    touch(tmp_path / ("x" * 249 + ".svs"))
    touch(tmp_path / ("x" * 248 + "y.svs"))
    records = find_slides([tmp_path])
    assert len({record.slide_id for record in records}) == 2
    assert all(len(os.fsencode(record.slide_id + ".zarr.tmp")) <= 255 for record in records)


def test_the_same_file_reached_twice_is_worked_on_once(tmp_path):
    slide = touch(tmp_path / "f/s.svs")
    (tmp_path / "f/link.svs").symlink_to(slide)
    records = find_slides([tmp_path / "f", slide])
    assert len(records) == 3
    (worked,) = [record for record in records if record.problem is None]
    redundant = [record for record in records if record.redundant]
    assert len(redundant) == 2
    assert all("the same file as" in str(record.problem) for record in redundant)
    assert worked.slide_id in ("link", "s"), "a repetition does not change a slide's id"
    assert len({record.slide_id for record in records}) == 3


def test_links_are_followed_and_circles_end(tmp_path):
    outside = touch(tmp_path / "outside/o.svs")
    touch(tmp_path / "in/a.svs")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/out").symlink_to(outside.parent, target_is_directory=True)
    (tmp_path / "in/broken.svs").symlink_to(tmp_path / "nowhere.svs")
    records = {record.slide_id: record for record in find_slides([tmp_path / "in"])}
    assert records.keys() == {"a", "o", "broken"}
    assert records["a"].problem is records["o"].problem is None
    assert "cannot be read" in str(records["broken"].problem)


def test_the_folder_beside_an_mrxs_is_no_place_for_slides(tmp_path):
    touch(tmp_path / "m.mrxs")
    touch(tmp_path / "m/Data0000.tif")
    touch(tmp_path / "other/n.tif")
    assert [record.slide_id for record in find_slides([tmp_path])] == ["m", "n"]


@pytest.mark.data
def test_a_dicom_series_is_one_slide(shared_data):
    records = {r.slide_id: r for r in find_slides([shared_data / "slides/dicom"])}
    assert len(records) == 3
    assert records["boxes_0"].problem is None
    assert records["boxes_1"].redundant
    assert "boxes_0.dcm" in str(records["boxes_1"].problem)


def manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_manifest_names_slides_relative_to_itself(tmp_path):
    touch(tmp_path / "raw/a.svs")
    touch(tmp_path / "b.tif")
    absolute = touch(tmp_path / "elsewhere/c.svs")
    path = manifest(tmp_path, f"wsi,mpp\nraw/a.svs,0.25\nb,\n{absolute},0.5\n")
    records = find_slides([path])
    assert {r.slide_id: (r.path.name, r.mpp, r.problem) for r in records} == {
        "a": ("a.svs", 0.25, None),
        "b": ("b.tif", None, None),
        "c": ("c.svs", 0.5, None),
    }


def test_a_manifest_as_german_excel_saves_it(tmp_path):
    touch(tmp_path / "a.svs")
    path = manifest(tmp_path, "Slide ID;MPP\r\na.svs;0,25\r\n\r\n", "utf-8-sig")
    (record,) = find_slides([path])
    assert (record.slide_id, record.mpp) == ("a", 0.25)


def test_a_path_column_and_an_id_column(tmp_path):
    touch(tmp_path / "x/scan1.svs")
    path = manifest(tmp_path, "slide_id,image_path\nTCGA-05.d4ff-32cd,x/scan1.svs\n")
    (record,) = find_slides([path])
    assert (record.slide_id, record.path.name) == ("TCGA-05.d4ff-32cd", "scan1.svs")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "abc"])
def test_an_impossible_mpp_is_that_slides_problem(tmp_path, value):
    touch(tmp_path / "a.svs")
    touch(tmp_path / "b.svs")
    path = manifest(tmp_path, f"slide,mpp\na.svs,{value}\nb.svs,0.5\n")
    a, b = find_slides([path])
    assert b.problem is None
    assert "line 2" in str(a.problem)
    assert repr(value) in str(a.problem)


def test_manifest_rows_that_lead_nowhere_are_listed(tmp_path):
    touch(tmp_path / "two.svs")
    touch(tmp_path / "two.tif")
    (tmp_path / "folder.svs").mkdir()
    path = manifest(tmp_path, "slide\ngone.svs\ntwo\nfolder.svs\n")
    problems = {r.slide_id: str(r.problem) for r in find_slides([path])}
    assert "no such file" in problems["gone"]
    assert "two.svs or two.tif" in problems["two"]
    assert "a folder" in problems["folder"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slide,mpp\n", "lists no slide"),
        ("patient,label\np,1\n", "no slide column"),
        ("slide,mpp\n,0.5\n", "line 2"),
    ],
)
def test_an_unusable_manifest_is_refused(tmp_path, text, says):
    with pytest.raises(LabelError, match=says):
        find_slides([manifest(tmp_path, text)])
