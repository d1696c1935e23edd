"""The table in which every slide ends exactly once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping

from pipelines.nameless import without_names
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.cohort.table import read_table, write_table
from wsi_hr.errors import LabelError, StoreReadError
from wsi_hr.file_names import file_in, name_problem
from wsi_hr.remote import Place, RemotePath
from wsi_hr.store.patch_store import STORE_SUFFIX, is_complete

logger = logging.getLogger(__name__)

STATUS_FILE = "status.csv"
STATUS_COLUMNS = (
    "slide_id",
    "path",
    "status",
    "reason",
    "num_patches",
    "mpp",
    "mpp_source",
    "seconds",
)

_WRITE_EVERY_S = 2.0  # a kill costs the table at most this much; slides never get lost, see resume


class StatusTable:
    """The rows of ``status.csv``, kept in the order of the input, written whole every time.

    Slides of earlier runs that are no input of this one keep their row at the end of the file as
    long as their store is there.

    Args:
        folder: where the table and the stores lie.
        slide_ids: the input's slides, in order.
    """

    def __init__(self, folder: Place, slide_ids: Iterable[str]) -> None:
        self._path = folder / STATUS_FILE
        self._order = tuple(slide_ids)
        self._rows: dict[str, dict[str, str]] = {}
        self._written = 0.0
        self.earlier = _read(self._path)
        known = set(self._order)
        self._others = [
            row
            for slide_id, row in self.earlier.items()
            if slide_id not in known and has_store(folder, slide_id)
        ]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows there are so far, in the order of the input."""
        return [self._rows[slide_id] for slide_id in self._order if slide_id in self._rows]

    def note(self, row: Mapping[str, str]) -> None:
        """Add a slide's row; the file is left as it is, for nothing has been done yet."""
        assert row["slide_id"] not in self._rows, "a slide ends exactly once"
        self._rows[row["slide_id"]] = dict(row)

    def put(self, row: Mapping[str, str]) -> None:
        """Add a slide's row; the file follows within two seconds of work."""
        self.note(row)
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()

    @property
    def done(self) -> list[str]:
        """Slides that have a store, those of earlier runs too."""
        rows = [*self.rows, *self._others]
        return [row["slide_id"] for row in rows if row["status"] == "done"]

    def remark(self, slide_id: str, beginning: str, rest: str) -> None:
        """Let the reason of a row have one clause that begins so, or none where ``rest`` is ""."""
        row = self._rows.get(slide_id) or next(r for r in self._others if r["slide_id"] == slide_id)
        clauses = [c for c in row["reason"].split("; ") if c and not c.startswith(beginning)]
        row["reason"] = "; ".join([*clauses, *([f"{beginning}{rest}"] if rest else [])])

    def write(self) -> None:
        """Write the table now, whole or not at all."""
        write_table(self._path, STATUS_COLUMNS, [*self.rows, *self._others])
        self._written = time.monotonic()


def status_row(
    record: SlideRecord,
    status: str,
    reason: str = "",
    *,
    num_patches: int = 0,
    mpp: float | None = None,
    mpp_source: str = "",
    seconds: str = "",
) -> dict[str, str]:
    """One row of the table, as text; of a slide whose id is a hash, without what names its file."""
    if record.name:
        reason = without_names(reason, record)
    return {
        "slide_id": record.slide_id,
        "path": "" if record.name else printable(record.path),
        "status": status,
        "reason": reason.encode("utf-8", "backslashreplace").decode(),
        "num_patches": str(num_patches),
        "mpp": "" if mpp is None else f"{mpp:.6g}",
        "mpp_source": mpp_source,
        "seconds": seconds,
    }


def printable(path: Place) -> str:
    """A path as UTF-8 text, also where its bytes are not."""
    if isinstance(path, RemotePath):
        return str(path)
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def plain_rows(path: Place, rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of an earlier run's table whose slide ids name files; others are warned of."""
    plain = []
    for row in rows:
        problem = name_problem(row["slide_id"], STORE_SUFFIX)
        if problem is None:
            plain.append(row)
        else:
            logger.warning(
                "%s: slide id %r %s, so no store has that name; its row is left out",
                path,
                row["slide_id"],
                problem,
            )
    return plain


def has_store(folder: Place, slide_id: str) -> bool:
    """Whether the finished store of a slide is in ``folder``; one that cannot be read is there."""
    try:
        return is_complete(file_in(folder, slide_id, STORE_SUFFIX, of="slide id"))
    except StoreReadError:
        return True


def _read(path: Place) -> dict[str, dict[str, str]]:
    """The rows an earlier run left, by slide; none where there is no usable table.

    Raises:
        ReadError: it cannot be read just now, and would be lost.
    """
    try:
        table = read_table(path)
    except LabelError:
        return {}
    if not set(STATUS_COLUMNS) <= set(table.columns):
        return {}
    return {row["slide_id"]: row for row in plain_rows(path, table.rows)}
