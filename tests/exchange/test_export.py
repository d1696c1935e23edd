"""Exports that exist whole or not at all, and know what they were made from."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from wsi_hr.errors import StoreError
from wsi_hr.exchange.export import FORMATS, NOTE_NAME, export_store
from wsi_hr.exchange.patch_files import patch_files
from wsi_hr.exchange.webdataset import write_webdataset
from wsi_hr.runtime import temporary_name
from wsi_hr.store.patch_store import PatchStore


def tree(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def name_of(store: PatchStore, index: int) -> str:
    x, y = store.grid.coords[index]
    return f"case.1-DX_{x}_{y}"


@pytest.mark.parametrize("codec", ["jpeg", "raw"])
def test_png_files_hold_the_stores_pixels(make_store, tmp_path, codec):
    store = make_store(codec=codec)
    folder = export_store(store, tmp_path, "png").path
    assert folder == tmp_path / "case.1-DX"
    assert len(list(folder.glob("*.png"))) == len(store) == 88
    for index in range(len(store)):
        with Image.open(folder / f"{name_of(store, index)}.png") as picture:
            assert np.array_equal(np.asarray(picture), store.read(np.array([index]))[0])


def test_stored_jpeg_is_copied_and_never_encoded_again(make_store, tmp_path):
    store = make_store(codec="jpeg", jpeg_quality=80)
    folder = export_store(store, tmp_path, "jpeg").path
    shards = b"".join(f.read_bytes() for f in store.path.glob("scale_*/patches/c.*"))
    assert len(list(folder.glob("*.jpg"))) == len(store)
    for index in range(len(store)):
        stream = (folder / f"{name_of(store, index)}.jpg").read_bytes()
        assert stream in shards
        with Image.open(io.BytesIO(stream)) as picture:
            seen = np.asarray(picture.convert("RGB"))
        assert np.array_equal(seen, store.read(np.array([index]))[0])


def test_stored_pixels_become_jpeg_of_the_quality_that_is_set(make_store, tmp_path):
    errors, sizes = {}, {}
    for quality in (50, 95):
        store = make_store(codec="raw", jpeg_quality=quality)
        folder = export_store(store, tmp_path / str(quality), "jpeg").path
        sizes[quality] = sum(f.stat().st_size for f in folder.glob("*.jpg"))
        errors[quality] = 0.0
        for index in range(len(store)):
            with Image.open(folder / f"{name_of(store, index)}.jpg") as picture:
                seen = np.asarray(picture.convert("RGB"), dtype=float)
            errors[quality] += np.abs(seen - store.read(np.array([index]))[0]).mean() / len(store)
    assert sizes[95] > sizes[50]
    assert errors[95] < errors[50] / 2


@pytest.mark.parametrize(("codec", "kind"), [("jpeg", "jpg"), ("raw", "png")])
def test_webdataset_samples(make_store, tmp_path, codec, kind):
    """Two members of one key, the key without a dot; opened by tarfile and PIL alone."""
    store = make_store(codec=codec)
    folder = export_store(store, tmp_path, "webdataset").path
    (path,) = folder.glob("*.tar")
    assert path.name == "case.1-DX-000000.tar"
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as shard:
        for member in shard:
            key, _, suffix = member.name.partition(".")
            held = shard.extractfile(member)
            assert held is not None
            samples.setdefault(key, {})[suffix] = held.read()
            assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
    assert len(samples) == len(store)
    for index, (key, sample) in enumerate(samples.items()):
        assert sample.keys() == {kind, "json"}
        facts = json.loads(sample["json"])
        assert key == name_of(store, index).replace(".", "_")
        assert facts["slide_id"] == "case.1-DX"
        assert [facts["x0"], facts["y0"]] == store.grid.coords[index].tolist()
        assert [facts["row"], facts["col"]] == store.grid.cells[index].tolist()
        assert (facts["width0"], facts["height0"], facts["mpp"]) == (128, 128, 0.5)
        with Image.open(io.BytesIO(sample[kind])) as picture:
            seen = np.asarray(picture.convert("RGB"))
        assert np.array_equal(seen, store.read(np.array([index]))[0])


def test_tar_files_are_bounded_and_lose_nothing(make_store, tmp_path):
    store = make_store(codec="jpeg")
    write_webdataset(store, tmp_path, max_bytes=60_000)
    shards = sorted(tmp_path.iterdir())
    assert [path.name for path in shards] == [f"case.1-DX-{k:06d}.tar" for k in range(len(shards))]
    assert len(shards) > 3
    assert max(path.stat().st_size for path in shards) <= 60_000
    names = []
    for path in shards:
        with tarfile.open(path) as shard:
            names += shard.getnames()
    keys = [file.name.replace(".", "_") for file in patch_files(store, "jpg")]
    assert names == [f"{key}.{suffix}" for key in keys for suffix in ("jpg", "json")]


@pytest.mark.parametrize("form", FORMATS)
def test_equal_stores_give_equal_bytes(make_store, tmp_path, form):
    for name in ("one", "two"):
        export_store(make_store(), tmp_path / name, form)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") != {}


@pytest.mark.parametrize("form", FORMATS)
def test_a_finished_export_is_kept_and_one_of_an_older_store_replaced(make_store, tmp_path, form):
    first = export_store(make_store(), tmp_path, form)
    stamps = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    again = export_store(make_store(), tmp_path, form)
    assert (first.kept, again.kept) == (False, True)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == stamps
    newer = make_store(min_tissue=0.5)
    assert export_store(newer, tmp_path, form).kept is False
    export_store(newer, tmp_path / "fresh", form)
    fresh = tree(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh")
    assert tree(tmp_path) == fresh


@pytest.mark.parametrize("form", ["webdataset", "png", "jpeg"])
@pytest.mark.parametrize("harm", ["lose", "cut", "note"])
def test_what_was_harmed_since_is_made_again(make_store, tmp_path, form, harm):
    folder = export_store(make_store(), tmp_path, form).path
    whole = tree(folder)
    victim = sorted(folder.glob(f"case*{dict(png='png', jpeg='jpg').get(form, 'tar')}"))[-1]
    if harm == "lose":
        victim.unlink()
    elif harm == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        note = json.loads((folder / NOTE_NAME).read_text())
        (folder / NOTE_NAME).write_text(json.dumps({**note, "store_sha256": "0" * 64}))
    assert export_store(make_store(), tmp_path, form).kept is False
    assert tree(folder) == whole


@pytest.mark.fault("A3b")
@pytest.mark.parametrize("form", FORMATS)
def test_a_run_that_was_killed_leaves_nothing_that_counts(make_store, tmp_path, form, monkeypatch):
    """The write ends in the middle, and what a kill would leave lies about: the next run ends as
    an undisturbed one does."""
    export_store(make_store(), tmp_path / "whole", form)
    out, calls = tmp_path / "out", []
    reading = PatchStore.read_jpeg, PatchStore.read

    def dying(read):
        def call(*args):
            calls.append(1)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return read(*args)

        return call

    monkeypatch.setattr(PatchStore, "read_jpeg", dying(reading[0]))
    monkeypatch.setattr(PatchStore, "read", dying(reading[1]))
    if form not in ("clam", "trident"):
        with pytest.raises(KeyboardInterrupt):
            export_store(make_store(), out, form)
        assert tree(out) == {}
        for name in ("case.1-DX", "case.1-DX.old"):
            temporary_name(out / name).mkdir()
            (temporary_name(out / name) / "half.png").write_bytes(b"half")
    monkeypatch.undo()
    export_store(make_store(), out, form)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("form", FORMATS)
def test_somebody_elses_files_are_left_alone(make_store, tmp_path, form):
    place = export_store(make_store(), tmp_path, form).path
    if place.is_dir():
        shutil.rmtree(place)
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    else:
        place.write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(StoreError, match="exists and is no finished export"):
        export_store(make_store(), tmp_path, form)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_that_cannot_be_read_just_now_is_not_called_unfinished(
    make_store, tmp_path, form
):
    place = export_store(make_store(), tmp_path, form).path
    file = place / "export.json" if place.is_dir() else place
    file.unlink()
    file.symlink_to(file.name)  # reading it fails, as on a disk that does
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=rf"{place.name}: cannot be read \(Too many levels"):
        export_store(make_store(), tmp_path, form)
    assert tree(tmp_path) == before


def test_two_forms_do_not_share_a_folder(make_store, tmp_path):
    export_store(make_store(), tmp_path, "png")
    with pytest.raises(StoreError, match="is the export as png; choose another"):
        export_store(make_store(), tmp_path, "jpeg")
    export_store(make_store(), tmp_path, "clam")
    export_store(make_store(), tmp_path, "trident")
    assert export_store(make_store(), tmp_path, "png").kept


@pytest.mark.parametrize("form", ["webdataset", "png", "jpeg"])
def test_a_damaged_patch_ends_the_export_and_leaves_nothing(make_store, tmp_path, form):
    store = PatchStore.open(shutil.copytree(make_store().path, tmp_path / "case.1-DX.zarr"))
    shard = next(store.path.glob("scale_*/patches/c.*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        export_store(PatchStore.open(store.path), tmp_path / "out", form)
    assert tree(tmp_path / "out") == {}
