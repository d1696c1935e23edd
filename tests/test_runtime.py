"""Randomness that repeats anywhere, and files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.runtime import (
    atomic_path,
    fsync_dir,
    rng_for,
    scratch_folder,
    seed_for,
    sha256_file,
    write_text_atomic,
)

# Control characters do not occur in slide ids; one of them separates the parts of a key.
_words = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
_keys = st.lists(st.integers() | _words, max_size=4)


def drawn(*key: int | str) -> list[int]:
    return rng_for(*key).integers(2**32, size=4).tolist()


def test_the_numbers_are_those_of_earlier_versions() -> None:
    """A resumed run and a published split rest on these; they never change."""
    assert drawn(0, 3, "slide_007", "drop") == [3750798068, 1418070730, 67391888, 777922383]
    assert seed_for(0, "torch", 2) == 8063905080006960348


def test_another_process_draws_the_same() -> None:
    code = "from wsi_hr.runtime import rng_for; print(rng_for(5, 'a').integers(2**32, size=4))"
    for salt in ("0", "1"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": salt},
        ).stdout
        assert out.split() == str(rng_for(5, "a").integers(2**32, size=4)).split()


@given(_keys, _keys)
def test_different_keys_draw_differently(one: list, other: list) -> None:
    assert (drawn(*one) == drawn(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [((1,), ("1",)), (("a", "b"), ("ab",)), (("a", "b"), ("b", "a")), ((1, 2), (12,)), ((), ("",))],
)
def test_a_key_is_its_parts_and_their_kinds(one: tuple, other: tuple) -> None:
    assert drawn(*one) != drawn(*other)


def test_seeds_fit_torch() -> None:
    seeds = {seed_for(k) for k in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with atomic_path(path) as tmp:
        tmp.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_and_fail() -> None:
        with atomic_path(path) as tmp:
            tmp.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file_and_one_stray(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from wsi_hr.runtime import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as tmp:\n"
        "    tmp.write_text('half'); os._exit(9)\n"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
        assert path.read_text() == "old"
        assert sorted(p.name for p in tmp_path.iterdir()) == [".table.csv.tmp", "table.csv"]
    write_text_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_its_name(tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def note_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_text_atomic(tmp_path / "a", "text")
    assert done == ["file", "rename", "folder"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "\N{SNOWMAN}"])
def test_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_text_atomic(tmp_path / "a", text)
    assert (tmp_path / "a").read_bytes() == text.encode()


def test_a_folder_that_is_gone_cannot_be_synced(tmp_path: Path) -> None:
    fsync_dir(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_dir(tmp_path / "absent")


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_scratch_of_the_living_stays_and_of_the_killed_goes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "wsi-hr-store"  # a user's
    other.mkdir()
    program = (
        "from wsi_hr.runtime import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'a').touch(); print(folder, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        its = Path(process.stdout.readline().strip())
        with scratch_folder() as mine, scratch_folder() as another:
            assert {path.name for path in tmp_path.iterdir()} == {
                *(other.name, its.name, mine.name, another.name)
            }
            assert not any(mine.iterdir())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {path.name for path in tmp_path.iterdir()} == {other.name, its.name}
    with scratch_folder() as mine:
        assert {path.name for path in tmp_path.iterdir()} == {other.name, mine.name}
    assert list(tmp_path.iterdir()) == [other]
