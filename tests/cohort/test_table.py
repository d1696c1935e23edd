from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.cohort.table import (
    LABEL_ALIASES,
    MPP_ALIASES,
    PATIENT_ALIASES,
    SLIDE_ALIASES,
    match_column,
    neutralise,
    read_table,
    write_table,
)
from wsi_hr.errors import LabelError

ROWS = [{"slide_id": "007", "label": "Grüße"}, {"slide_id": "b", "label": "NA"}]
TEXT = "slide_id,label\n007,Grüße\nb,NA\n"


def _file(folder: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TEXT.encode(), id="utf-8"),
        pytest.param(TEXT.encode("utf-8-sig"), id="bom"),
        pytest.param(TEXT.encode("utf-16"), id="utf-16"),
        pytest.param(b"\xfe\xff" + TEXT.encode("utf-16-be"), id="utf-16-be"),
        pytest.param(TEXT.encode("utf-16-le"), id="utf-16-without-bom"),
        pytest.param(TEXT.encode("cp1252"), id="cp1252"),
        pytest.param(TEXT.replace(",", ";").encode(), id="semicolon"),
        pytest.param(TEXT.replace(",", "\t").encode(), id="tab"),
        pytest.param(TEXT.replace(",", "\t").encode("utf-16"), id="excel-unicode-text"),
        pytest.param(("sep=;\r\n" + TEXT.replace(",", ";")).encode(), id="separator-line"),
        pytest.param(TEXT.replace("\n", "\r\n").encode(), id="crlf"),
        pytest.param(TEXT.replace("\n", "\r").encode(), id="cr"),
        pytest.param(TEXT.removesuffix("\n").encode(), id="no-last-newline"),
        pytest.param((TEXT + "\n,\n ,\n").encode(), id="trailing-blank-rows"),
        pytest.param(TEXT.replace("\n", ",,\n").encode(), id="trailing-blank-columns"),
        pytest.param(TEXT.replace("label", " label ").encode(), id="blanks-in-header"),
        pytest.param(TEXT.replace("007", '"007"').encode(), id="quoted"),
    ],
)
def test_the_same_table_however_it_was_saved(tmp_path: Path, content: bytes) -> None:
    table = read_table(_file(tmp_path, content))
    assert table.columns == ("slide_id", "label")
    assert table.rows == ROWS


def test_says_when_it_had_to_guess_the_encoding(tmp_path: Path) -> None:
    assert read_table(_file(tmp_path, TEXT.encode("cp1252"))).encoding == "cp1252"
    assert read_table(_file(tmp_path, TEXT)).encoding == "utf-8-sig"


def test_cells_stay_text(tmp_path: Path) -> None:
    cells = ["007", "NA", "None", "nan", "1.2E+11", "2-Jan", "true", "1,5", ""]
    path = _file(tmp_path, "c;x\n" + "".join(f"{cell};y\n" for cell in cells))
    assert [row["c"] for row in read_table(path).rows] == cells


def test_quoted_newlines_and_lines_of_rows(tmp_path: Path) -> None:
    path = _file(tmp_path, 'slide,note\r\na,"two\r\nlines"\r\n\r\nb,"a ""quote"""\r\n')
    table = read_table(path)
    assert [row["note"] for row in table.rows] == ["two\r\nlines", 'a "quote"']
    assert [table.line_of(0), table.line_of(1)] == [2, 5]


def test_lines_count_the_separator_line(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, "sep=;\nslide;label\na;x\n"))
    assert table.line_of(0) == 3


def test_separator_is_told_from_the_rows_when_the_header_is_undecided(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, "slide, id;label\na;x\nb;y\n"))
    assert table.columns == ("slide, id", "label")


def test_separators_inside_quotes_do_not_count(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, 'slide;"size (w, h, z)"\na;"1, 2, 3"\n'))
    assert table.rows == [{"slide": "a", "size (w, h, z)": "1, 2, 3"}]


def test_a_short_row_has_empty_cells(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, "slide,label,,note\na\n"))
    assert table.rows == [{"slide": "a", "label": "", "note": ""}]


def test_a_column_without_name_is_kept_if_it_holds_something(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, ",slide,\n0,a,\n1,b,\n"))
    assert table.columns == ("column 1", "slide")
    assert table.rows[1] == {"column 1": "1", "slide": "b"}


@pytest.mark.parametrize(
    ("content", "clue"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\xef\xbb\xbf\n,,\n", "is empty", id="blank"),
        pytest.param(b"PK\x03\x04rest", "save the sheet as CSV", id="xlsx"),
        pytest.param(b"\xd0\xcf\x11\xe0rest", "save the sheet as CSV", id="xls"),
        pytest.param(b"slide,label\na\0b,c\n", "not text", id="binary"),
        pytest.param(b"slide,label\na\x81b,c\n", "not text", id="no-encoding"),
        pytest.param(b"slide,label\na,b,c\n", "line 2: has 3 cells", id="long-row"),
        pytest.param(b'slide,label\na,b\nc,"d\ne,f\n', "line 3", id="open-quote"),
        pytest.param(b'slide,label\na,b\n"c"d,e\n', "line 3", id="text-after-quote"),
        pytest.param(b"label,slide,label\na,b,c\n", "two columns are called 'label'", id="twins"),
    ],
)
def test_refuses_what_is_no_table(tmp_path: Path, content: bytes, clue: str) -> None:
    with pytest.raises(LabelError, match=clue) as caught:
        read_table(_file(tmp_path, content, "labels.xlsx"))
    assert "labels.xlsx" in str(caught.value)


def test_an_open_quote_in_a_large_file_is_still_placed(tmp_path: Path) -> None:
    path = _file(tmp_path, 'slide,label\na,"b\n' + "x,y\n" * 100_000)
    with pytest.raises(LabelError, match="line 2"):
        read_table(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="No such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(LabelError, match="directory"):
        read_table(tmp_path)


@pytest.mark.parametrize("header", ["slide_id", "SLIDE ID", "Slide-Id", "SlideID", "_slide id_"])
def test_headers_match_whatever_their_dress(tmp_path: Path, header: str) -> None:
    table = read_table(_file(tmp_path, f"{header},x\na,b\n"))
    assert match_column(table, SLIDE_ALIASES, what="slide", required=True) == header


@pytest.mark.parametrize(
    ("header", "slide", "patient", "label"),
    [
        pytest.param("case_id,slide_id,label", "slide_id", "case_id", "label", id="clam"),
        pytest.param("PATIENT,FILENAME", "FILENAME", "PATIENT", None, id="stamp"),
        pytest.param("patient,slide,outcome,site", "slide", "patient", "outcome", id="slideflow"),
        pytest.param("wsi,mpp", "wsi", None, None, id="trident"),
        pytest.param(
            "sample_id,image_path,mask_path,spacing_at_level_0", "sample_id", None, None, id="hs2p"
        ),
    ],
)
def test_tables_labs_have(
    tmp_path: Path, header: str, slide: str, patient: str | None, label: str | None
) -> None:
    table = read_table(_file(tmp_path, f"{header}\na,b,c,d\n"[: len(header) + 2] + "\n"))
    assert match_column(table, SLIDE_ALIASES, what="slide", required=True) == slide
    assert match_column(table, PATIENT_ALIASES, what="patient", required=False) == patient
    assert match_column(table, LABEL_ALIASES, what="label", required=False) == label


@pytest.mark.parametrize("header", ["mpp", "MPP", "spacing_at_level_0"])
def test_mpp_columns(tmp_path: Path, header: str) -> None:
    table = read_table(_file(tmp_path, f"wsi,{header}\na,0.5\n"))
    assert match_column(table, MPP_ALIASES, what="mpp", required=False) == header


def test_two_matching_columns_are_refused_with_the_way_out(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, "slide,File Name,label\na,b,c\n"))
    with pytest.raises(LabelError, match=r"'slide' and 'File Name'.*--slide-column"):
        match_column(table, SLIDE_ALIASES, what="slide", required=False, option="--slide-column")
    with pytest.raises(LabelError, match="rename all but one"):
        match_column(table, SLIDE_ALIASES, what="slide", required=False)


def test_a_missing_column_is_refused_with_what_there_is(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, "who,what\na,b\n"))
    with pytest.raises(LabelError, match=r"'who', 'what'.*--label-column"):
        match_column(table, LABEL_ALIASES, what="label", required=True, option="--label-column")


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "--1", "-1+2", "-", "=", "-1e"]
)
def test_formulas_are_neutralised(cell: str) -> None:
    assert neutralise(cell) == "'" + cell


@pytest.mark.parametrize("cell", ["-1", "+0.5", "-1.5e-07", "-.5", "12", "a-b", "", " ", "a=b"])
def test_what_is_no_formula_is_left_alone(cell: str) -> None:
    assert neutralise(cell) == cell


def test_a_written_file_holds_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_table(path, ["=a", "b"], [{"=a": "=cmd|' /C calc'!A0", "b": "-0.5"}])
    assert path.read_bytes() == b"'=a,b\n'=cmd|' /C calc'!A0,-0.5\n"
    assert read_table(path).rows == [{"=a": "=cmd|' /C calc'!A0", "b": "-0.5"}]


def test_a_header_that_starts_with_a_byte_order_mark_of_its_own(tmp_path: Path) -> None:
    write_table(tmp_path / "out.csv", ["\ufeffa"], [{"\ufeffa": "b"}])
    assert read_table(tmp_path / "out.csv").columns == ("\ufeffa",)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = _file(tmp_path, TEXT)
    with pytest.raises(KeyError):
        write_table(path, ["slide_id", "label"], [ROWS[0], {"slide_id": "b"}])
    assert path.read_text() == TEXT
    assert list(tmp_path.iterdir()) == [path]


# NUL marks a file as binary; lone surrogates are not text
_CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from("=+-@'\"\t\r\n,; 1e.\ufeff"),
    max_size=8,
)


@settings(max_examples=200)
@given(st.data())
def test_any_text_round_trips(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = _CELLS.map(str.strip).filter(bool)
    columns = data.draw(st.lists(names, min_size=1, max_size=4, unique=True))
    row = st.fixed_dictionaries({column: _CELLS for column in columns})
    rows = data.draw(
        st.lists(row.filter(lambda cells: any(map(str.strip, cells.values()))), max_size=5)
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    write_table(path, columns, rows)
    table = read_table(path)
    assert table.columns == tuple(columns)
    assert table.rows == rows
    with path.open(encoding="utf-8", newline="") as handle:  # any other reader: formulas marked
        others = list(csv.reader(handle, strict=True))
    assert others == [
        list(map(neutralise, cells))
        for cells in [columns, *([r[c] for c in columns] for r in rows)]
    ]
