from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsi_hr.errors import StoreError
from wsi_hr.store.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    check_sizes,
    commit_folder,
    read_checked,
    read_manifest,
    sweep,
    verify_store,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "a.zarr.tmp"
    (folder / "inner").mkdir(parents=True)
    (folder / "zarr.json").write_bytes(b"{}")
    (folder / "inner" / "data").write_bytes(b"0123456789")
    (folder / "empty").write_bytes(b"")
    commit_folder(folder, tmp_path / "a.zarr", {})
    return tmp_path / "a.zarr"


def test_the_manifest_lists_every_file(store: Path) -> None:
    manifest = read_manifest(store)
    assert sorted(manifest.files) == ["empty", "inner/data", "zarr.json"]
    assert manifest.files["inner/data"] == FileEntry(
        10, "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    )
    check_sizes(store, manifest)
    assert verify_store(store) == []
    assert not store.with_name("a.zarr.tmp").exists()


def test_a_flipped_bit_in_any_byte_of_the_manifest_is_found(store: Path) -> None:
    content = (store / MANIFEST_NAME).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (store / MANIFEST_NAME).write_bytes(damaged)
        with pytest.raises(StoreError):
            read_manifest(store)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"files": 3}'])
def test_what_is_no_manifest_is_damaged(store: Path, content: bytes) -> None:
    (store / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json: damaged; delete .* run wsi-hr tile"):
        read_manifest(store)
    assert verify_store(store)


def test_a_newer_schema_is_named_and_not_guessed_at(store: Path) -> None:
    document = json.loads((store / MANIFEST_NAME).read_text())
    document["schema_version"] = 2
    document["files"] = "elsewhere"  # whatever a later version makes of it
    (store / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"newer wsi-hr \(store schema 2, .* update wsi-hr"):
        read_manifest(store)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "inner/../../secret"])
def test_a_manifest_that_lists_files_elsewhere_is_refused(store: Path, name: str) -> None:
    (store / MANIFEST_NAME).write_bytes(Manifest({name: FileEntry(0, "0" * 64)}).to_bytes())
    with pytest.raises(StoreError, match="lies outside"):
        read_manifest(store)


def test_a_small_file_is_compared_when_it_is_read(store: Path) -> None:
    manifest = read_manifest(store)
    assert read_checked(store, manifest, "inner/data") == b"0123456789"
    (store / "inner" / "data").write_bytes(b"0123456780")
    with pytest.raises(StoreError, match="inner/data: damaged"):
        read_checked(store, manifest, "inner/data")
    (store / "inner" / "data").unlink()
    with pytest.raises(StoreError, match="inner/data: missing"):
        read_checked(store, manifest, "inner/data")
    with pytest.raises(StoreError, match="has no other"):
        read_checked(store, manifest, "other")


def test_verify_names_every_problem(store: Path) -> None:
    (store / "inner" / "data").write_bytes(b"0123456780")
    (store / "empty").unlink()
    (store / "zarr.json").unlink()
    (store / "zarr.json").mkdir()
    (store / "stray").write_bytes(b"x")
    problems = verify_store(store)
    assert [problem.split(": ")[0] for problem in problems] == [
        str(store / name) for name in ("empty", "inner/data", "stray", "zarr.json")
    ]
    for problem, word in zip(
        problems, ("missing", "changed", "not part", "not a file"), strict=True
    ):
        assert word in problem


def test_what_is_no_store_says_what_it_is(tmp_path: Path, store: Path) -> None:
    def sentence(path: Path) -> str:
        with pytest.raises(StoreError) as caught:
            read_manifest(path)
        return str(caught.value)

    (store / MANIFEST_NAME).unlink()
    assert "a zarr of another program" in sentence(store)
    (store / "zarr.json").write_text('{"attributes": {"wsi_hr": {}}}')
    assert "not finished, or its manifest.json is gone" in sentence(store)
    (tmp_path / "folder").mkdir()
    assert "not a patch store" in sentence(tmp_path / "folder")
    (tmp_path / "file").touch()
    assert "a file, not a patch store" in sentence(tmp_path / "file")
    assert "no such patch store" in sentence(tmp_path / "absent")


def test_sweeping_touches_only_this_stores_strays(tmp_path: Path, store: Path) -> None:
    for name in ("a.zarr.tmp", "a.zarr.old", "b.zarr.tmp"):
        (tmp_path / name / "c").mkdir(parents=True)
    sweep(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr.tmp"]
    assert verify_store(store) == []
