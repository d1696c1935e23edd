"""``wsi-hr`` as a process that is watched, killed and started again; and what it leaves behind."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.planted import plant
from wsi_hr.runtime import sha256_file

ROOT = Path(__file__).resolve().parent.parent
_MARK = "WSI_HR_FAULTS"
_MAIN = "from pipelines.cli import main; main()"
_TIMES = frozenset({"run.json"})  # hold the time of the run

OF_ALL_SLIDES = frozenset({"status.csv", "qc.csv", "contact_sheet.png"})
"""Files of a folder of stores that tell of every slide, also of one that failed."""


@dataclass
class Report:
    """What one part of the harness found.

    Attributes:
        facts: numbers, as plain JSON.
        violations: what must not be, a sentence each.
    """

    facts: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Bench:
    """A place to run commands in, whose processes can be told from all others.

    Args:
        folder: empty; logs, temporary files and planted bugs go there.
        planted: source of a planted bug; none where it is empty.
    """

    def __init__(self, folder: Path, planted: str = "") -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        before = [str(plant(folder / "planted", planted))] if planted else []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*before, str(ROOT)]),
            "TMPDIR": str(scratch),
            "OMP_NUM_THREADS": "1",
            _MARK: self.mark,
        }

    def start(self, *args: object) -> subprocess.Popen[bytes]:
        """Start ``wsi-hr ARGS...`` in a process group of its own; its output goes to a log."""
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _MAIN, *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def run(self, *args: object, timeout_s: float) -> int:
        """Run ``wsi-hr ARGS...`` to its end; its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end; it is killed then.
        """
        process = self.start(*args)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            raise

    def processes(self) -> dict[int, str]:
        """Processes of this bench that are alive, with their command lines."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            with suppress(OSError):
                environment = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if f"{_MARK}={self.mark}".encode() in environment and state != "Z":
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = line.decode(errors="replace")[:100]
        return found

    def end(self) -> None:
        """Kill what is left of this bench's processes."""
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole process group of a command."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(store: Path) -> dict[str, str]:
    """Everything in an output folder with its digest; times, and nothing else, left out."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if path.is_dir():
            found[name] = "a folder"
        elif path.name == "status.csv":
            rows = [{**row, "seconds": ""} for row in read_rows(path)]
            found[name] = hashlib.sha256(repr(rows).encode()).hexdigest()
        else:
            found[name] = "a file" if path.name in _TIMES else sha256_file(path)
    return found


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What is not as it should be in a tree, one clause per file."""
    return [
        f"{name} is "
        + ("missing" if name not in found else "a stray" if name not in wanted else "different")
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a status table; none where there is no table."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle))
    except FileNotFoundError:
        return []
