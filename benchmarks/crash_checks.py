"""What must hold after a command was disturbed, whatever the moment was."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from benchmarks.command_runs import differences
from wsi_hr.errors import WsiHrError
from wsi_hr.exchange.coords_h5 import read_notes
from wsi_hr.store.manifest import verify_store
from wsi_hr.store.patch_store import STORE_SUFFIX
from wsi_hr.training.checkpoint import load_checkpoint

_DONE, _SOME_FAILED, _BAD_REQUEST = 0, 1, 2
_TRACEBACK = "Traceback (most recent call last)"
_UNEXPECTED = "please report it"
_TEMPORARY = re.compile(r"(^|/)\.[^/]*(/|$)|\.zarr\.(tmp|old)(/|$)")
"""Names, relative to the output folder, that nobody takes for a result."""


def problems_of_kill(code: int) -> list[str]:
    """What is wrong with how a command ended that was to be killed."""
    return [] if code == -signal.SIGKILL else [f"ended with {code} instead of by the kill"]


def problems_of_error(
    code: int,
    said: str,
    error: int,
    found: Mapping[str, str],
    *,
    wanted: Mapping[str, str],
    before: Mapping[str, str],
    places: tuple[Path, ...],
) -> list[str]:
    """What is wrong with how a command ended of which one call, or more, failed.

    Args:
        code: its exit code.
        said: all it said.
        error: the errno of the failure; 0: half a write is no failure.
        found: the output folder's tree now.
        wanted: of an undisturbed run.
        before: as it was when the command began.
        places: the folders below which the failure was.
    """
    problems = []
    if _TRACEBACK in said:
        problems.append(f"a bare traceback: {said.strip().splitlines()[-1]}")
    elif _UNEXPECTED in said:
        problems.append(f"an error that nobody expected: {_line_with(_UNEXPECTED, said)}")
    if code == _DONE:
        lasting = {name: what for name, what in found.items() if not _TEMPORARY.search(name)}
        wrong = differences(lasting, dict(wanted))
        problems += [f"ended with 0, and {clause}" for clause in wrong]
    elif error == 0:
        problems.append(f"ended with {code} after half a write")
    elif code == _SOME_FAILED:
        if not any(_tells(line, error, places) for line in said.splitlines()):
            problems.append(f"ended with 1, and no line has path and reason: {_last_line(said)}")
    elif code == _BAD_REQUEST and error == errno.EACCES:
        changed = {name: what for name, what in found.items() if not _TEMPORARY.search(name)}
        if differences(changed, dict(before)):
            problems.append(f"ended with 2, and something was done: {_last_line(said)}")
    else:
        problems.append(f"ended with {code}: {_last_line(said)}")
    return problems


def problems_of_resume(
    code: int, said: str, found: Mapping[str, str], wanted: Mapping[str, str], scratch: Path
) -> list[str]:
    """What is wrong after the same command was started again, undisturbed."""
    problems = []
    if code != _DONE:
        problems.append(f"again: ended with {code}: {_last_line(said)}")
    if _TRACEBACK in said:
        problems.append(f"again: a bare traceback: {said.strip().splitlines()[-1]}")
    problems += [f"again: {clause}" for clause in differences(dict(found), dict(wanted))]
    problems += [f"again: {path.name} is left in TMPDIR" for path in sorted(scratch.iterdir())]
    return problems


def cut_short(out: Path) -> list[str]:
    """Files and stores at their final names that are not whole, a sentence each."""
    problems = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        inside = any(parent.suffix == STORE_SUFFIX for parent in path.relative_to(out).parents)
        if _TEMPORARY.search(name) or inside:
            continue
        if path.suffix == STORE_SUFFIX:
            problems += [f"half a store: {problem}" for problem in verify_store(path)[:1]]
        elif path.is_file() and not _is_whole(path):
            problems.append(f"{name} is cut short")
    return problems


def lost_stores(out: Path, before: Mapping[str, str]) -> list[str]:
    """Stores that were there before, and now are neither in their place nor set aside."""
    problems = []
    for name in before:
        if not name.endswith(STORE_SUFFIX):
            continue
        path = out / name
        places = (path, path.parent / "outdated" / path.name)
        if all(verify_store(place) for place in places):
            problems.append(f"{name}, which was finished, is lost")
    return problems


def _is_whole(path: Path) -> bool:
    """Whether a file is as long as whoever wrote it meant it to be, as far as its form tells."""
    try:
        if path.suffix in (".json", ".geojson"):
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            text = path.read_text(encoding="utf-8")
            for line in text.splitlines():
                json.loads(line)
            return text.endswith("\n")
        elif path.suffix == ".csv":
            text = path.read_text(encoding="utf-8-sig")
            rows = list(csv.reader(text.splitlines()))
            return text.endswith("\n") and len(set(map(len, rows))) == 1
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.verify()
        elif path.suffix == ".jpg":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".safetensors":
            load_checkpoint(path)
        elif path.suffix == ".h5":
            return bool(read_notes(path))
    except (ValueError, OSError, SyntaxError, UnidentifiedImageError, csv.Error, WsiHrError):
        return False
    return path.stat().st_size > 0


def _tells(line: str, error: int, places: tuple[Path, ...]) -> bool:
    return os.strerror(error) in line and any(str(place) in line for place in places)


def _line_with(text: str, said: str) -> str:
    return next(line for line in said.splitlines() if text in line)


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["(it said nothing)"])[-1]
