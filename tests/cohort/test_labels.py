from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from wsi_hr.cohort.labels import LabelRow, Labels, load_labels
from wsi_hr.errors import LabelError

SLIDES = ("a", "b", "c")


def _load(folder: Path, text: str, slide_ids: tuple[str, ...] = SLIDES, **columns: str) -> Labels:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return load_labels(path, slide_ids, **columns)


def _refusal(folder: Path, text: str, slide_ids: tuple[str, ...] = SLIDES, **columns: str) -> str:
    with pytest.raises(LabelError) as caught:
        _load(folder, text, slide_ids, **columns)
    assert "labels.csv" in str(caught.value)
    return str(caught.value)


def _labels(labels: Labels) -> dict[str, str]:
    return {row.slide_id: row.label for row in labels.rows}


def _warning(labels: Labels, clue: str) -> str:
    found = [text for text in labels.warnings if clue in text]
    assert len(found) == 1, labels.warnings
    return found[0]


def test_a_clean_table_gives_labels_and_no_warning(tmp_path: Path) -> None:
    labels = _load(
        tmp_path,
        "Case ID,Slide ID,Label,Split\nP1,b,tumor,training\nP1,a,normal,train\nP2,c,tumor,valid\n",
    )
    assert labels.classes == ("normal", "tumor")
    assert labels.rows == (
        LabelRow("a", "normal", "P1", "train"),
        LabelRow("b", "tumor", "P1", "train"),
        LabelRow("c", "tumor", "P2", "val"),
    )
    assert labels.warnings == ()
    for clue in ("slide = column 'Slide ID'", "label = column 'Label'", "patient = column 'Case"):
        assert clue in labels.mapping
    assert "split = column 'Split'" in labels.mapping


@pytest.mark.parametrize(
    ("text", "options"),
    [
        pytest.param("case_id,slide_id,label\nP,a,x\nP,b,y\n", {}, id="clam"),
        pytest.param(
            "PATIENT;FILENAME;isMSIH\nP;a.h5;x\nP;b.h5;y\n", {"label_column": "isMSIH"}, id="stamp"
        ),
        pytest.param("patient,slide,outcome,site\nP,a,x,1\nP,b,y,2\n", {}, id="slideflow"),
        pytest.param("wsi,mpp,label,patient\na.svs,1,x,P\nb.svs,1,y,P\n", {}, id="trident"),
        pytest.param(
            "sample_id,image_path,label,patient\na,/d/1.svs,x,P\nb,/d/2.svs,y,P\n", {}, id="hs2p"
        ),
        pytest.param("image_path,label,patient\n/d/a.svs,x,P\n/d/b.svs,y,P\n", {}, id="paths"),
    ],
)
def test_tables_labs_have(tmp_path: Path, text: str, options: dict[str, str]) -> None:
    labels = _load(tmp_path, text, ("a", "b"), **options)
    assert _labels(labels) == {"a": "x", "b": "y"}
    assert {row.patient_id for row in labels.rows} == {"P"}
    assert labels.warnings == ()


@pytest.mark.parametrize(
    "cell",
    ["s.1", " s.1 ", "s.1.svs", "s.1.SVS", "s.1.ome.tif", "s.1.ome", "/data/x/s.1.ndpi",
     "x\\s.1.svs", "C:\\data\\s.1.svs", "s.1.zarr", "s.1.pt", "\u00a0s.1\t"],
)  # fmt: skip
def test_cells_that_name_a_slide(tmp_path: Path, cell: str) -> None:
    labels = _load(tmp_path, f'slide,label\n"{cell}",x\nt,y\n', ("s.1", "t"))
    assert _labels(labels) == {"s.1": "x", "t": "y"}


def test_accents_match_in_either_form(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Grüße")
    labels = _load(tmp_path, "slide,label\nGr\u00fc\u00dfe,x\nt,y\n", (decomposed, "t"))
    assert _labels(labels) == {decomposed: "x", "t": "y"}


def test_a_version_number_is_no_suffix(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\np.2,x\na,x\nb,y\n", ("p", "a", "b"))
    assert set(_labels(labels)) == {"a", "b"}
    assert "'p.2' (line 2)" in _warning(labels, "name a slide that is not there")


# rows of FAULTS.md, section C


def test_repeated_rows_that_agree_are_reported(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,x\nb,y\na.svs,x\nc,x\n")
    assert _labels(labels) == {"a": "x", "b": "y", "c": "x"}
    assert "'a' (lines 2, 4)" in _warning(labels, "more than once")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("a,x,P,train\nb,y,Q,train\na,y,P,train\n", "label 'x' on line 2 and 'y' on line 4"),
        ("a,x,P,train\nb,y,Q,train\na,,P,train\n", "label 'x' on line 2 and '' on line 4"),
        ("a,x,P,train\nb,y,Q,train\na,x,R,train\n", "patient 'P' on line 2 and 'R' on line 4"),
        ("a,x,P,train\nb,y,Q,train\na,x,P,test\n", "split 'train' on line 2 and 'test' on line 4"),
    ],
)
def test_rows_that_contradict_each_other(tmp_path: Path, rows: str, what: str) -> None:
    message = _refusal(tmp_path, "slide,label,patient,split\n" + rows)
    assert f"slide 'a' has {what}" in message


def test_unknown_slides_and_slides_without_label_are_reported_both_ways(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,x\nb,y\nzz,x\nyy,x\n")
    assert _labels(labels) == {"a": "x", "b": "y"}
    assert "2: 'zz' (line 4), 'yy' (line 5)" in _warning(labels, "slide that is not there")
    assert "1: 'c'" in _warning(labels, "slides without a row")


def test_long_lists_are_cut_with_their_number(tmp_path: Path) -> None:
    slides = tuple(f"s{index}" for index in range(20))
    labels = _load(tmp_path, "slide,label\ns0,x\ns1,y\n", slides)
    assert "18: 's10', 's11', 's12', 's13', 's14' and 13 more" in _warning(labels, "without a row")


def test_an_empty_file(tmp_path: Path) -> None:
    assert "is empty" in _refusal(tmp_path, "")


def test_a_header_alone(tmp_path: Path) -> None:
    assert "column 'slide' names no slide" in _refusal(tmp_path, "slide,label\n")


def test_one_class(tmp_path: Path) -> None:
    assert "only the class 'x'" in _refusal(tmp_path, "slide,label\na,x\nb,x\nc,\nzz,y\n")


def test_no_label_at_all(tmp_path: Path) -> None:
    assert "no label" in _refusal(tmp_path, "slide,label\na,\nb, \n")


def test_a_slide_called_007(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label,patient\n007,x,P\n7,y,Q\n", ("007", "7"))
    assert _labels(labels) == {"007": "x", "7": "y"}
    assert labels.warnings == ()


@pytest.mark.parametrize("cell", ["7", "07", "7.0", "7,0", "7.svs"])
def test_a_lost_zero_is_named_and_not_mended(tmp_path: Path, cell: str) -> None:
    labels = _load(tmp_path, f'slide,label\n"{cell}",x\na,x\nb,y\n', ("007", "a", "b"))
    assert "007" not in _labels(labels)
    warning = _warning(labels, "slide that is not there")
    assert f"{cell!r} (line 2: slide '007'? Excel drops leading zeros)" in warning


@pytest.mark.parametrize("cell", ["1.2E+11", "1,2E+11", "1.23457e+14", "1E+05"])
def test_a_shortened_number_is_named(tmp_path: Path, cell: str) -> None:
    labels = _load(tmp_path, f'slide,label\n"{cell}",x\na,x\nb,y\n')
    assert f"{cell!r} (line 2: Excel shortens long numbers" in _warning(labels, "not there")


@pytest.mark.parametrize(
    "cell", ["2-Jan", "02-Jan-24", "Jan-02", "2. Jan", "02. Mrz 24", "1-févr", "Mai 24"]
)
def test_a_date_that_was_none_is_named(tmp_path: Path, cell: str) -> None:
    labels = _load(tmp_path, f"slide,label\n{cell},x\na,x\nb,y\n")
    assert f"{cell!r} (line 2: Excel makes dates" in _warning(labels, "not there")


@pytest.mark.parametrize("slide_id", ["1.2E+11", "2-Jan", "7"])
def test_what_looks_damaged_but_is_the_name_of_a_slide_fits(tmp_path: Path, slide_id: str) -> None:
    labels = _load(tmp_path, f"slide,label,patient\n{slide_id},x,P\nb,y,Q\n", (slide_id, "b"))
    assert _labels(labels) == {slide_id: "x", "b": "y"}
    assert labels.warnings == ()


def test_damaged_patients_and_labels_are_named(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label,patient\na,2-Jan,1.2E+11\nb,3-4,P\nc,3-4,1.2E+11\n")
    assert "'label' looks damaged: '2-Jan' (line 2" in _warning(labels, "column 'label' looks")
    said = _warning(labels, "column 'patient' looks")
    assert "'1.2E+11' (line 2: Excel shortens" in said
    assert "; also line 4)" in said


@pytest.mark.parametrize("cell", ["2024-01-02", "02.01.2024", "1/2/24", "2024-01-02 00:00:00"])
def test_dates_and_the_numbers_of_dates_are_named(tmp_path: Path, cell: str) -> None:
    labels = _load(tmp_path, f"slide,label,patient\na,x,{cell}\nb,44927,Q\nc,x,{cell}\n")
    assert [row.patient_id for row in labels.rows] == [cell, "Q", cell]
    said = _warning(labels, "column 'patient' looks damaged")
    assert said.endswith("; each counts as a patient")
    assert f"{cell!r} (line 2: Excel makes dates" in said
    assert "; also line 4)" in said
    said = _warning(labels, "column 'label' looks damaged")
    assert said.endswith("; each counts as a class")
    assert "'44927' (line 3: Excel keeps the date 2023-01-01 as this number" in said


def test_patients_that_may_be_one_are_named(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label,patient\na,x,007\nb,y,7\nc,y,8\n")
    assert "'007' and '7' (lines 2 and 3: leading zeros" in _warning(labels, "leading zeros")
    assert [row.patient_id for row in labels.rows] == ["007", "7", "8"]


def test_labels_that_may_be_one_are_named(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,Tumor\nb,tumor\nc,tumor\n")
    assert labels.classes == ("Tumor", "tumor")
    assert "'Tumor' and 'tumor' (lines 2 and 3, 4: letter" in _warning(labels, "letter case")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Lung adeno", "Lung  adeno"),
        ("Lung adeno", "Lung\u00a0adeno"),
        ("Lung adeno", "\u2009Lung\u202f adeno\u3000"),
        ("Lung adeno", "Lung\tadeno\r\n"),
        ("Grüße", unicodedata.normalize("NFD", "Grüße")),
    ],
)
def test_labels_and_patients_are_compared_by_what_is_read(
    tmp_path: Path, first: str, second: str
) -> None:
    text = f'slide,label,patient\na,{first},{second}\nb,"{second}","{first}"\nc,y,Q\n'
    labels = _load(tmp_path, text)
    assert labels.classes == (first, "y")
    assert [row.patient_id for row in labels.rows] == [second.strip(), second.strip(), "Q"]
    assert labels.warnings == ()


def test_rows_of_a_slide_agree_by_what_is_read(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label,patient\na,x y,P\nb,z,Q\na,x\u00a0 y,P\nc,z,Q\n")
    assert labels.classes == ("x y", "z")
    assert "'a' (lines 2, 4)" in _warning(labels, "more than once")


def test_slides_whose_names_differ_in_blanks_are_told_apart_by_the_exact_name(
    tmp_path: Path,
) -> None:
    labels = _load(tmp_path, "slide,label\na  b,x\na b,y\n", ("a b", "a  b"))
    assert _labels(labels) == {"a  b": "x", "a b": "y"}
    message = _refusal(tmp_path, "slide,label\na\u00a0b,x\nc,y\n", ("a b", "a  b", "c"))
    assert "line 2: slide 'a\\xa0b' could be 'a  b', 'a b'" in message


@pytest.mark.parametrize(
    ("cell", "slide", "why"),
    [
        ("case-01", "case_1", "dashes, underscores or blanks differ and leading zeros"),
        ("case\u200b1", "case1", "characters that are not seen differ"),
        ("CASE1.svs", "case1", "letter case differs"),
        ("case\u20131", "case-1", "dashes, underscores or blanks differ"),
    ],
)
def test_a_slide_that_may_be_meant_is_named(
    tmp_path: Path, cell: str, slide: str, why: str
) -> None:
    labels = _load(tmp_path, f"slide,label\n{cell},x\na,x\nb,y\n", (slide, "a", "b"))
    assert slide not in _labels(labels)
    assert f"(line 2: slide {slide!r}? {why}" in _warning(labels, "not there")


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("slide,label,patient\u2011id", "patient = column"),
        ("slide,label,Patient\u00a0ID\u200b", "patient = column"),
        ("slide\ufeff,\uff2c\uff41\uff42\uff45\uff4c,patient", "label = column"),
        ("slide,label,case\u2014id", "patient = column"),
    ],
)
def test_headers_are_compared_by_what_is_read(tmp_path: Path, header: str, what: str) -> None:
    labels = _load(tmp_path, f"{header}\na,x,P\nb,y,P\nc,y,P\n")
    assert what in labels.mapping
    assert {row.patient_id for row in labels.rows} == {"P"}


def test_a_column_of_measurements_is_refused_with_the_way_to_classes(tmp_path: Path) -> None:
    slides = tuple(f"s{index}" for index in range(24))
    rows = "".join(f"{slide},{40 + index % 19}\n" for index, slide in enumerate(slides))
    message = _refusal(tmp_path, f"slide,age\n{rows}", slides, label_column="age")
    for clue in ("'age' holds measurements", "19 different values on 24 slides", "'40', '41'",
                 "names a class for each slide", "--label-column"):  # fmt: skip
        assert clue in message


@pytest.mark.parametrize("name", ["NA", "None", "nan", "NULL", "#N/A", "-"])
def test_a_class_that_others_take_for_nothing(tmp_path: Path, name: str) -> None:
    labels = _load(tmp_path, f"slide,label,patient\na,{name},P\nb,tumor,{name}\nc,{name},P\n")
    assert _labels(labels) == {"a": name, "b": "tumor", "c": name}
    assert labels.rows[1].patient_id == name
    said = _warning(labels, "column 'label' has what often means that nothing is known")
    assert f"{name!r} (lines 2, 4)" in said
    assert f"{name!r} (line 3)" in _warning(labels, "column 'patient' has what often means")


def test_an_empty_label_is_no_label(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,x\nb,y\nc, \n")
    assert _labels(labels) == {"a": "x", "b": "y"}
    assert "'c' (line 4)" in _warning(labels, "empty label")


def test_no_patient_column(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,x\nb,y\nc,y\n")
    assert [row.patient_id for row in labels.rows] == ["a", "b", "c"]
    assert "--patient-column" in _warning(labels, "every slide counts as its own patient")
    assert "patient = none" in labels.mapping


def test_an_empty_patient(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label,patient\na,x,P\nb,y,\nc,y,P\n")
    assert [row.patient_id for row in labels.rows] == ["P", "b", "P"]
    assert "'b' (line 3)" in _warning(labels, "their own patient")


def test_a_row_without_slide(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,x\nb,y\n,y\nc,y\n")
    assert "line 4" in _warning(labels, "nothing in column 'slide'")


def test_windows_1252_is_said(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("slide,label,patient\na,Drüse,P\nb,y,Q\n".encode("cp1252"))
    labels = load_labels(path, ("a", "b"))
    assert labels.classes == ("Drüse", "y")
    assert "UTF-8" in _warning(labels, "Windows-1252")


def test_a_workbook(tmp_path: Path) -> None:
    path = tmp_path / "labels.xlsx"
    path.write_bytes(b"PK\x03\x04\x14\0\x06\0")
    with pytest.raises(LabelError, match=r"labels\.xlsx: is an Excel.*save the sheet as CSV"):
        load_labels(path, SLIDES)


def test_whole_numbers_are_in_their_order(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,isup_grade\na,10\nb,9\nc,0\n", label_column="isup_grade")
    assert labels.classes == ("0", "9", "10")


# matching and columns


def test_nothing_fits(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "slide,label\nT-1,x\nT-2,y\nT-3,y\n", ("case_1", "case_2", "z"))
    for clue in ("'T-1' (line 2)", "'T-2' (line 3)", "'case_1'", "'case_2'", "--slide-column"):
        assert clue in message
    assert "T-3" not in message


def test_nothing_fits_because_zeros_are_lost(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "slide,label\n1,x\n2,y\n", ("001", "002"))
    assert "Excel drops leading zeros" in message


def test_letter_case_is_not_mended_but_named(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\nA,x\nb,y\nc,x\n")
    assert set(_labels(labels)) == {"b", "c"}
    assert "'A' (line 2: slide 'a'? letter case differs)" in _warning(labels, "not there")


@pytest.mark.parametrize(
    ("ids", "cell"),
    [
        (("lung_a", "skin_a"), "a"),
        (("lung_a", "skin_a"), "a.svs"),
        (("lung__a", "skin__a"), "a"),
        (("x_lung_a", "y_lung_a"), "a.ome.tif"),
        (("a.svs", "a.ndpi"), "a"),
    ],
)
def test_a_stem_that_several_files_share(tmp_path: Path, ids: tuple[str, str], cell: str) -> None:
    message = _refusal(tmp_path, f"slide,label\n{cell},x\nb,y\n", (*ids, "b"))
    assert f"line 2: slide {cell!r} could be" in message
    assert all(repr(slide_id) in message for slide_id in ids)


@pytest.mark.parametrize("joint", ["_", "__"])
@pytest.mark.parametrize("root", ["", "/data/", "C:\\data\\"])
def test_the_folder_tells_files_of_one_stem_apart(tmp_path: Path, joint: str, root: str) -> None:
    ids = (f"lung{joint}a", f"skin{joint}a")
    labels = _load(tmp_path, f"slide,label\n{root}skin/a.svs,x\n{root}lung/a,y\n", ids)
    assert _labels(labels) == {f"skin{joint}a": "x", f"lung{joint}a": "y"}


def test_the_suffix_tells_files_of_one_stem_apart(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na.svs,x\n/d/a.ndpi,y\n", ("a.svs", "a.ndpi"))
    assert _labels(labels) == {"a.svs": "x", "a.ndpi": "y"}


def test_an_absent_slide_is_not_ambiguous_when_the_others_have_rows(tmp_path: Path) -> None:
    text = "slide,label\n1,x\ncase_1,x\nother_1,y\n"
    labels = _load(tmp_path, text, ("case_1", "other_1"))
    assert _labels(labels) == {"case_1": "x", "other_1": "y"}


def test_a_single_namesake_is_a_hint_and_no_match(tmp_path: Path) -> None:
    labels = _load(tmp_path, "slide,label\na,x\nb,y\nc,x\n", ("lung_a", "b", "c"))
    assert set(_labels(labels)) == {"b", "c"}
    assert "'a' (line 2: slide 'lung_a'?)" in _warning(labels, "not there")


@pytest.mark.parametrize(
    ("header", "first", "second", "what"),
    [
        ("slide,filename,label,patient", "slide", "filename", "slide"),
        ("slide,label,class,patient", "label", "class", "label"),
        ("slide,label,patient,case_id", "patient", "case_id", "patient"),
    ],
)
def test_ambiguous_columns_and_the_option_that_chooses(
    tmp_path: Path, header: str, first: str, second: str, what: str
) -> None:
    text = f"{header}\na,b,c,d\nb,a,d,c\n"
    message = _refusal(tmp_path, text)
    for clue in (repr(first), repr(second), f"--{what}-column"):
        assert clue in message
    for chosen in (first, second):
        labels = _load(tmp_path, text, ("a", "b"), **{f"{what}_column": chosen})
        assert f"{what} = column {chosen!r}" in labels.mapping


def test_an_option_names_the_column_exactly_or_nearly(tmp_path: Path) -> None:
    text = "slide,My Grade,my_grade\na,x,1\nb,y,2\n"
    assert _load(tmp_path, text, label_column="My Grade").classes == ("x", "y")
    assert _load(tmp_path, text, label_column="my_grade").classes == ("1", "2")
    assert "--label-column" in _refusal(tmp_path, text, label_column="MYGRADE")
    near = _load(tmp_path, "slide,My Grade\na,x\nb,y\n", label_column="my-grade")
    assert near.classes == ("x", "y")


@pytest.mark.parametrize("what", ["slide", "label", "patient"])
def test_an_option_that_names_no_column(tmp_path: Path, what: str) -> None:
    options = {f"{what}_column": "nowhere"}
    message = _refusal(tmp_path, "slide,label\na,x\nb,y\n", SLIDES, **options)
    for clue in ("nowhere", "'slide', 'label'", f"--{what}-column"):
        assert clue in message


@pytest.mark.parametrize(("header", "what"), [("who,label", "slide"), ("slide,who", "label")])
def test_a_missing_column(tmp_path: Path, header: str, what: str) -> None:
    message = _refusal(tmp_path, f"{header}\na,x\nb,y\n")
    assert f"no {what} column" in message
    assert f"--{what}-column" in message


def test_an_unknown_split(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "slide,label,split\na,x,train\nb,y,fold2\n")
    assert "line 3: 'fold2' in column 'split'" in message


@pytest.mark.parametrize(
    ("text", "split"),
    [("Training", "train"), ("VALID", "val"), ("validation", "val"), ("Tuning", "val"),
     ("held-out", "test"), ("hold out", "test"), ("testing", "test"), ("", None)],
)  # fmt: skip
def test_split_names(tmp_path: Path, text: str, split: str | None) -> None:
    labels = _load(tmp_path, f"slide,label,split\na,x,{text}\nb,y,{text}\n")
    assert {row.split for row in labels.rows} == {split}


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    forwards = _load(tmp_path, "slide,label\na,x\nb,y\nc,x\n")
    assert _load(tmp_path, "slide,label\nc,x\nb,y\na,x\n", ("c", "a", "b")) == forwards
