"""Faults of whole runs: killed at random moments, one poisoned slide, memory that grows."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.command_runs import (
    OF_ALL_SLIDES,
    Bench,
    Report,
    differences,
    kill_group,
    read_rows,
    tree,
)
from benchmarks.planted import POISON
from benchmarks.victims import write_pink_slide
from pipelines.replacement import ATTEMPT
from wsi_hr.geometry import Size
from wsi_hr.runtime import rng_for
from wsi_hr.store.manifest import TMP_SUFFIX
from wsi_hr.store.patch_store import STORE_SUFFIX

_LONGEST_RUN_S = 600.0
_ORPHANS_MAY_LIVE_S = 10.0
_KILLS_PER_STORE = 8  # then a run is let finish
_SETTINGS = ("--patch-size", 128, "--workers", 2)

_POISON_DEADLINE_S = 5
_SAMPLE_S = 0.05
_PAGE_MB = 4096 / 2**20
_GROWTH_MB = 8.0  # between the second and the last quarter: less than 0.1 MB a slide at 200 slides
_CHILD_GROWTH_MB = 24.0
_END_MB = 300.0  # of the parent, whatever the number of slides


def kills(folder: Path, *, count: int, seed: int, planted: str = "", slides: int = 8) -> Report:
    """SIGKILL at random moments, the same command again, until it ends: the same stores.

    Every other kill takes the leader alone, whose children must follow by themselves while the
    next run has already begun. Half of the moments are drawn from the whole run, the others from
    the milliseconds after something was written.
    """
    rng = rng_for(seed, "kills")
    for number in range(slides):
        write_pink_slide(folder / f"slides/s{number}.svs", seed=number, size=Size(1024, 512))
    sound = Bench(folder / "sound")
    begun = time.monotonic()
    _run(sound, folder / "slides", folder / "wanted")
    whole_s = time.monotonic() - begun
    wanted = tree(folder / "wanted")
    bench, report = Bench(folder / "killed", planted), Report()
    num_kills, num_stores, while_writing, scratch_left = 0, 0, 0, 0
    begun = time.monotonic()
    try:
        while num_kills < count:
            store, num_stores, here = folder / f"store{num_stores}", num_stores + 1, 0
            while True:
                process = bench.start("tile", folder / "slides", "-o", store, *_SETTINGS)
                to_be_killed = here < _KILLS_PER_STORE and num_kills < count
                if to_be_killed:
                    _wait(process, store, whole_s, rng)
                if not to_be_killed or process.poll() is not None:
                    code = process.wait(_LONGEST_RUN_S)
                    break
                while_writing += any(name.endswith(TMP_SUFFIX) for name in _written(store))
                if num_kills % 2:
                    process.kill()
                    process.wait()
                else:
                    kill_group(process)
                num_kills, here = num_kills + 1, here + 1
            what = f"store {num_stores} after {here} kills"
            if code != 0:
                report.violations.append(f"{what}: exit code {code}")
            report.violations += [f"{what}: {one}" for one in differences(tree(store), wanted)]
            report.violations += [f"{what}: {one} lives on" for one in _orphans(bench)]
            shutil.rmtree(store, ignore_errors=True)
        scratch_left = len(list((bench.folder / "scratch").iterdir()))
    finally:
        bench.end()
    report.facts = {
        "kills": num_kills,
        "stores": num_stores,
        "slides": slides,
        "kills_while_a_store_was_written": while_writing,
        "undisturbed_run_s": round(whole_s, 2),
        "temporary_folders_left_by_kills": scratch_left,
        "seconds": round(time.monotonic() - begun, 1),
    }
    return report


def poison(
    folder: Path, *, slides: int, seed: int, kinds: tuple[str, ...] = (), planted: str = ""
) -> Report:
    """One slide kills, hangs or bloats its process: the others come out, equal to a sound run's."""
    size = Size(512, 512)
    for number in range(slides - 1):
        write_pink_slide(folder / f"slides/s{number:02d}.svs", seed=seed + number, size=size)
    limits = ("--set", f"tile.deadline_s={_POISON_DEADLINE_S}", "--set", "tile.memory_gib=1")
    sound = Bench(folder / "sound")
    _run(sound, folder / "slides", folder / "wanted", *limits)
    wanted = _stores(folder / "wanted")
    write_pink_slide(folder / "slides/poison.svs", seed=seed + slides, size=size)
    report, reasons = Report(), {}
    begun = time.monotonic()
    for kind in kinds or tuple(POISON):
        store = folder / f"store_{kind}"
        bench = Bench(folder / kind, POISON[kind] + planted)
        try:
            code = bench.run(
                *("tile", folder / "slides", "-o", store, *_SETTINGS, *limits),
                timeout_s=_LONGEST_RUN_S,
            )
        except subprocess.TimeoutExpired:
            report.violations.append(f"{kind}: the run hangs")
            continue
        finally:
            orphans = _orphans(bench)
            bench.end()
        rows = {row["slide_id"]: row for row in read_rows(store / "status.csv")}
        failed = sorted(name for name, row in rows.items() if row["status"] == "failed")
        found = _stores(store)
        if code != 1:
            report.violations.append(f"{kind}: exit code {code} instead of 1")
        if failed != ["poison"] or len(rows) != slides:
            report.violations.append(f"{kind}: {len(rows)} rows, failed are {', '.join(failed)}")
        report.violations += [f"{kind}: {one}" for one in differences(found, wanted)]
        report.violations += [f"{kind}: {one} lives on" for one in orphans]
        reasons[kind] = rows["poison"]["reason"] if "poison" in rows else ""
    seconds = round(time.monotonic() - begun, 1)
    report.facts = {"slides": slides, "reasons": reasons, "seconds": seconds}
    return report


def rss(folder: Path, *, slides: int, seed: int, planted: str = "") -> Report:
    """Resident memory of the run over many slides: flat after the first quarter, low at the end."""
    for number in range(min(slides, 10)):
        write_pink_slide(folder / f"s{number}.svs", seed=seed + number, size=Size(1024, 1024))
    (folder / "slides").mkdir()
    for number in range(slides):
        shutil.copy(folder / f"s{number % 10}.svs", folder / f"slides/s{number:04d}.svs")
    bench, store = Bench(folder / "bench", planted), folder / "store"
    begun = time.monotonic()
    process = bench.start("tile", folder / "slides", "-o", store, *_SETTINGS)
    samples: list[tuple[int, str, float]] = []  # stores there, whose, MB
    try:
        while process.poll() is None:
            done = len(list(store.glob("*.zarr")))
            samples += [(done, who, mb) for who, mb in _memory(process.pid)]
            time.sleep(_SAMPLE_S)
    finally:
        kill_group(process)
        bench.end()
    report = Report({"slides": slides, "seconds": round(time.monotonic() - begun, 1)})
    if process.returncode != 0:
        report.violations.append(f"exit code {process.returncode}")
    limits = {"parent": _GROWTH_MB, "server": _GROWTH_MB, "slide": _CHILD_GROWTH_MB}
    for who, allowed in limits.items():
        early = [mb for done, one, mb in samples if one == who and slides / 4 <= done < slides / 2]
        late = [mb for done, one, mb in samples if one == who and slides * 3 / 4 <= done < slides]
        if not early or not late:
            report.violations.append(f"{who}: never seen in time; more slides are needed")
            continue
        report.facts[f"{who}_mb"] = {"second_quarter": max(early), "last_quarter": max(late)}
        if max(late) > max(early) + allowed:
            report.violations.append(
                f"{who}: grows from {max(early):.0f} to {max(late):.0f} MB between the second "
                "and the last quarter of the slides"
            )
    # contact sheets are drawn one after the other, of a fixed number of slides each
    end = max((mb for done, one, mb in samples if one == "parent" and done == slides), default=0.0)
    report.facts["parent_end_mb"] = end
    if end > _END_MB:
        report.violations.append(f"parent: {end:.0f} MB when all slides were done")
    return report


def _run(bench: Bench, slides: Path, store: Path, *more: object) -> None:
    """The undisturbed run that the others are held against."""
    code = bench.run("tile", slides, "-o", store, *_SETTINGS, *more, timeout_s=_LONGEST_RUN_S)
    if code != 0:
        raise RuntimeError(f"the undisturbed run ended with {code}; see {bench.folder / 'log.txt'}")


def _stores(folder: Path) -> dict[str, str]:
    """A tree without the files that tell of every slide."""
    return {name: what for name, what in tree(folder).items() if name not in OF_ALL_SLIDES}


def _wait(
    process: subprocess.Popen[bytes], store: Path, whole_s: float, rng: np.random.Generator
) -> None:
    """Wait for a random moment of the run, or its end."""
    if rng.random() < 0.5:
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, whole_s))
        return
    before = _written(store)
    while process.poll() is None and _written(store) == before:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.08))


def _written(store: Path) -> frozenset[str]:
    """Stores, and what is on the way to be one."""
    found = list(store.glob(f"*{STORE_SUFFIX}*"))
    for attempt in store.glob(f"{ATTEMPT}*"):
        with suppress(OSError):  # it has just ended
            found += [path for path in attempt.iterdir() if STORE_SUFFIX in path.name]
    return frozenset(path.relative_to(store).as_posix() for path in found)


def _orphans(bench: Bench) -> list[str]:
    """Processes that outlive their run by seconds."""
    deadline = time.monotonic() + _ORPHANS_MAY_LIVE_S
    while (alive := bench.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f"process {pid} ({line.strip()})" for pid, line in alive.items()]


def _memory(pid: int) -> list[tuple[str, float]]:
    """Resident MB of the parent, its server, and the server's children."""
    found = []
    with suppress(OSError, ValueError):
        found.append(("parent", _rss_mb(pid)))
        for server in _children(pid):
            found.append(("server", _rss_mb(server)))
            found += [("slide", _rss_mb(child)) for child in _children(server)]
    return found


def _rss_mb(pid: int) -> float:
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB, 1)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
