"""The table of what quality control found: a row per slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.status import has_store, plain_rows
from wsi_hr.cohort.table import read_table, write_table
from wsi_hr.errors import LabelError
from wsi_hr.geometry import ARTIFACTS, QcSummary
from wsi_hr.remote import Place

QC_FILE = "qc.csv"
QC_COLUMNS = (
    "slide_id",
    "status",
    "mask",
    "tissue_mm2",
    "pen",
    "blur",
    "fold",
    "bubble",
    "num_patches",
    "left_out",
)


def write_qc(
    store: Place,
    statuses: Sequence[Mapping[str, str]],
    found: Mapping[str, tuple[str, QcSummary | None]],
) -> list[dict[str, str]]:
    """Write ``qc.csv``: a row per row of ``status.csv``, then those of earlier slides.

    Args:
        store: folder of the stores.
        statuses: rows of ``status.csv``, of this run.
        found: what drew the mask and what it shows, by slide; a slide that failed has neither.

    Returns:
        All rows of the file; an earlier slide's is kept as long as its store is there.
    """
    rows = [_row(status, *found.get(status["slide_id"], ("", None))) for status in statuses]
    known = {row["slide_id"] for row in rows}
    others = [
        row
        for row in _read(store / QC_FILE)
        if row["slide_id"] not in known and has_store(store, row["slide_id"])
    ]
    everything = [*rows, *others]
    write_table(store / QC_FILE, QC_COLUMNS, everything)
    return everything


def _row(status: Mapping[str, str], mask: str, qc: QcSummary | None) -> dict[str, str]:
    row: dict[str, str] = dict.fromkeys(QC_COLUMNS, "")
    row |= {key: status[key] for key in ("slide_id", "status", "num_patches")}
    if qc is not None:
        row |= {key: f"{getattr(qc, key):.4f}" for key in ARTIFACTS}
        row |= {"mask": mask, "tissue_mm2": f"{qc.tissue_mm2:.2f}", "left_out": str(qc.left_out)}
    return row


def _read(path: Place) -> list[dict[str, str]]:
    """The rows an earlier run left; none where there is no usable table.

    Raises:
        ReadError: it cannot be read just now, and would be lost.
    """
    try:
        table = read_table(path)
    except LabelError:
        return []
    if not set(QC_COLUMNS) <= set(table.columns):
        return []
    return [{key: row[key] for key in QC_COLUMNS} for row in plain_rows(path, table.rows)]
