"""One driver and its folders: a command is disturbed there, looked at, and run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from benchmarks.command_runs import ROOT, differences, tree
from benchmarks.crash_checks import (
    cut_short,
    lost_stores,
    problems_of_error,
    problems_of_kill,
    problems_of_resume,
)
from benchmarks.crash_commands import Command
from benchmarks.crash_driver import Ended, Fault, Request
from benchmarks.crash_modes import Mode
from benchmarks.crash_trace import (
    TRACED,
    Counted,
    read_counted,
    read_strace,
    unseen,
    without_chance,
)
from pipelines.lock import LOCK_FILE
from wsi_hr.runtime import sha256_file

_SOURCE = Path(__file__).with_name("crash_preload.c")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}

State = tuple[tuple[int, str, str], ...]
"""Numbers of folders, names and digests."""


class NoCompilerError(Exception):
    """The preloaded library cannot be built here."""


def build_preload(folder: Path) -> Path:
    """Compile the library that is preloaded.

    Raises:
        NoCompilerError: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompilerError(
            "crash points are found by a small library in C, and there is no C compiler here; "
            "install one, e.g. apt install gcc libc6-dev"
        )
    library = folder / "crash_preload.so"
    flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *flags, "-o", library, str(_SOURCE), "-ldl", "-pthread"], check=True)
    return library


class Lane:
    """A driver, and the folders in which its commands are disturbed.

    Args:
        folder: new.
        number: which of the lanes it is.
        library: what is preloaded.
        before: folders that go to the front of ``PYTHONPATH``.
        deadline_s: after so long a command hangs.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        library: Path,
        before: Sequence[str],
        deadline_s: float,
    ) -> None:
        self.out, self.scratch = folder / "out", folder / "scratch"
        self._folder, self._deadline_s = folder, deadline_s
        self.scratch.mkdir(parents=True)
        environment = {**os.environ, **_ONE_THREAD, "LD_PRELOAD": str(library)}
        environment["PYTHONPATH"] = os.pathsep.join([*before, str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.crash_driver", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def run(self, command: Command, fault: Fault | None = None) -> tuple[Ended, str]:
        """Run a command in the output folder as it is; how it ended, and what it said."""
        request = Request(
            argv=command.argv(self.out),
            folders=[str(self.out), str(self.scratch)],
            scratch=str(self.scratch),
            log=str(self._folder / "said"),
            calls=str(self._folder / "calls"),
            deadline_s=self._deadline_s,
            fault=fault,
        )
        ended = Ended(**self._asked(json.dumps(asdict(request))))
        return ended, Path(request.log).read_text(encoding="utf-8", errors="replace")

    def counted(self) -> list[Counted]:
        """The calls of the last run."""
        return read_counted(self._folder / "calls", self._names)

    def lay_out(self, command: Command) -> None:
        """Make the folders what they were before the command."""
        command.lay_out(self.out)
        shutil.rmtree(self.scratch)
        self.scratch.mkdir()

    def disturbed(
        self,
        command: Command,
        mode: Mode,
        at: int,
        reference: Sequence[Counted],
        resumed: dict[State, list[str]],
    ) -> tuple[bool, list[str]]:
        """Let one call go wrong, and then run the same command again.

        Args:
            command: what is disturbed.
            mode: how.
            at: number of the call.
            reference: the calls of an undisturbed run.
            resumed: what was wrong after the command had gone on from a state; one that is there
                is not tried again.

        Returns:
            Whether the command did not mind, and what is wrong, a clause each.
        """
        self.lay_out(command)
        kinds = tuple(sorted(mode.kinds))
        ended, said = self.run(command, Fault(at, mode.how, mode.error, kinds))
        if ended.timed_out:
            return False, [f"hangs, for {self._deadline_s:g} s at least"]
        problems = []
        calls = [one.call for one in self.counted()[: at + 1]]
        if calls != [one.call for one in reference[: at + 1]]:
            problems.append("the calls before it were others than in an undisturbed run")
        before = {} if command.before is None else tree(command.before)
        if mode.how in ("kill", "tear"):
            problems += problems_of_kill(ended.code)
        else:
            problems += problems_of_error(
                ended.code,
                said,
                mode.error,
                tree(self.out),
                wanted=command.wanted,
                before=before,
                places=(self.out, self.scratch),
            )
        problems += cut_short(self.out) + lost_stores(self.out, before)
        state = state_of(self.out, self.scratch)
        if state not in resumed:
            resumed[state] = self._resumed(command)
        return ended.code == 0, problems + resumed[state]

    def _resumed(self, command: Command) -> list[str]:
        """Run a command again; what is wrong then."""
        again, said = self.run(command)
        if again.timed_out:
            return [f"again: hangs, for {self._deadline_s:g} s at least"]
        found = tree(self.out)
        return problems_of_resume(again.code, said, found, command.wanted, self.scratch)

    def undisturbed(self, command: Command) -> tuple[list[Counted], list[str]]:
        """The calls of a command, and what is wrong with it undisturbed."""
        self.lay_out(command)
        ended, said = self.run(command)
        problems = differences(tree(self.out), dict(command.wanted))
        if ended.code != 0:
            problems.append(f"ended with {ended.code}: {said.strip()}")
        return self.counted(), [f"undisturbed: {problem}" for problem in problems]

    def not_seen_alike(self, command: Command) -> list[str]:
        """Calls that only strace sees, or only the library."""
        prefix = self._folder / "trace"
        for file in self._folder.glob(f"{prefix.name}.*"):
            file.unlink()
        form = ("-ff", "-ttt", "-y", "-s", "0", "-o", str(prefix))
        kinds = ("-e", f"trace={','.join(f'?{name}' for name in TRACED)}")
        self._await_ready()
        strace = subprocess.Popen(
            ["strace", *form, *kinds, "-p", str(self._process.pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        with strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            if "attached" not in said:
                return [f"nothing was compared: {said.strip()}"]
            counted, _ = self.undisturbed(command)
            strace.send_signal(signal.SIGINT)  # it lets go
        return unseen([one.call for one in counted], read_strace(prefix, self._names))

    @property
    def _names(self) -> tuple[tuple[Path, str], ...]:
        return ((self.out, "OUT"), (self.scratch, "TMPDIR"))

    def _asked(self, line: str) -> dict[str, Any]:
        self._await_ready()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def _await_ready(self) -> None:
        if not self._ready:
            self._answer()
            self._ready = True

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the driver ended with {self._process.wait()}; see above")
        return answer


def state_of(*folders: Path) -> State:
    """All names and contents in some folders, but for what is by chance: see ``crash_trace``."""
    state = []
    for number, folder in enumerate(folders):
        for path in folder.rglob("*"):
            name = without_chance(path.relative_to(folder).as_posix())
            what = "" if path.is_dir() or path.name == LOCK_FILE else sha256_file(path)
            state.append((number, name, what))
    return tuple(sorted(state))
