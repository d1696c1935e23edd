"""Sentences about slides of hashed ids: what would name a slide's file in them goes."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.errors import SlideError
from wsi_hr.remote import Place
from wsi_hr.slides.open import slide_id_of
from wsi_hr.slides.source import Source

WITHHELD = "..."

_SEVERAL_FILES = frozenset({".mrxs", ".vms", ".vmu", ".dcm", ".dicom"})
_ABSOLUTE = re.compile(r"""(?<![^\s'"(<=])/[^\s:;,'")>]+""")
_NUMBER_LIKE = re.compile(r"\d{1,5}|.{1,2}")  # as a word of its own it may be anything


def without_names(text: str, record: SlideRecord) -> str:
    """A sentence about a slide of a hashed id that names neither its files nor their folders."""
    path = record.path
    for form in _forms(str(path), str(path.absolute()), str(path.resolve())):
        text = text.replace(form, record.slide_id)
    for name in sorted(_names_of(record) - {record.slide_id}, key=len, reverse=True):
        behind = r"(?=\.\w|_patches)" if _NUMBER_LIKE.fullmatch(name) else r"(?![^\W_])"
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}{behind}", record.slide_id, text)
    for folder in {*record.path.parent.parts, *record.path.absolute().parent.parts} - {os.sep}:
        text = re.sub(rf"(?<![^\W_]){re.escape(folder)}/", f"{WITHHELD}/", text)
    return _ABSOLUTE.sub(lambda found: _last_if_hashed(found[0], record.slide_id), text)


def without_folders(text: str, *folders: Place) -> str:
    """A sentence about stores of hashed ids that does not say in which of ``folders`` they are."""
    for folder in sorted({str(folder) for folder in folders}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "").replace(folder, "the folder given")
    return text


def _last_if_hashed(path: str, slide_id: str) -> str:
    """A path without its folders, and without its last part too unless that is called by the id."""
    last = path.rpartition("/")[2]
    return f"{WITHHELD}/{last if last.startswith(slide_id) else ''}"


def _names_of(record: SlideRecord) -> set[str]:
    """What the files of a slide are called, with and without suffix, as messages write it."""
    files = [record.path]
    if record.path.suffix.lower() in _SEVERAL_FILES:
        with suppress(SlideError):  # then a message can name no other
            files = [*Source.of(record.path).files]
    names = {form for file in files for form in _forms(file.name, file.stem)}
    return names | set(_forms(record.name, slide_id_of(record.path)))


def _forms(*plain: str) -> list[str]:
    """How messages write paths and names, the longest first."""
    escaped = {os.fsencode(text).decode("utf-8", "backslashreplace") for text in plain}
    return sorted({*plain, *escaped, *(repr(text)[1:-1] for text in plain)}, key=len, reverse=True)
