"""What must be right on a machine before a study starts, and how to mend what is not.

Nothing here is imported before it is asked about, so that a missing or broken package is a finding
and not a crash. Libraries are only looked at: whether they load and what they say of themselves.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.terminal import shown
from wsi_hr.config import TileConfig
from wsi_hr.machine import core_limits, num_usable_cores, usable_memory
from wsi_hr.scratch import has_locks

PACKAGE = "wsi-hr"
GIB = 2**30
LOW_DISK = 20 * GIB  # a store is about as large as its slides, several GiB each
LOW_SHM = 1 * GIB  # docker gives 64 MiB unless told otherwise
_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_REINSTALL = "install again: pip install --require-hashes -r requirements.lock"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        state: ``warn`` works but slower or not everywhere; ``fail`` does not work.
        found: what is there.
        mend: how to set it right; empty where all is well.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def run_checks(folder: Path | None = None) -> list[Check]:
    """Look at everything; never raises.

    Args:
        folder: where output will be written; the current folder by default.
    """
    folder = Path.cwd() if folder is None else folder
    looks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("GPU", _gpu),
        ("codecs", _codecs),
        ("zarr codec", _zarr_codec),
        ("processors", _processors),
        ("memory", _memory),
        ("shared memory", _shared_memory),
        ("disk", partial(_disk, folder)),
        ("home", _home),
    ]
    return [check for name, look in looks for check in _guarded(name, look)]


def print_checks(checks: list[Check], console: Console) -> None:
    """Write the findings as a table, then what to do about those that are not ok."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        state = Text(check.state, style=_STYLE[check.state])
        table.add_row(state, Text(check.name), Text(shown(check.found)))
    console.print(table)
    for check in checks:
        if check.mend:
            console.print(Text(shown(f"{check.name}: {check.mend}"), style=_STYLE[check.state]))


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """The border at which whatever a broken installation raises becomes a finding."""
    found = []
    try:
        for check in look():
            found.append(check)  # one by one: what was found before a failure is kept
    except Exception as error:
        found.append(Check(name, "fail", f"{type(error).__name__}: {error}", _REINSTALL))
    return found


def _judge(
    name: str, good: bool, found: str, mend: str, bad: Literal["warn", "fail"] = "fail"
) -> Check:
    return Check(name, "ok", found) if good else Check(name, bad, found, mend)


def _python() -> Iterator[Check]:
    wanted = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    good = sys.version_info >= _numbers(wanted.removeprefix(">="))
    found = f"{platform.python_version()} ({wanted} wanted)"
    yield _judge("python", good, found, f"use Python {wanted}")


def _packages() -> Iterator[Check]:
    """Every run-time requirement against its floor in pyproject.toml, as installed."""
    yield Check(PACKAGE, "ok", importlib.metadata.version(PACKAGE))
    versions, problems = [], []
    for requirement in importlib.metadata.requires(PACKAGE) or []:
        if "extra ==" in requirement:
            continue
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", requirement)
        assert match, f"pyproject.toml states floors only, not {requirement}"
        name, floor = match.groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is missing")
            continue
        versions.append(f"{name} {version}")
        if _numbers(version) < _numbers(floor):
            problems.append(f"{name} {version} is older than {floor}")
    yield _judge("packages", not problems, "; ".join(problems or versions), _REINSTALL)


def _torch() -> Iterator[Check]:
    torch = importlib.import_module("torch")
    torchvision = importlib.import_module("torchvision")
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5)  # compiled against torch
    found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    yield _judge("torch and torchvision", kept.tolist() == [1], found, _REINSTALL)


def _gpu() -> Iterator[Check]:
    torch = importlib.import_module("torch")
    driver = _nvidia_driver()
    if not torch.cuda.is_available() and driver is None:
        mend = (
            "nothing to mend unless this machine has one; a container is started with "
            "--gpus all (docker) or --nv (apptainer)"
        )
        yield Check("GPU", "warn", "none: computing on the CPU", mend)
    elif not torch.cuda.is_available():
        found = f"driver {driver}, which torch for CUDA {torch.version.cuda} cannot use"
        mend = "update the NVIDIA driver, or unset CUDA_VISIBLE_DEVICES if it hides the GPU"
        yield Check("GPU", "fail", found, mend)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found = (
            f"{properties.name}, {_gib(properties.total_memory)}, capability "
            f"{properties.major}.{properties.minor}, driver {driver or 'unknown'}, "
            f"CUDA {torch.version.cuda}"
        )
        try:
            one = torch.ones(8, 8, device=f"cuda:{index}")
            works = float((one @ one).sum()) == one.numel() * len(one)
        except RuntimeError as error:
            works = False
            found = f"{found}: {str(error).splitlines()[0]}"
        mend = "too old for this torch, in use by others, or broken: see nvidia-smi"
        yield _judge(f"GPU {index}", works, found, mend)


def _nvidia_driver() -> str | None:
    """The driver's version, from the kernel or nvidia-smi; None where there is no driver."""
    kernel = Path("/proc/driver/nvidia/version")
    if kernel.is_file():
        match = re.search(r"\b\d{3,}\.[\d.]+\b", kernel.read_text(errors="replace"))
        return match.group() if match else "unknown"
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    lines = asked.stdout.split()
    return lines[0] if asked.returncode == 0 and lines else None


def _codecs() -> Iterator[Check]:
    openslide = importlib.import_module("openslide")
    yield Check("OpenSlide", "ok", openslide.__library_version__)
    for name in ("simplejpeg", "imagecodecs"):
        yield from _guarded(name, partial(_jpeg_round_trip, name))


def _jpeg_round_trip(name: str) -> Iterator[Check]:
    """Encode and decode a black picture, which every JPEG codec keeps black."""
    black = importlib.import_module("numpy").zeros((16, 16, 3), dtype="uint8")
    codec = importlib.import_module(name)
    if name == "simplejpeg":
        back = codec.decode_jpeg(codec.encode_jpeg(black))
    else:
        back = codec.jpeg_decode(codec.jpeg_encode(black))
    good = back.shape == black.shape and back.max() == 0
    yield _judge(name, good, importlib.metadata.version(name), _REINSTALL)


def _zarr_codec() -> Iterator[Check]:
    """Without the entry point no zarr reader but our own can open a store."""
    ours = [
        entry
        for entry in importlib.metadata.entry_points(group="zarr.codecs")
        if entry.dist is not None and entry.dist.name == PACKAGE
    ]
    for entry in ours:
        entry.load()
    found = ", ".join(f"{entry.name} = {entry.value}" for entry in ours)
    yield _judge("zarr codec", bool(ours), found or "not registered", f"install {PACKAGE} again")


def _processors() -> Iterator[Check]:
    found = f"{os.cpu_count()} in the machine, {num_usable_cores()} used"
    limits = core_limits()
    if limits:
        found = f"{found}; the container or job gets the time of {min(limits):.1f}"
    yield Check("processors", "ok", found)


def _memory() -> Iterator[Check]:
    usable = usable_memory()
    found = f"{_gib(usable)} for this machine, container or job"
    tile = TileConfig.model_validate({})
    mend = f"raise it, or tile with --workers 1 --set tile.memory_gib={usable / GIB / 2:.1f}"
    yield _judge("memory", usable >= tile.memory_gib * GIB, found, mend, "warn")


def _shared_memory() -> Iterator[Check]:
    size = shutil.disk_usage("/dev/shm").total
    mend = "docker: --shm-size 2g; compose: shm_size; apptainer uses the machine's own"
    yield _judge("shared memory", size >= LOW_SHM, _gib(size), mend, "warn")


def _disk(folder: Path) -> Iterator[Check]:
    there = _existing(folder)
    free = shutil.disk_usage(there).free
    mend = "free some, or write elsewhere: a store is about as large as its slides"
    yield _judge("disk", free >= LOW_DISK, f"{_gib(free)} free at {there}", mend, "warn")
    problem = _unwritable(there)
    mend = f"let uid {os.getuid()} write there, or choose another folder"
    yield _judge("output folder", problem is None, problem or str(folder), mend)


def _home() -> Iterator[Check]:
    """Where libraries put what they keep: scratch files and downloaded weights."""
    try:
        there = Path(tempfile.gettempdir())  # tries to write
        locks = has_locks(there)
    except OSError as error:
        yield Check("temporary folder", "fail", str(error), "set TMPDIR to a writable folder")
    else:
        found = str(there) if locks else f"{there}, whose file system has no locks"
        mend = "set TMPDIR to a disk of this machine; else what is killed elsewhere stays there"
        yield _judge("temporary folder", locks, found, mend, "warn")
    mend = "set HF_HOME to a writable folder, or use encoder.weights=FILE"
    try:
        hub = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    except RuntimeError as error:  # neither HOME nor an entry for this uid
        yield Check("weights cache", "warn", str(error), mend)
        return
    problem = _unwritable(_existing(hub))
    yield _judge("weights cache", problem is None, problem or str(hub), mend, "warn")


def _existing(path: Path) -> Path:
    """``path`` or the nearest folder above it that is there."""
    candidates = (path.absolute(), *path.absolute().parents)
    return next(candidate for candidate in candidates if os.path.exists(candidate))


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written to ``folder``, found by trying; None when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.13.0+cpu`` is (2, 13, 0)."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else ()
