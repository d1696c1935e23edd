"""``--hash-names`` where it would not hide the names, or would lose them: refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Outcome


@pytest.fixture(scope="module")
def slides(cohort, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in (1, 2):
        shutil.copy(cohort / f"slides/slide_00{number}.svs", folder / f"DOE_{number}.svs")
    return folder


@pytest.fixture
def tile(cli, slides):
    """``wsi-hr tile`` of the slides, into a folder and with options."""

    def call(store: Path, *options: object) -> Outcome:
        return cli("tile", slides, "-o", store, "--mpp", 2, "--patch-size", 64, *options)

    return call


def refused(ended: Outcome, sentence: str) -> bool:
    assert sentence in ended.err
    return ended.code == 2


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_key_that_would_lie_in_what_is_given_away(tile, cli, tmp_path):
    store = tmp_path / "store"
    for key in (store / "key.csv", store / "deep/key.csv", tmp_path / "link/key.csv"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(store)
        assert refused(tile(store, "--hash-names", key), "and whoever has both has the names")
    assert not store.exists()
    assert tile(store, "--hash-names", tmp_path / "key.csv").code == 0
    shutil.copy(tmp_path / "key.csv", store / "key.csv")
    inside = ("--hash-names", store / "key.csv")
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,label\nDOE_1,a\nDOE_2,b\n")
    ended = cli("train", store, "--labels", labels, "-o", tmp_path / "run", *inside)
    assert refused(ended, "and whoever has both has the names")
    assert refused(cli("verify", store, "--slides", tmp_path, *inside), "whoever has both")


def test_another_key_none_or_one_for_a_store_without(tile, cli, slides, tmp_path):
    hashed, plain, key, other = (tmp_path / name for name in ("hashed", "plain", "k.csv", "o.csv"))
    assert tile(hashed, "--hash-names", key).code == 0
    assert tile(plain).code == 0
    before = names_below(tmp_path)
    assert refused(tile(hashed), "holds stores of hashed names; give their key file")
    assert refused(tile(hashed, "--hash-names", other), "o.csv: is not the key file that")
    assert refused(tile(plain, "--hash-names", key), "holds stores named after their slides")
    dry = tile(plain, "--hash-names", key, "--dry-run")
    assert refused(dry, "holds stores named after their slides")
    key.rename(other)
    assert refused(tile(hashed, "--hash-names", key), "k.csv: is not the key file that")
    other.rename(key)
    compared = ("verify", hashed, "--slides", slides)
    assert refused(cli(*compared), "holds stores of hashed names; give their key file")
    assert refused(cli(*compared, "--hash-names", other), "no such file; give the key file")
    assert refused(cli("verify", hashed, "--hash-names", key), "give --slides too")
    ended = cli("verify", plain, "--slides", slides, "--hash-names", key)
    assert refused(ended, "holds stores named after their slides")
    assert names_below(tmp_path) == before, "not even a new key"


def test_a_folder_in_which_an_earlier_run_left_names(tile, tmp_path):
    """A dry run before the option was thought of: its plan would stay beside the stores."""
    store, key = tmp_path / "store", tmp_path / "key.csv"
    assert tile(store, "--dry-run").code == 0
    ended = tile(store, "--hash-names", key)
    assert refused(ended, "plan.csv: names slides after their files, as an earlier run did")
    assert not key.exists()
    (store / "plan.csv").unlink()
    assert tile(store, "--hash-names", key, "--dry-run").code == 0
    assert tile(store, "--hash-names", key).code == 0


def test_stores_that_hold_the_path_of_their_slide(tile, tmp_path):
    ended = tile(tmp_path / "store", "--hash-names", tmp_path / "k.csv", "--set=tile.codec=virtual")
    assert refused(ended, "a virtual store holds the path of its slide; choose another tile.codec")
    assert names_below(tmp_path) == set()


def test_a_key_file_that_is_none(tile, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("slide,label\na,b\n")
    store = tmp_path / "store"
    assert refused(tile(store, "--hash-names", table), "labels.csv: is no key file of wsi-hr")
    assert refused(tile(store, "--hash-names", tmp_path), "cannot be read")
    assert refused(tile(store, "--hash-names", tmp_path / "no/k.csv"), "there is no folder")
    assert table.read_text() == "slide,label\na,b\n"
    assert names_below(tmp_path) == {"labels.csv"}


def test_train_without_the_key_says_what_is_amiss(tile, cli, tmp_path):
    store, key, labels = tmp_path / "store", tmp_path / "key.csv", tmp_path / "labels.csv"
    assert tile(store, "--hash-names", key).code == 0
    labels.write_text("slide,label\nDOE_1,a\nDOE_2,b\n")
    ended = cli("train", store, "--labels", labels, "-o", tmp_path / "run")
    assert refused(ended, "no row fits a slide")
    assert "labels that call them by their own need --hash-names KEYFILE" in ended.out
    assert not (tmp_path / "run").exists()


def test_predict_from_a_store_that_is_named_already(cli, run, store, tmp_path):
    ended = cli("predict", run, store, "-o", tmp_path / "out", "--hash-names", tmp_path / "k.csv")
    assert refused(ended, "is tiled already, so it would have no effect")
