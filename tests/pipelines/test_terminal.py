"""Nothing that a name, a table or a slide holds is obeyed by a terminal, whichever way it goes.

Every command is run with hostile names in all that it reads, once with its streams in a file and
once on a terminal; only what rich itself writes may command the latter.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pipelines import terminal
from pipelines.progress import counted, progress_bar, slide_bar
from pipelines.sentences import say
from pipelines.terminal import ShownConsole, ShownFormatter, ShownStream, shown, unguarded
from wsi_hr.store.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest

from .hostile_stores import forge

FORGED = "FORGED"  # must not begin a line
HOSTILE = (
    "a\x1b[2J\x1b[38;5;199m\x1b]0;title\x07\x1b]8;;file:x\x1b\\\x9b31m\x7f\x85\x08"
    f"\u202eb\u2066\u200f\u061c\u200b\u2060\ufeff\u00ad\u2028\u2029[red]c[bold][link=x]\r\n{FORGED}"
)
LETTERS = "é ё ء سلام שלום 漢字 कि ไทย 한국 😐 a\u0301 \u3000 ½ ✓"
# of rich: colours and styles, show and hide the cursor, and the movements of a bar
_RICH = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r")


def dangers(text: str, *, on_terminal: bool = False) -> list[str]:
    """Whatever in an output commands a terminal, turns its text, is not seen, or is forged."""
    found = ["a colour"] if "\x1b[38;5;199m" in text else []
    found += [line for line in re.split(r"[\r\n]+", text) if re.match(rf"\W*{FORGED}", line)]
    rest = _RICH.sub("", text) if on_terminal else text
    found += [
        repr(character)
        for character in rest
        if character != "\n"
        and (unicodedata.category(character)[0] == "C" or character in "\u2028\u2029")
    ]
    return found


def test_only_what_is_seen_is_shown_and_letters_are_as_they_are():
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        text = shown(character)
        if text != character:
            assert text.isascii()
            assert text.isprintable()
            assert text.encode().decode("unicode_escape") == character
        assert dangers(text) == [], number
    assert shown(LETTERS) == LETTERS
    for character, text in (
        ("\x1b", r"\x1b"),
        ("\u202e", r"\u202e"),
        ("\n", r"\n"),
        ("\u200d", r"\u200d"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
    ):
        assert shown(f"a{character}b") == f"a{text}b"


def test_a_stream_keeps_lines_and_has_no_way_around():
    beneath = io.StringIO()
    stream = ShownStream(beneath)
    assert stream.write("one\n\x1b[2J") == 8
    stream.writelines(["two\n", "\u202e\n"])
    print("three", file=stream)
    assert beneath.getvalue() == "one\n\\x1b[2Jtwo\n\\u202e\nthree\n"
    for name in ("buffer", "detach"):
        assert not hasattr(ShownStream(sys.__stdout__), name)


def console(file: io.StringIO, **options: Any) -> ShownConsole:
    return ShownConsole(file, force_terminal=True, width=400, color_system="truecolor", **options)


def test_a_console_has_its_own_colours_and_no_others():
    file = io.StringIO()
    console(file).print(HOSTILE, style="bold red")
    assert dangers(file.getvalue().replace(FORGED, ""), on_terminal=True) == []
    assert "\x1b[1;31m" in file.getvalue()
    assert "[red]c[bold][link=x]" in file.getvalue()
    assert r"\x1b[38;5;199m" in file.getvalue()


@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_sentence_is_one_line(on_terminal):
    file = io.StringIO()
    say(ShownConsole(file, force_terminal=on_terminal, width=20), HOSTILE, f"{LETTERS}:smile:")
    assert dangers(file.getvalue()) == []
    assert file.getvalue().count("\n") == 2
    assert file.getvalue().endswith(f"{LETTERS}:smile:\n")


def test_bars_show_names_too():
    file = io.StringIO()
    on = console(file)
    with progress_bar(on, HOSTILE, 2) as advance:
        advance(1, HOSTILE)
        advance(1, HOSTILE)
    with counted(on, HOSTILE, [1]) as items:
        list(items)
    with slide_bar(on, HOSTILE, 2) as bar:
        bar.working(HOSTILE, 1, 2)
        bar.finished(HOSTILE, 2)
    written = file.getvalue()
    assert dangers(written, on_terminal=True) == []
    assert "\x1b[2K" in written  # a bar, which is drawn anew
    assert r"\u202eb" in written
    assert "[red]c[bold]" in written


def test_what_others_print_during_a_bar_is_not_read_for_colours(monkeypatch):
    file = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, ShownStream(file))
    with progress_bar(console(file), "tiling", 1):
        sys.stdout.write(f"{HOSTILE[:-7]}\n")
        sys.stderr.write(f"{HOSTILE[:-7]}\n")
    assert dangers(file.getvalue(), on_terminal=True) == []
    assert file.getvalue().count(r"\x1b[38;5;199m") == 2


def test_a_log_record_is_one_line_and_its_traceback_has_its_own():
    file = io.StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    logger = logging.Logger("a")
    logger.addHandler(handler)
    logger.warning("%s", HOSTILE)
    assert file.getvalue().count("\n") == 1
    try:
        raise_with_cause()
    except RuntimeError as error:
        error.add_note(HOSTILE.replace("\n", " "))
        logger.exception("%s", HOSTILE)
    assert dangers(file.getvalue()) == []
    assert file.getvalue().count("\nTraceback (most recent call last):\n") == 1
    assert file.getvalue().count("\nRuntimeError: a") == 1
    assert file.getvalue().count("\nValueError: a") == 1
    assert "\n    raise_with_cause()\n" in file.getvalue()


def raise_with_cause() -> None:
    raise RuntimeError(HOSTILE) from ValueError(HOSTILE)


def test_other_handlers_get_the_record_that_was_logged():
    record = logging.LogRecord("a", logging.INFO, "", 1, "%s", (HOSTILE,), None)
    assert dangers(ShownFormatter("%(message)s").format(record)) == []
    assert record.getMessage() == HOSTILE


def test_guarding_twice_is_guarding_once_and_help_is_let_through(monkeypatch):
    beneath = io.StringIO()
    monkeypatch.setattr(sys, "stdout", beneath)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handler = logging.StreamHandler()
    logger = logging.getLogger("of somebody else")
    logger.addHandler(handler)
    terminal.guard_streams()
    terminal.guard_streams()
    logger.removeHandler(handler)
    assert isinstance(sys.stdout, ShownStream)
    assert sys.stdout.beneath is beneath
    assert handler.stream is sys.stderr
    with unguarded():
        assert sys.stdout is beneath
    assert isinstance(sys.stdout, ShownStream)
    assert terminal.stdout().file is beneath


# Every command


@dataclass
class World:
    """What commands are given; hostile wherever it can be."""

    folder: Path
    slides: Path
    broken: Path
    plain: Path
    store: Path
    renamed: Path
    labels: Path
    run: Path
    recipe: Path


@pytest.fixture(scope="module")
def world(cohort, store, run, tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    slides = folder / f"slides{HOSTILE}"
    slides.mkdir()
    good = slides / f"{HOSTILE}.svs"
    shutil.copy(cohort / "slides/slide_001.svs", good)
    (slides / f"broken{HOSTILE}.svs").write_text("<html>")
    os.symlink(good, os.fsencode(slides) + b"/\xff\x9b.svs")  # a name that is no text
    plain = folder / f"generic{HOSTILE}.tif"
    tifffile.imwrite(
        plain,
        np.full((512, 512, 3), 200, np.uint8),
        tile=(256, 256),
        photometric="rgb",
        description=f"{HOSTILE}|MPP = {HOSTILE}|AppMag = {HOSTILE}".encode().replace(b"\0", b""),
        software=HOSTILE.encode(),
        metadata=None,
    )
    few = folder / "few"
    few.mkdir()
    for name in ("slide_001", "slide_002"):
        shutil.copytree(store / f"{name}.zarr", few / f"{name}.zarr")
    for name in ("status.csv", "qc.csv", "tile.json"):
        shutil.copy(store / name, few / name)
    _spoil(few / "status.csv", add={"status": "failed"})
    _spoil(few / "qc.csv", add={})
    renamed = shutil.copytree(few, folder / "renamed")
    shutil.move(renamed / "slide_002.zarr", renamed / f"{HOSTILE}.zarr")
    forge(renamed / "slide_001.zarr", lambda own: own.update({"vendor": HOSTILE, HOSTILE: HOSTILE}))
    forge(few / "slide_002.zarr", lambda own: own.update({"slide_id": HOSTILE}))
    files = read_manifest(few / "slide_001.zarr").files
    listed = {**files, f"x{HOSTILE}".replace("\r\n", ""): FileEntry(1, "0" * 64)}
    (few / "slide_001.zarr" / MANIFEST_NAME).write_bytes(Manifest(listed).to_bytes())
    labels = folder / "labels.csv"
    with labels.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["slide_id", "label", "patient", f"x{HOSTILE}"])
        writer.writerows([f"slide_00{k}", f"{HOSTILE}{k % 2}", HOSTILE, "1"] for k in range(1, 9))
        writer.writerow([f"lost{HOSTILE}", f"{HOSTILE}1", HOSTILE, "1"])
    recipe = folder / "recipe.yaml"
    recipe.write_text(f'train:\n  "epochs{_yaml(HOSTILE)}": 3\n')
    return World(folder, slides, good, plain, few, renamed, labels, run, recipe)


def _yaml(text: str) -> str:
    return "".join(f"\\U{ord(character):08x}" for character in text)


def _spoil(path: Path, add: dict[str, str]) -> None:
    """Give a table a row whose every cell is hostile but for ``add``, and hostile reasons."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    rows.append({**dict.fromkeys(rows[0], HOSTILE), **add})
    if "reason" in rows[0]:
        rows[1] |= {"status": "failed", "reason": HOSTILE}
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


TRAIN = ("--set", "train.threads=1", "--epochs", 1, "--encoder", "test_resnet", "--device", "cpu")
REQUESTS: dict[str, Callable[[World, Path], tuple[object, ...]]] = {
    "tile": lambda w, out: ("tile", w.slides, w.plain, "-o", out / HOSTILE),
    "tile_named": lambda w, out: ("tile", w.broken, w.plain, "-o", out, "--mpp-override", 0.5),
    "dry_run": lambda w, out: ("tile", w.slides, w.plain, "-o", out, "--dry-run"),
    "masks": lambda w, out: ("tile", w.slides, "-o", out, "--masks", w.slides),
    "coords": lambda w, out: ("tile", w.slides, "-o", out, "--coords", w.slides),
    "manifest": lambda w, out: ("tile", w.labels, "-o", out),
    "scheduler": lambda w, out: ("tile", w.slides, "-o", out, "--scheduler", HOSTILE),
    "recipe": lambda w, out: ("tile", w.slides, "-o", out, "--recipe", w.recipe),
    "key": lambda w, out: ("tile", w.slides, "-o", out, "--hash-names", w.broken),
    "info": lambda w, out: ("info", w.broken, w.plain, *sorted(w.slides.iterdir())),
    "info_lost": lambda w, out: ("info", w.slides / "none"),
    "verify": lambda w, out: ("verify", w.store, w.renamed, "--slides", w.slides),
    "verify_lost": lambda w, out: ("verify", f"s3://{HOSTILE}"),
    "export": lambda w, out: ("export", w.store, "-o", out, "--format", "clam"),
    "export_renamed": lambda w, out: ("export", w.renamed, "-o", out, "--format", "png"),
    "export_format": lambda w, out: ("export", w.store, "-o", out, "--format", HOSTILE),
    "sample": lambda w, out: ("sample", w.store, "-o", out, "--sampler", "windows"),
    "sample_renamed": lambda w, out: ("sample", w.renamed, "-o", out),
    "sample_name": lambda w, out: ("sample", w.store, "-o", out, "--sampler", HOSTILE),
    "train": lambda w, out: ("train", w.store, "--labels", w.labels, "-o", out / "run", *TRAIN),
    "train_renamed": lambda w, out: ("train", w.renamed, "--labels", w.labels, "-o", out / "run"),
    "train_column": lambda w, out: (
        *("train", w.store, "--labels", w.labels, "-o", out / "run"),
        *("--label-column", HOSTILE),
    ),
    "annotations": lambda w, out: (
        *("train", w.store, "--labels", w.labels, "-o", out / "run"),
        *("--annotations", w.slides),
    ),
    "weights": lambda w, out: (
        *("train", w.store, "--labels", w.labels, "-o", out / "run"),
        *("--set", f"encoder.weights={HOSTILE}"),
    ),
    "predict": lambda w, out: ("predict", w.run, w.store, "-o", out / HOSTILE, "--device", "cpu"),
    "predict_slides": lambda w, out: ("predict", w.run, w.slides, "-o", out, "--device", "cpu"),
    "predict_run": lambda w, out: ("predict", w.slides, w.store, "-o", out),
    "predict_split": lambda w, out: ("predict", w.run, w.store, "-o", out, "--split", HOSTILE),
    "show_key": lambda w, out: ("show", "--set", f"{HOSTILE}=1"),
    "show_value": lambda w, out: ("show", "--set", f'encoder.weights="{HOSTILE}"'),
    "show_recipe": lambda w, out: ("show", "--recipe", HOSTILE),
    "doctor": lambda w, out: ("doctor", w.slides / "none"),
    "demo": lambda w, out: ("demo", "-o", w.broken),
    "demo_method": lambda w, out: ("demo", "-o", out, "--method", HOSTILE),
    "option": lambda w, out: ("tile", f"--x{HOSTILE}"),
    "option_short": lambda w, out: ("tile", f"-{HOSTILE[1:]}"),
    "command": lambda w, out: (HOSTILE,),
    "excess": lambda w, out: ("show", HOSTILE, HOSTILE),
}


@pytest.fixture
def told(start, tmp_path) -> Callable[..., list[str]]:
    """Run ``wsi-hr -v ARGS...`` as a process: what it wrote, and in which ways that is dangerous.

    On a terminal both of its streams are that terminal.
    """

    def run(*args: object, on_terminal: bool, before: str = "") -> str:
        if not on_terminal:
            command = start("-v", *args, before=before)
            command.wait()
            return "".join(path.read_text(encoding="utf-8") for path in (command.out, command.err))
        master, slave = os.openpty()
        join = f"import os; fd = os.open({os.ttyname(slave)!r}, os.O_RDWR | os.O_NOCTTY)\n"
        join += "os.dup2(fd, 1); os.dup2(fd, 2); os.environ.pop('NO_COLOR', None)\n"
        join += "import sys; sys.stdout, sys.stderr = (open(n, 'w', buffering=1) for n in (1, 2))\n"
        join += "os.environ['TERM'] = 'xterm-256color'\n"
        heard: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(master, heard))
        listener.start()
        try:
            start("-v", *args, before=join + before).wait()
        finally:
            os.close(slave)
            listener.join()
            os.close(master)
        return b"".join(heard).decode().replace("\r\n", "\n")

    return run


def _listen(master: int, heard: list[bytes]) -> None:
    """Until nobody has the terminal open any more."""
    while True:
        try:
            some = os.read(master, 65536)
        except OSError:
            return
        if not some:
            return
        heard.append(some)


@pytest.mark.fault("B55")
@pytest.mark.parametrize("on_terminal", [True, False], ids=["terminal", "file"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_every_command_shows_hostile_names(told, world, tmp_path, request_, on_terminal):
    text = told(*REQUESTS[request_](world, tmp_path / "out"), on_terminal=on_terminal)
    assert text
    assert dangers(text, on_terminal=on_terminal) == []
    assert re.search(r"\\x1b|\\u202e|\\u001b|\\e", text), f"the name is not told: {text}"


AROUND = {
    "a crash": "raise RuntimeError(HOSTILE)",
    "a crash with a cause": "raise RuntimeError(HOSTILE) from ValueError(HOSTILE)",
    "a warning": "import warnings; warnings.simplefilter('always'); warnings.warn(HOSTILE)",
    "a library that prints": "print(LINE)",
    "a library that complains": "import sys; sys.stderr.write(LINE)",
    "a log of a library": "import logging; logging.getLogger('x').error('%s', HOSTILE)",
    "a thread that crashes": (
        "import threading\n    def f(): raise RuntimeError(LINE)\n"
        "    t = threading.Thread(target=f); t.start(); t.join()"
    ),
    "a refusal of typer": "import typer; raise typer.BadParameter(HOSTILE)",
    "an error of the system": "raise OSError(5, HOSTILE, HOSTILE)",
    "an error to be mended": "from wsi_hr.errors import SlideError; raise SlideError(HOSTILE)",
    "a progress bar of a library": "import sys; sys.stderr.write(chr(13) + LINE)",
}


@pytest.mark.fault("B55")
@pytest.mark.parametrize("on_terminal", [True, False], ids=["terminal", "file"])
@pytest.mark.parametrize("how", AROUND)
def test_what_goes_around_the_sentences_is_shown(told, how, on_terminal):
    before = (
        "import pipelines.settings\n"
        f"HOSTILE = {HOSTILE!r}\n"
        f"LINE = {HOSTILE.replace(FORGED, '')!r}\n"
        f"def resolve(*a, **k):\n    {AROUND[how]}\n    raise SystemExit(1)\n"
        "globals().update(HOSTILE=HOSTILE, LINE=LINE)\n"
        "pipelines.settings.resolve = resolve\n"
    )
    text = told("show", on_terminal=on_terminal, before=before)
    assert dangers(text, on_terminal=on_terminal) == []
    assert r"\u202e" in text


@pytest.mark.fault("B55")
def test_a_process_that_reads_a_slide_tells_nothing_by_itself():
    code = (
        "import logging; from pipelines.terminal import *\n"
        "from wsi_hr.slides.isolate import run_isolated\n"
        "from tests.pipelines.test_terminal import speak\n"
        "guard_streams(); guard_crash(); set_up_log(logging.INFO)\n"
        "run_isolated(speak, deadline_s=60, memory_gib=4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert dangers(done.stdout + done.stderr) == []
    assert r"WARNING: a\x1b[2J" in done.stderr
    assert r"RuntimeError: a\x1b[2J" in done.stderr


def speak() -> None:
    """What a library might do in there."""
    sys.stdout.write(HOSTILE)
    sys.stderr.write(HOSTILE)
    os.write(1, HOSTILE.encode())
    os.write(2, HOSTILE.encode())
    logging.getLogger("wsi_hr").warning("%s", HOSTILE)
    raise RuntimeError(HOSTILE)


@pytest.mark.fault("B55")
def test_a_worker_that_others_started_tells_nothing_dangerous():
    code = (
        "import logging, sys; from pipelines.terminal import guard_worker\n"
        "from tests.pipelines.test_terminal import HOSTILE, FORGED\n"
        "logging.getLogger('distributed').addHandler(logging.StreamHandler())\n"
        "guard_worker()\n"
        "logging.getLogger('wsi_hr.x').warning('%s', HOSTILE)\n"
        "logging.getLogger('distributed.worker').warning('%s', HOSTILE.replace(FORGED, ''))\n"
        "sys.stderr.write(HOSTILE.replace(FORGED, ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert dangers(done.stdout + done.stderr) == []
    assert done.stderr.count(r"a\x1b[2J") == 4  # the second through a handler of each


def test_on_a_terminal_help_and_failures_have_their_colours(told, world, tmp_path):
    assert "\x1b[1m" in told("tile", "--help", on_terminal=True)
    tiled = told("tile", world.slides, "-o", tmp_path / "out", on_terminal=True)
    assert "\x1b[2K" in tiled  # the bar
    assert "\x1b" not in told("tile", "--help", on_terminal=False)


@pytest.mark.fault("B55")
def test_files_keep_the_true_names(told, world, tmp_path):
    told("tile", world.slides, "-o", tmp_path / "out", on_terminal=False)
    with (tmp_path / "out/status.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert any(row["path"].endswith(f"{HOSTILE}.svs") for row in rows)
