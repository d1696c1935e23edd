"""The table of what quality control found: a row per slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wsi_hr.cohort.table import read_table, write_table
from wsi_hr.errors import LabelError
from wsi_hr.geometry import QcSummary
from wsi_hr.store.patch_store import STORE_SUFFIX, is_complete

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


def qc_row(status: Mapping[str, str], mask: str, qc: QcSummary | None) -> dict[str, str]:
    """One row, as text; without numbers where the slide did not come so far.

    Args:
        status: the slide's row of ``status.csv``.
        mask: what drew the mask.
        qc: what was found; None: the slide failed.
    """
    row: dict[str, str] = dict.fromkeys(QC_COLUMNS, "")
    row |= {key: status[key] for key in ("slide_id", "status", "num_patches")}
    if qc is None:
        return row
    parts = {key: f"{getattr(qc, key):.4f}" for key in ("pen", "blur", "fold", "bubble")}
    return (
        row
        | parts
        | {
            "mask": mask,
            "tissue_mm2": f"{qc.tissue_mm2:.2f}",
            "left_out": str(qc.left_out),
        }
    )


def write_qc(store: Path, rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Write ``qc.csv``: these rows, then those of earlier slides whose store is there.

    Returns:
        All rows of the file.
    """
    known = {row["slide_id"] for row in rows}
    try:
        earlier = read_table(store / QC_FILE)
        usable = earlier.rows if set(QC_COLUMNS) <= set(earlier.columns) else []
    except (LabelError, OSError):
        usable = []
    others = [
        {key: row[key] for key in QC_COLUMNS}
        for row in usable
        if row["slide_id"] not in known and is_complete(store / f"{row['slide_id']}{STORE_SUFFIX}")
    ]
    everything = [*map(dict, rows), *others]
    write_table(store / QC_FILE, QC_COLUMNS, everything)
    return everything
