from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_hr.errors import LabelError, SlideError
from wsi_hr.slides import isolate
from wsi_hr.slides.isolate import run_isolated, stop_isolated

HERE = Path(__file__).parent
SLIDE = Path("folder/slide.svs")
SOON_S = 60.0

LIMITS = {"deadline_s": 60.0, "memory_gib": 1.0}


@pytest.fixture(autouse=True)
def _work_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def work(_work_can_be_imported):
    import isolated_work

    return isolated_work


def _died(pid: int) -> bool:
    """Whether a process ends within some seconds; a zombie has ended."""
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def _pid_in(path: Path) -> int:
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.02)
    pytest.fail("the child did not start")


def test_a_call_returns_what_the_function_returns_from_another_process(work):
    assert run_isolated(work.add, 2, 3, **LIMITS) == 5
    assert run_isolated(work.megabytes, 20, **LIMITS) == bytes(20 << 20)
    first, second = (run_isolated(work.pid_of, **LIMITS) for _ in range(2))
    assert len({first, second, os.getpid()}) == 3


def test_children_are_forked_from_a_process_that_has_the_imports_done(work):
    assert set(isolate.PRELOAD) <= set(run_isolated(work.imported, **LIMITS))
    assert run_isolated(work.thread_count, **LIMITS) == 1  # or a fork might inherit a held lock


def test_errors_of_the_user_s_input_arrive_as_themselves(work):
    with pytest.raises(LabelError) as refused:
        run_isolated(work.refuse, SLIDE, **LIMITS)
    assert str(refused.value) == f"{SLIDE}: refused"
    assert not hasattr(refused.value, "__notes__")


def test_other_errors_arrive_with_the_child_s_traceback(work):
    with pytest.raises(KeyError, match="the child's own") as failed:
        run_isolated(work.fail, **LIMITS)
    assert "isolated_work.py" in failed.value.__notes__[0]


def test_what_cannot_be_pickled_is_an_error_not_a_hang(work):
    with pytest.raises(RuntimeError, match="TwoPartError: one two"):
        run_isolated(work.fail_unpicklably, **LIMITS)
    with pytest.raises((AttributeError, TypeError), match=r"pickle|local object"):
        run_isolated(work.unpicklable, **LIMITS)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_child_killed_by_a_signal_is_named(work, number):
    with pytest.raises(SlideError, match=rf"slide\.svs: .*killed by {number.name}; .*copy it"):
        run_isolated(work.kill_self, SLIDE, number, **LIMITS)


def test_a_child_killed_from_outside_points_to_the_machine_s_memory(work):
    with pytest.raises(SlideError, match=r"killed by SIGKILL, .* memory .*; use fewer workers"):
        run_isolated(work.kill_self, SLIDE, signal.SIGKILL, **LIMITS)


def test_a_child_that_just_leaves_is_an_error(work):
    with pytest.raises(SlideError, match=r"slide\.svs: .* exit code 3 and without a result"):
        run_isolated(work.leave, SLIDE, 3, **LIMITS)


def test_the_deadline_kills(work, tmp_path):
    started = time.monotonic()
    with pytest.raises(SlideError, match=r"slide\.svs: took longer than 0\.5 s .*deadline_s"):
        run_isolated(work.sleep, SLIDE, 600, tmp_path / "pid", deadline_s=0.5, memory_gib=1)
    assert time.monotonic() - started < SOON_S
    assert _died(_pid_in(tmp_path / "pid"))


def test_the_deadline_kills_a_stopped_child_too(work):
    with pytest.raises(SlideError, match="took longer than"):
        run_isolated(work.stop_self, SLIDE, deadline_s=0.5, memory_gib=1)


def test_limits_may_be_without_end(work):
    assert run_isolated(work.add, 2, 3, deadline_s=float("inf"), memory_gib=float("inf")) == 5


def test_the_memory_limit_holds_and_is_named(work):
    with pytest.raises(SlideError, match=r"slide\.svs: ran out of its memory limit of 0\.25 GiB"):
        run_isolated(work.allocate, SLIDE, 0.3, deadline_s=60, memory_gib=0.25)
    fitting = run_isolated(work.allocate, SLIDE, 0.125, deadline_s=60, memory_gib=0.25)
    assert fitting == 2**27


def test_threads_for_which_there_is_no_room_are_want_of_memory(work):
    with pytest.raises(SlideError, match=r"slide\.svs: ran out of its memory limit of 0\.1 GiB"):
        run_isolated(work.start_threads, SLIDE, 100, deadline_s=60, memory_gib=0.1)
    assert run_isolated(work.start_threads, SLIDE, 2, **LIMITS) == 2


def test_memory_that_threads_only_reserve_counts_for_nothing(work):
    """Or a sound slide fails on a machine of many cores, or a busy one, now and then."""
    assert run_isolated(work.allocate_in_threads, SLIDE, 40, deadline_s=60, memory_gib=0.6) == 4e5


def test_an_abort_for_want_of_memory_is_recognised(work):
    with pytest.raises(SlideError, match="ran out of its memory limit of 1 GiB"):
        run_isolated(work.abort_for_memory, SLIDE, **LIMITS)


def test_a_tile_of_a_gigapixel_takes_only_its_child_along(work, tmp_path, patch_tags):
    """OpenSlide itself asks for 4 GiB and aborts; open_slide refuses before that."""
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(
        path, np.zeros((16, 16, 3), np.uint8), tile=(16, 16), photometric="rgb", compression="zlib"
    )
    patch_tags(path, ImageWidth=32768, ImageLength=32768, TileWidth=32768, TileLength=32768)
    with pytest.raises(SlideError, match=r"bomb\.tif: ran out of its memory limit of 1 GiB"):
        run_isolated(work.read_with_openslide, path, **LIMITS)
    assert run_isolated(work.add, 2, 3, **LIMITS) == 5


def test_log_records_are_handled_by_the_caller(work, caplog):
    with caplog.at_level(logging.WARNING):
        run_isolated(work.warn, "the child", **LIMITS)
    assert [record.getMessage() for record in caplog.records] == ["said by the child"]
    assert caplog.records[0].name == "wsi_hr.tests"


def test_threads_have_children_side_by_side(work):
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda n: run_isolated(work.add, n, n, **LIMITS), range(24)))
    assert sums == [2 * n for n in range(24)]


def test_one_death_among_threads_is_nobody_else_s_affair(work):
    def call(n: int) -> object:
        try:
            if n % 3:
                return run_isolated(work.add, n, n, **LIMITS)
            return run_isolated(work.kill_self, SLIDE, signal.SIGSEGV, **LIMITS)
        except SlideError:
            return "dead"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(call, range(12)))
    assert outcomes == [2 * n if n % 3 else "dead" for n in range(12)]


def test_a_daemonic_process_may_have_children_too(work):
    """As a dask worker is one, which multiprocessing forbids to have children."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=work.report_isolated, args=(send,), daemon=True)
    process.start()
    assert receive.recv() == 5
    process.join(SOON_S)
    assert process.exitcode == 0
    process.close()


def test_all_calls_can_be_stopped_from_another_thread(work, tmp_path):
    def call(number: int) -> str:
        with pytest.raises(SlideError) as stopped:
            run_isolated(work.sleep, SLIDE, 600, tmp_path / str(number), **LIMITS)
        return str(stopped.value)

    with ThreadPoolExecutor(2) as pool:
        sentences = pool.map(call, range(2))
        pids = [_pid_in(tmp_path / str(number)) for number in range(2)]
        stop_isolated()
        assert all("killed by SIGKILL" in sentence for sentence in sentences)
    assert all(_died(pid) for pid in pids)
    assert run_isolated(work.add, 2, 3, **LIMITS) == 5


def test_a_lost_server_is_replaced(work):
    run_isolated(work.add, 2, 3, **LIMITS)
    server = isolate._servers[os.getpid()]
    server._process.kill()
    server._process.wait()
    assert run_isolated(work.add, 2, 3, **LIMITS) == 5
    server.stop()  # closes what is ours of it


@pytest.mark.fault("A4c")
def test_the_server_s_death_takes_the_children_along(work, tmp_path):
    outcome: list[str] = []

    def call() -> None:
        try:
            run_isolated(work.sleep, SLIDE, 600, tmp_path / "pid", **LIMITS)
        except SlideError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    pid = _pid_in(tmp_path / "pid")
    server = isolate._servers[os.getpid()]
    server._process.kill()
    thread.join(SOON_S)
    assert "killed by SIGKILL" in outcome[0]
    assert _died(pid)
    server.stop()


@pytest.mark.fault("A4c")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_caller_s_death_leaves_no_orphan(tmp_path, number):
    """Neither the child, which sleeps for ten minutes, nor the process that forked it."""
    script = (
        "import sys, os, pathlib; from wsi_hr.slides import isolate; import isolated_work as work\n"
        "server = isolate._server()\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / 'server').write_text(str(server._process.pid))\n"
        "isolate.run_isolated(work.sleep, folder, 600, folder / 'child', deadline_s=600, "
        "memory_gib=1)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.DEVNULL,
    )
    child, server = _pid_in(tmp_path / "child"), _pid_in(tmp_path / "server")
    caller.send_signal(number)
    caller.wait(SOON_S)
    assert _died(child)
    assert _died(server)


def test_progress_arrives_seldom_and_its_last_word_always(work):
    heard: list[tuple[int, int]] = []
    count = 200_000
    told = run_isolated(work.report, count, on_progress=lambda *now: heard.append(now), **LIMITS)
    assert told == count
    assert heard[0] == (0, count)
    assert heard[-1] == (count, count)
    assert len(heard) < 50, "bounded, however often it is said"
    assert run_isolated(work.report, 3, **LIMITS) == 3


def test_a_cancelled_call_ends_with_its_child(work, tmp_path):
    asked = threading.Event()

    def cancelled() -> bool:
        return asked.is_set()

    def call() -> None:
        run_isolated(work.sleep, SLIDE, 600, tmp_path / "pid", cancelled=cancelled, **LIMITS)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        child = _pid_in(tmp_path / "pid")
        asked.set()
        with pytest.raises(CancelledError):
            future.result(SOON_S)
    assert _died(child)
