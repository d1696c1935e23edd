"""``--hash-names``: outputs that name no slide file, no folder of one and no patient.

What names them is in a key file of the user's, which lies in none of the outputs. What is printed
may name them all the same: it is for whoever gave the command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from pipelines.nameless import WITHHELD
from wsi_hr.cohort.labels import LabelRow
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.cohort.name_key import NameKey, is_hashed_id
from wsi_hr.cohort.table import read_table
from wsi_hr.errors import ConfigError, LabelError
from wsi_hr.listing import read_if_there
from wsi_hr.remote import Place, RemotePath

NAMES = "names"
"""Entry of ``tile.json``: the fingerprint of the key that hashed the names; absent: none did."""


def open_key(path: Path, outputs: Sequence[Place], *, new: bool = False) -> NameKey:
    """The key in a file of the user's; see :meth:`wsi_hr.cohort.name_key.NameKey.open`.

    Args:
        path: of the file.
        outputs: folders that may be given away.
        new: whether one may begin here.

    Raises:
        ConfigError: there is none, it is damaged, or it lies in an output.
    """
    for folder in outputs:
        if not isinstance(folder, RemotePath) and path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"--hash-names {path}: lies in {folder}, and whoever has both has the names; "
                "choose a place of its own for it"
            )
    if not path.parent.is_dir():
        raise ConfigError(f"--hash-names {path}: there is no folder {path.parent}; make it first")
    return NameKey.open(path, new=new)


def hashed(records: Sequence[SlideRecord], key: NameKey) -> list[SlideRecord]:
    """The slides under hashed ids and in their order; problems name no other slide's file.

    Raises:
        ConfigError: two slides would have one id.
    """
    ids = [key.slide_id(record.slide_id, record.path) for record in records]
    id_at: dict[Path, str] = {}
    for slide_id, record in zip(ids, records, strict=True):
        id_at.setdefault(record.path, slide_id)
    return [
        replace(
            record,
            slide_id=slide_id,
            name=record.slide_id,
            problem=_naming_ids(record, id_at),
            named=(),
        )
        for slide_id, record in sorted(zip(ids, records, strict=True), key=itemgetter(0))
    ]


def _naming_ids(record: SlideRecord, id_at: dict[Path, str]) -> str | None:
    problem = record.problem
    for path in record.named:
        assert problem is not None, "it names the files"
        instead = id_at.get(path, WITHHELD)
        problem = problem.replace(str(path), instead).replace(path.name, instead)
    return problem


def with_hashed_patients(rows: Iterable[LabelRow], key: NameKey) -> list[LabelRow]:
    """Labelled slides whose patients are told by hashes; a slide that is its own patient stays so.

    Raises:
        ConfigError: two patients would have one id.
    """
    return [
        row
        if row.patient_id == row.slide_id
        else replace(row, patient_id=key.patient_id(row.patient_id))
        for row in rows
    ]


def files_of_slides(
    found: Mapping[str, Path], called: Iterable[Sequence[str]], option: str
) -> dict[str, Path]:
    """The files that people made for slides, by slide id.

    Args:
        found: by what they are called.
        called: of every slide, its id and other names that its file may have.
        option: of the command line that names their folder.

    Raises:
        ConfigError: a slide has two files.
    """
    files: dict[str, Path] = {}
    for slide_id, *names in called:
        for name in {slide_id, *names} & found.keys():
            if slide_id in files:
                raise ConfigError(
                    f"{option}: {files[slide_id]} and {found[name]} are for the same slide; keep "
                    "one"
                )
            files[slide_id] = found[name]
    return files


def require_same_names(store: Place, settled: str, key: NameKey | None) -> None:
    """Make sure that a folder of stores names slides as this run does.

    Args:
        store: the folder.
        settled: the fingerprint in its ``tile.json``; empty where there is none.
        key: of this run; None: it names them by their files.

    Raises:
        ConfigError: it does not.
    """
    if settled == ("" if key is None else key.fingerprint):
        return
    if key is None:
        raise ConfigError(
            f"{store}: holds stores of hashed names; give their key file by --hash-names, or take "
            "another folder"
        )
    if not settled:
        raise ConfigError(
            f"{store}: holds stores named after their slides; leave --hash-names out, or take "
            "another folder"
        )
    raise ConfigError(
        f"--hash-names {key.path}: is not the key file that {store} was made with; give that one, "
        "or take another folder"
    )


def refuse_named(*tables: Place) -> None:
    """Refuse a folder in which an earlier run named slides after their files.

    Args:
        tables: the tables of slides that it may have.

    Raises:
        ConfigError: one of them does.
    """
    for table in tables:
        if any(not is_hashed_id(slide_id) for slide_id in _ids_in(table)):
            raise ConfigError(
                f"{table}: names slides after their files, as an earlier run did without "
                "--hash-names; choose another output folder"
            )


def _ids_in(table: Place) -> Iterator[str]:
    with suppress(LabelError, KeyError):  # there is none, or it will be replaced
        yield from (row["slide_id"] for row in read_table(table).rows)


def names_key_of(settings: Place) -> str:
    """The fingerprint of the key that hashed the names in a folder, empty where none did.

    Args:
        settings: its ``tile.json``.

    Raises:
        ReadError: it cannot be read just now.
    """
    try:
        return str(json.loads(read_if_there(settings) or b"{}").get(NAMES, ""))
    except (ValueError, AttributeError):
        return ""
