"""A folder that cannot be listed is never taken for an empty one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wsi_hr.errors import ReadError
from wsi_hr.listing import matching, walk_files
from wsi_hr.store.manifest import commit_folder, is_ours
from wsi_hr.tiling.mask_files import is_edited


@pytest.fixture
def closed(tmp_path, monkeypatch) -> Path:
    """A folder with a file, which the operating system does not list; also not for root."""
    folder = tmp_path / "all" / "closed"
    folder.mkdir(parents=True)
    (folder / "a.zarr").touch()

    def refusing(real):
        def list_it(path="."):
            if Path(os.fspath(path)) == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            return real(path)

        return list_it

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return folder


def test_what_is_asked_for_is_found(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.zarr", "a.zarr", "c.txt", "in/d.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert [path.name for path in matching(tmp_path, "*.zarr")] == ["a.zarr", "b.zarr"]
    assert matching(tmp_path / "none", "*") == matching(tmp_path / "c.txt", "*") == []
    found = {path.relative_to(tmp_path).as_posix() for path in walk_files(tmp_path)}
    assert found == {"b.zarr", "a.zarr", "c.txt", "in/d.txt", "link"}


def test_a_folder_that_cannot_be_listed_is_an_error(closed):
    with pytest.raises(PermissionError):
        matching(closed, "*.zarr")
    with pytest.raises(PermissionError):
        list(walk_files(closed.parent))


def test_no_store_is_finished_without_the_files_of_such_a_folder(closed, tmp_path):
    with pytest.raises(PermissionError):
        commit_folder(closed.parent, tmp_path / "s.zarr", {})
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("asked", [is_ours, is_edited])
def test_what_cannot_be_read_is_neither_ours_nor_foreign(tmp_path, monkeypatch, asked):
    def fail(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(ReadError, match="cannot be read"):
        asked(tmp_path / "a")
