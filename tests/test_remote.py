"""Paths behind a URL do what paths do; what nothing here speaks is refused in one sentence."""

from __future__ import annotations

import errno
import itertools
import pickle
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from wsi_hr import remote
from wsi_hr.errors import ReadError, StoreError
from wsi_hr.listing import is_there, matching, read_if_there
from wsi_hr.remote import Range, RemotePath, place, read_ranges
from wsi_hr.runtime import atomic_path, sha256_file, write_text_atomic

_numbers = itertools.count()


@pytest.fixture
def folder() -> RemotePath:
    found = place(f"memory://tests/{next(_numbers)}/")
    assert isinstance(found, RemotePath)
    return found


def test_what_is_a_path_and_what_a_url(tmp_path):
    assert place("store") == Path("store")
    assert place("a:b/c") == Path("a:b/c")
    assert place(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert str(place("memory://x/y/")) == "memory://x/y"
    for text, sentence in (
        ("nosuch://x", "nothing here knows nosuch://"),
        ("gdrive://x", r"gdrive:// needs a driver that is not installed \(Please install"),
    ):
        with pytest.raises(StoreError, match=sentence):
            place(text)


def test_it_does_what_a_path_does(folder, tmp_path):
    for root in (folder, tmp_path):
        if root is tmp_path:
            (root / "one/two").mkdir(parents=True)
        (root / "one/two/c.txt").write_bytes(b"abc")
        (root / "one/b ü.txt").write_bytes(b"")
    for name in (".", "one", "one/two", "one/two/c.txt", "one/b ü.txt", "none"):
        here, there = (root if name == "." else root / name for root in (folder, tmp_path))
        for asked in ("exists", "is_dir", "is_file"):
            assert getattr(here, asked)() == getattr(there, asked)(), (name, asked)
        if name != ".":
            assert (here.name, here.suffix) == (there.name, there.suffix)
            assert here.parent.name == (folder.name if "/" not in name else there.parent.name)
        if there.is_dir():
            assert [p.name for p in here.iterdir()] == sorted(p.name for p in there.iterdir())
    assert [p.name for p in matching(folder / "one", "*.txt")] == ["b ü.txt"]
    assert folder.sizes() == {"one/two/c.txt": 3, "one/b ü.txt": 0}
    assert (folder / "none").sizes() == {}
    assert (folder / "one/two/c.txt").read_text() == "abc"
    assert sha256_file(folder / "one/two/c.txt") == sha256_file(tmp_path / "one/two/c.txt")
    assert pickle.loads(pickle.dumps(folder)) == folder
    with pytest.raises(FileNotFoundError) as told:
        (folder / "none").read_bytes()
    assert told.value.strerror == "No such file or directory"
    assert told.value.filename == f"{folder}/none"
    (folder / "one/two/c.txt").unlink()
    (folder / "one/two/c.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "one/two/c.txt").unlink()


def test_ranges_come_in_the_order_asked(folder):
    for name in "ab":
        (folder / name).write_bytes(name.encode() * 5 + b"0123456789")
    asked = [Range(folder / "b", 5, 8), Range(folder / "a", 3, 7), Range(folder / "b", 0, 1)]
    assert read_ranges(asked) == [b"012", b"aa01", b"b"]
    assert read_ranges([]) == []
    with pytest.raises(FileNotFoundError):
        read_ranges([Range(folder / "c", 0, 1)])


def test_a_file_appears_whole_or_not_at_all(folder):
    write_text_atomic(folder / "a", "first")

    def write_half() -> None:
        with atomic_path(folder / "a") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (folder / "a").read_text() == "first"
    write_text_atomic(folder / "a", "second")
    assert (folder / "a").read_text() == "second"
    assert [path.name for path in folder.iterdir()] == ["a"]


class Failing(MemoryFileSystem):
    """A server that answers no question."""

    def info(self, path, **options):
        raise PermissionError(errno.EACCES, "Forbidden")


def test_a_server_that_fails_has_not_said_that_nothing_is_there(folder, monkeypatch):
    path, none = folder / "manifest.json", folder / "none"
    path.write_bytes(b"x")
    assert (path.exists(), path.is_file(), path.is_dir()) == (True, True, False)
    assert (folder.exists(), folder.is_file(), folder.is_dir()) == (True, False, True)
    assert (none.exists(), none.is_file(), none.is_dir()) == (False, False, False)
    assert not is_there(none)
    assert read_if_there(none) is None
    monkeypatch.setattr(remote, "_driver", lambda url: (Failing(), "/a"))
    for question in (path.exists, path.is_file, folder.is_dir):
        with pytest.raises(OSError, match="Forbidden"):
            question()
    with pytest.raises(ReadError, match=r"manifest\.json: cannot be read .*Forbidden"):
        is_there(path)
