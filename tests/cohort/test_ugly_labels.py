"""40 label files as labs have them: read right, or refused with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from ugly_labels import UGLY, Ugly

from wsi_hr.cohort.distinct_patients import (
    DistinctPatients,
    read_distinct_patients,
    refuse_twins_apart,
)
from wsi_hr.cohort.labels import Labels, load_labels
from wsi_hr.cohort.splits import make_splits
from wsi_hr.errors import LabelError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "labels.md"


def _read(folder: Path, ugly: Ugly) -> Labels:
    """What train reads, and its refusals before it looks at a store."""
    path = folder / "labels.csv"
    content = ugly.content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    labels = load_labels(path, ugly.slides or tuple(ugly.labels or ()), **ugly.options)
    distinct = DistinctPatients()
    if ugly.distinct is not None:
        (folder / "distinct.csv").write_text(ugly.distinct)
        distinct = read_distinct_patients(folder / "distinct.csv", labels.rows)
    if any(row.split for row in labels.rows):
        sides = make_splits(labels.rows, val=0, test=0, seed=0)
        refuse_twins_apart(labels.rows, sides, distinct)
    return labels


@pytest.mark.parametrize("ugly", UGLY, ids=lambda ugly: ugly.file)
def test_an_ugly_file_is_read_right_or_refused_with_the_way_out(tmp_path: Path, ugly: Ugly) -> None:
    if ugly.labels is None:
        with pytest.raises(LabelError) as caught:
            _read(tmp_path, ugly)
        told = str(caught.value)
    else:
        labels = _read(tmp_path, ugly)
        assert {row.slide_id: row.label for row in labels.rows} == ugly.labels
        patients = {row.slide_id: row.patient_id for row in labels.rows}
        assert patients | ugly.patients == patients
        told = "\n".join([labels.mapping, *labels.warnings])
        assert not (ugly.quiet and labels.warnings)
        assert ugly.quiet or labels.warnings
    for clue in ugly.says:
        assert clue in told


def test_the_page_lists_them_all() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert rows == [
        f"| {number} | {ugly.file} | {ugly.outcome} |" for number, ugly in enumerate(UGLY, start=1)
    ]
    assert len(rows) == 40
