"""Only a plain name becomes a file, and it is in the folder it was meant for."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from fsspec.core import url_to_fs
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.errors import FileNameError
from wsi_hr.file_names import (
    beside,
    file_below,
    file_in,
    file_name,
    name_problem,
    own_folder,
    plain_name,
    require_own,
)
from wsi_hr.remote import RemotePath

BAD_NAMES = {
    "": "is empty",
    ".": "begins with a dot",
    "..": "begins with a dot",
    ".hidden": "begins with a dot",
    "../x": "separator",
    "a/b": "separator",
    "/etc/x": "separator",
    "a/": "separator",
    "a\\b": "separator",
    "..\\x": "separator",
    "C:\\x": "separator",
    "a\0b": "control",
    "a\nb": "control",
    "a\x1b[2Jb": "control",
    "a\x7f": "control",
    "a\x85b": "control",
    "a\u2028b": "line break",
    "a\u2029b": "line break",
    "a\ud800b": "no encoding",
    "x" * 240: "longer than",
    "\u00e9" * 120: "longer than",
}
GOOD_NAMES = ("a", "a.b", "a b", "-a", "a..b", "caf\u00e9", "x" * 235, "a:b", "a*[b]?", "~", "a'b")


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("folder", [Path("folder"), RemotePath("memory://folder")])
def test_what_is_no_plain_name_is_refused_with_where_it_came_from(name, folder):
    with pytest.raises(FileNameError, match=BAD_NAMES[name]) as caught:
        file_in(folder, name, ".csv", of="slide id in status.csv")
    assert str(caught.value).startswith("slide id in status.csv ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    with pytest.raises(FileNameError):
        file_below(folder, f"inner/{name}/b" if name != "a/b" else "a//b", of="file")


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("folder", [Path("folder"), RemotePath("memory://folder")])
def test_a_plain_name_stays_as_it_is(name, folder):
    path = file_in(folder, name, ".csv", of="slide id")
    assert path.name == f"{name}.csv"
    assert path.parent == folder
    assert file_name(name, ".csv", of="slide id") == f"{name}.csv"


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_every_accepted_name_is_one_file_of_its_folder(name):
    if name_problem(name, ".csv") is not None:
        return
    path = file_in(Path("/folder"), name, ".csv", of="slide id")
    assert os.path.normpath(path) == str(path)
    assert path.parent == Path("/folder")
    assert len(os.fsencode(f".{path.name}.old.wsi-hr.tmp")) <= 255


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_names_of_ours_are_made_plain(name):
    problem = name_problem(plain_name(name))
    assert problem is None or "longer" in problem


@pytest.mark.parametrize("name", [None, 3, ["a"], {"a": 1}, b"a"])
def test_what_is_no_text_is_no_name(name):
    assert name_problem(name) == "is no text"


def test_two_urls_in_one_are_refused():
    """fsspec takes what stands before ``::`` for the whole place: another slide's store."""
    with pytest.raises(FileNameError, match="splits URLs"):
        file_in(RemotePath("memory://folder"), "a.zarr::b", ".zarr", of="slide id")
    assert file_in(Path("folder"), "a::b", of="slide id") == Path("folder/a::b")


def test_the_suffix_counts():
    assert name_problem("x" * 239) is None
    assert name_problem("x" * 236, ".csv") == "is longer than 235 bytes"


def test_relative_names_stay_below(tmp_path):
    assert file_below(tmp_path, "a/b/c.0", of="file") == tmp_path / "a" / "b" / "c.0"
    assert str(file_below(RemotePath("memory://x"), "a/b", of="file")) == "memory://x/a/b"
    for name in ("", "/a", "a//b", "a/", "a/../b", "./a", "../a", "a/.b"):
        with pytest.raises(FileNameError):
            file_below(tmp_path, name, of="file")


def test_a_temporary_name_is_beside():
    assert beside(Path("a/b.csv"), ".", ".tmp") == Path("a/.b.csv.tmp")
    assert str(beside(RemotePath("memory://a/b"), after=".old")) == "memory://a/b.old"


def test_a_folder_that_is_a_link_out_of_the_output_is_not_ours(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "qc").symlink_to(elsewhere)
    (out / "gone").symlink_to(tmp_path / "nowhere")
    (out / "real").mkdir()
    (out / "inside").symlink_to(out / "real")
    for name, ask in itertools.product(("qc", "gone"), (own_folder, require_own)):
        with pytest.raises(FileNameError, match="is a link that leads out of"):
            ask(out, name)
    assert not (tmp_path / "nowhere").exists()
    assert own_folder(out, "inside") == out / "inside"
    assert own_folder(out, "new").is_dir()
    assert not require_own(out, "newer").exists()


def test_a_link_to_the_output_folder_itself_is_no_link_out_of_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert own_folder(tmp_path / "out", "qc").is_dir()


def test_a_server_with_stars_in_its_names_loses_nothing():
    """An empty folder is removed as it is called, not as a pattern that fits another store."""
    file = RemotePath("memory://stars/store/a1.zarr/zarr.json")
    file.write_bytes(b"x")
    empty = file_in(RemotePath("memory://stars/store"), "a[1].zarr", of="store")
    url_to_fs(empty.url)[0].makedirs("/stars/store/a[1].zarr/mask")
    assert empty.is_dir()
    empty.remove_empty()
    assert file.is_file()
    assert not empty.exists()
