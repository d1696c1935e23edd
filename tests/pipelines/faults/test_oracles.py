"""Each oracle finds the bug that it is for: the program is changed, and run on one broken slide."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines import tile_jobs
from pipelines.commands import tile as tile_command
from pipelines.status import StatusTable
from wsi_hr.errors import WsiHrError
from wsi_hr.store.patch_store import PatchStore

from .oracle import pixels, timed, wrong_ending, wrong_pixels, wrong_table, wrong_tree
from .slide_damage import write_victim

SLIDES = ("broken", "sound")
Plant = Callable[[pytest.MonkeyPatch], None]


def replaced(owner: object, name: str, bug: Callable[..., object]) -> Plant:
    """A function of the program that also has, or has instead, a bug; given the sound one."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        sound = getattr(owner, name)
        patch.setattr(owner, name, lambda *given, **named: bug(sound, *given, **named))

    return plant


def silent(finish, *given):
    return None


def fails_without_a_word(finish, *given):
    raise SystemExit(1)


def shows_the_traceback(work, *given, **named):
    try:
        return work(*given, **named)
    except WsiHrError as error:
        raise WsiHrError("".join(traceback.format_exception(error))) from error


def unforeseen(work, *given, **named):
    raise KeyError("x")


def slow(work, *given, **named):
    time.sleep(0.5)
    return work(*given, **named)


def forgotten(put, table, row):
    if row["slide_id"] != "broken":
        put(table, row)


def under_two_names(put, table, row):
    put(table, row)
    if row["slide_id"] == "broken":
        table._others += [dict(row), row | {"slide_id": "stranger"}]


def stateless(put, table, row):
    put(table, row | {"status": "?", "reason": ""})


def harmed(publish, written, path):
    publish(written, path)
    with (path / "zarr.json").open("a") as handle:
        handle.write(" ")
    (path / "mask/zarr.json").unlink()
    (path.parent / "left.tmp").touch()


ENDING: tuple[tuple[Plant, str], ...] = (
    (replaced(tile_command, "finish", silent), "exit code 0 instead of 1"),
    (replaced(tile_command, "finish", fails_without_a_word), "does not say what failed"),
    (replaced(tile_jobs, "run_isolated", shows_the_traceback), "prints a traceback"),
    (replaced(tile_jobs, "run_isolated", unforeseen), "an error that nobody expected"),
    (replaced(tile_jobs, "run_isolated", slow), "hangs"),
)
TABLE: tuple[tuple[Plant, str], ...] = (
    (replaced(StatusTable, "put", forgotten), "broken has 0 rows"),
    (replaced(StatusTable, "put", under_two_names), "broken has 2 rows"),
    (replaced(StatusTable, "put", under_two_names), "stranger is in the table"),
    (replaced(StatusTable, "put", stateless), "status is ?"),
    (replaced(StatusTable, "put", stateless), "has no reason"),
)
TREE = (
    "sound.zarr/zarr.json is different",
    "sound.zarr/mask/zarr.json is missing",
    "left.tmp is a stray",
)


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_victim(folder / "sound.svs")
    (folder / "broken.svs").write_text("<html>")
    return folder


@pytest.fixture
def run(cli, slides, tmp_path):
    """Tile them; how it ended, and where the stores are."""
    settings = ("--mpp", 0.5, "--patch-size", 128, "--workers", 1)
    return lambda name="store": (
        timed(cli, "tile", slides, "-o", tmp_path / name, *settings),
        tmp_path / name,
    )


def test_of_a_sound_run_nothing_is_said(run):
    (ended, store), (_, again) = run(), run("again")
    assert wrong_ending(ended, 1) == []
    assert wrong_table(store / "status.csv", SLIDES) == []
    assert wrong_tree(store, again) == []
    assert wrong_pixels(store / "sound.zarr", pixels(again / "sound.zarr")) == []


@pytest.mark.parametrize(("plant", "words"), ENDING, ids=[words for _, words in ENDING])
def test_a_wrong_ending_is_found(run, monkeypatch, plant, words):
    plant(monkeypatch)
    ended, _ = run()
    deadline_s = 0.4 if words == "hangs" else 60
    assert any(words in problem for problem in wrong_ending(ended, 1, deadline_s))


@pytest.mark.parametrize("said", ["", "error: a\nerror: b\n"])
def test_a_refusal_in_no_sentence_or_two_is_found(cli, monkeypatch, tmp_path, said):
    from pipelines import cli as program

    monkeypatch.setattr(program, "complain", lambda sentence: print(said, file=program.sys.stderr))
    ended = timed(cli, "tile", tmp_path / "nowhere", "-o", tmp_path / "store")
    assert any("errors instead of one" in problem for problem in wrong_ending(ended, 2))


@pytest.mark.parametrize(("plant", "words"), TABLE, ids=[words for _, words in TABLE])
def test_a_wrong_table_is_found(run, monkeypatch, plant, words):
    plant(monkeypatch)
    _, store = run()
    assert any(words in problem for problem in wrong_table(store / "status.csv", SLIDES))


def test_a_wrong_tree_is_found(run, monkeypatch):
    _, wanted = run()
    replaced(tile_jobs, "publish", harmed)(monkeypatch)
    _, store = run("harmed")
    assert set(TREE) <= set(wrong_tree(store, wanted))
    assert set(TREE[:2]) <= set(wrong_tree(store, wanted, "sound"))


def test_black_and_lost_patches_are_found(run, monkeypatch):
    _, store = run()
    wanted = pixels(store / "sound.zarr")
    read = PatchStore.read

    def black(opened: PatchStore, chosen, *given):
        patches = np.array(read(opened, chosen, *given))
        patches[3] = 0
        return patches

    monkeypatch.setattr(PatchStore, "read", black)
    assert wrong_pixels(store / "sound.zarr", wanted) == ["1 patches are changed: a silent change"]
    monkeypatch.undo()
    assert wrong_pixels(store / "sound.zarr", wanted, lost=1) == ["16 patches instead of 15"]
