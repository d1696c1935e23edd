from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.errors import StoreError
from wsi_hr.remote import RemotePath
from wsi_hr.store.chunks import seal
from wsi_hr.store.jpeg import decode_jpeg_into
from wsi_hr.store.manifest import commit_folder, files_below, verify_store
from wsi_hr.store.patch_store import PatchStore, is_complete

Maker = Callable[..., Any]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, store_maker: Maker) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return {
        codec: store_maker(codec=codec).write(folder / f"{codec}.zarr") for codec in ("jpeg", "raw")
    }


@pytest.fixture
def copy(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A store of its own for a test that damages it."""
    return Path(shutil.copytree(stores["jpeg"], tmp_path / "slide-1.zarr"))


def expected_pixels(made: Any, codec: str) -> np.ndarray:
    if codec == "raw":
        return made.patches
    streams = [
        simplejpeg.encode_jpeg(patch, quality=90, colorspace="RGB", colorsubsampling="420")
        for patch in made.patches
    ]
    return np.stack([simplejpeg.decode_jpeg(stream) for stream in streams])


def test_everything_comes_back(stores: dict[str, Path], store_maker: Maker, codec: str) -> None:
    made, store = store_maker(codec=codec), PatchStore.open(stores[codec])
    assert store.info == made.info
    assert store.slide_id == "slide-1"
    assert len(store) == 300
    for name in ("coords", "cells", "tissue"):
        got, wrote = getattr(store.grid, name), getattr(made.grid, name)
        assert got.dtype == wrote.dtype
        assert np.array_equal(got, wrote)
    assert store.grid.shape == made.grid.shape
    assert store.grid.patch_px0 == made.grid.patch_px0
    assert store.valid.dtype == np.bool_
    assert np.array_equal(store.valid, made.readable)
    assert store.mask.mask.dtype == np.bool_
    assert np.array_equal(store.mask.mask, made.mask.mask)
    assert (store.mask.downsample, store.mask.method) == (made.mask.downsample, made.mask.method)
    assert np.array_equal(store.thumbnail, made.thumbnail)
    valid = np.flatnonzero(store.valid)
    assert np.array_equal(store.read(valid), expected_pixels(made, codec)[valid])
    assert store.verify() == []
    assert is_complete(stores[codec])


def test_zarr_reads_it_bit_for_bit(stores: dict[str, Path], store_maker: Maker, codec: str) -> None:
    made, store = store_maker(codec=codec), PatchStore.open(stores[codec])
    group = zarr.open_group(stores[codec], mode="r")
    patches = np.asarray(group["scale_0.5/patches"][...])  # pyright: ignore
    valid = np.flatnonzero(store.valid)
    assert np.array_equal(patches[valid], store.read(valid))
    assert not patches[~store.valid].any()
    for name, wrote in {
        "mask": made.mask.mask.astype(np.uint8),
        "thumbnail": made.thumbnail,
        "scale_0.5/coords": made.grid.coords,
        "scale_0.5/cells": made.grid.cells,
        "scale_0.5/tissue": made.grid.tissue,
        "scale_0.5/valid": made.readable,
    }.items():
        assert np.array_equal(np.asarray(group[name][...]), wrote)  # pyright: ignore
    assert group.attrs["wsi_hr"] == made.info.root_json()


@given(data=st.data())
@settings(max_examples=25)
def test_any_patches_in_any_order(
    stores: dict[str, Path], store_maker: Maker, data: st.DataObject
) -> None:
    made, store = store_maker(codec="raw"), PatchStore.open(stores["raw"])
    valid = np.flatnonzero(made.readable).tolist()
    wanted = np.array(data.draw(st.lists(st.sampled_from(valid), max_size=80)), dtype=np.int64)
    got = store.read(wanted)
    assert got.shape == (len(wanted), 16, 16, 3)
    assert np.array_equal(got, made.patches[wanted])


def test_threads_read_what_one_reads(stores: dict[str, Path], codec: str) -> None:
    store = PatchStore.open(stores[codec])
    valid = np.flatnonzero(store.valid)
    expected = dict(zip(valid.tolist(), store.read(valid), strict=True))
    fresh, wrong = PatchStore.open(stores[codec]), []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for size in (1, 50, 3, 64, 7):
            wanted = rng.choice(valid, size)
            got = fresh.read(wanted)
            wrong.extend(
                patch
                for patch, pixels in zip(wanted.tolist(), got, strict=True)
                if not np.array_equal(pixels, expected[patch])
            )

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("wanted", [[300], [-1], [0, 10**12], [[1]], [0.0], [True]], ids=str)
def test_what_is_no_index_is_an_error(stores: dict[str, Path], wanted: list[Any]) -> None:
    with pytest.raises(IndexError):
        PatchStore.open(stores["jpeg"]).read(np.array(wanted))


def test_a_patch_the_slide_did_not_give_is_refused(stores: dict[str, Path]) -> None:
    with pytest.raises(StoreError, match="patch 255 could not be read from the slide"):
        PatchStore.open(stores["jpeg"]).read(np.array([4, 255]))


def every_file(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def damage(file: Path, kind: str, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    if kind == "deleted":
        file.unlink()
    elif kind == "emptied":
        file.write_bytes(b"")
    elif kind == "cut":
        file.write_bytes(content[:-1])
    elif kind == "grown":
        file.write_bytes(bytes(content) + b"\0")
    elif kind == "flipped":
        bit = int(rng.integers(8 * len(content)))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
    elif kind == "zeroed":
        file.write_bytes(bytes(len(content)))


@pytest.mark.parametrize("kind", ["deleted", "emptied", "cut", "grown", "flipped", "zeroed"])
def test_damage_to_any_file_is_found_by_verify_and_by_reading(copy: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    for file in every_file(copy):
        sound = file.read_bytes()
        damage(file, kind, rng)
        problems = verify_store(copy)
        assert problems
        assert any(str(file) in problem or str(copy) in problem for problem in problems)
        if kind in ("deleted", "emptied", "cut", "grown"):
            assert not is_complete(copy)
        with pytest.raises(StoreError, match=r"\w; |run wsi-hr tile"):
            use_all(copy)
        file.write_bytes(sound)
    use_all(copy)
    assert verify_store(copy) == []


def use_all(path: Path) -> None:
    store = PatchStore.open(path)
    store.read(np.flatnonzero(store.valid))
    _ = store.mask, store.thumbnail


def test_damage_after_opening_is_an_error_and_never_black(copy: Path) -> None:
    for harm in (Path.unlink, lambda shard: shard.write_bytes(b"")):
        store = PatchStore.open(copy)
        shards = sorted((copy / "scale_0.5" / "patches").glob("c.*"))
        sound = shards[0].read_bytes()
        harm(shards[0])
        with pytest.raises(StoreError, match=r"c\.0\.0\.0\.0: patch 0 cannot be read"):
            store.read(np.array([0]))
        shards[0].write_bytes(sound)


@pytest.mark.fault("E14")
def test_a_bomb_under_a_valid_checksum_is_refused(copy: Path, store_maker: Maker) -> None:
    shard = copy / "scale_0.5" / "patches" / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    end = content.index(b"\xff\xd9") + 2  # patch 0 lies at offset 0
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    content[: end + 4] = seal(bytes(content[:end]))
    shard.write_bytes(content)
    (copy / "manifest.json").unlink()
    commit_folder(copy, copy.with_name("bomb.zarr"), {})
    store = PatchStore.open(copy.with_name("bomb.zarr"))
    with pytest.raises(StoreError, match="announces 65000 x 65000 px where 16 x 16 belong"):
        store.read(np.array([0]))


@pytest.mark.parametrize("edge", [2**20, 2])
def test_a_small_array_that_announces_too_much_or_too_little_is_refused(
    copy: Path, edge: int
) -> None:
    """Nothing is made ready for a tebibyte, and no more is decoded than was announced."""
    metadata = json.loads((copy / "mask/zarr.json").read_text())
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [edge, edge]
    (copy / "mask/zarr.json").write_text(json.dumps(metadata))
    (copy / "manifest.json").unlink()
    commit_folder(copy, copy.with_name("other.zarr"), {})
    with pytest.raises(StoreError, match=f"mask does not hold the {edge**2} bytes"):
        _ = PatchStore.open(copy.with_name("other.zarr")).mask


@pytest.mark.parametrize(
    ("of", "to"),
    [("c.0.0", "c.9.9"), ("c.0.0", "c/0/0"), ("c.0.0", "zarr.json.old"), ("zarr.json", "x.json")],
)
def test_a_mask_without_its_chunk_is_never_zeros(copy: Path, of: str, to: str) -> None:
    """zarr gives zeros for what it does not find; somebody wrote a manifest that fits."""
    (copy / "mask" / to).parent.mkdir(parents=True, exist_ok=True)
    (copy / "mask" / of).rename(copy / "mask" / to)
    (copy / "manifest.json").unlink()
    commit_folder(copy, copy.with_name("other.zarr"), {})
    with pytest.raises(StoreError, match="its mask is not one array of one chunk"):
        _ = PatchStore.open(copy.with_name("other.zarr")).mask


def test_a_mask_of_several_chunks_is_never_zeros(copy: Path) -> None:
    metadata = json.loads((copy / "mask/zarr.json").read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"][0] -= 1
    (copy / "mask/zarr.json").write_text(json.dumps(metadata))
    (copy / "manifest.json").unlink()
    commit_folder(copy, copy.with_name("other.zarr"), {})
    with pytest.raises(StoreError, match="its mask is not one array of one chunk"):
        _ = PatchStore.open(copy.with_name("other.zarr")).mask


@pytest.mark.parametrize("kind", ["deleted", "emptied", "cut", "grown", "flipped", "zeroed"])
@pytest.mark.parametrize("name", ["mask", "thumbnail"])
def test_mask_and_thumbnail_are_compared_whenever_they_are_read(
    copy: Path, kind: str, name: str
) -> None:
    """Also where they are harmed after the store was opened."""
    for part in ("zarr.json", "c.*"):
        store = PatchStore.open(copy)
        (file,) = (copy / name).glob(part)
        sound = file.read_bytes()
        damage(file, kind, np.random.default_rng(1))
        with pytest.raises(StoreError, match=f"{name}/.*(damaged|missing)"):
            getattr(store, name)
        file.write_bytes(sound)


@pytest.mark.parametrize("kind", ["deleted", "emptied", "cut", "grown", "flipped", "zeroed"])
def test_damage_to_mask_and_thumbnail_is_found_behind_a_url_too(copy: Path, kind: str) -> None:
    """Sizes when the store is opened, bytes when they are read."""
    path = RemotePath(f"memory://{copy}")
    names = sorted(files_below(copy))
    path.upload_below(copy, names)
    for name in names:
        if not name.startswith(("mask/", "thumbnail/")):
            continue
        file = copy / name
        sound = file.read_bytes()
        damage(file, kind, np.random.default_rng(1))
        (path / name).unlink()
        if file.exists():
            (path / name).upload(file)
        if kind in ("flipped", "zeroed"):
            store = PatchStore.open(path)
            with pytest.raises(StoreError, match=f"{name}: damaged"):
                getattr(store, name.split("/")[0])
        else:
            with pytest.raises(StoreError, match=f"{name}: (missing|has [0-9]+ bytes instead)"):
                PatchStore.open(path)
        file.write_bytes(sound)
        (path / name).upload(file)
    path.remove_below(names)


def test_a_store_that_contradicts_itself_is_refused(copy: Path) -> None:
    root = copy / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["wsi_hr"]["tile"]["patch_size"] = 32
    root.write_text(json.dumps(document))
    (copy / "manifest.json").unlink()
    commit_folder(copy, copy.with_name("other.zarr"), {})
    with pytest.raises(StoreError, match="its patches are not those of its settings"):
        PatchStore.open(copy.with_name("other.zarr"))


def test_foreign_and_unfinished_stores_are_refused(tmp_path: Path, store_maker: Maker) -> None:
    zarr.create_array(tmp_path / "foreign.zarr", shape=(3,), dtype="u1")
    with pytest.raises(StoreError, match="a zarr of another program"):
        PatchStore.open(tmp_path / "foreign.zarr")
    made = store_maker()
    with made.writer(tmp_path / "a.zarr") as writer:
        writer.write(made.chunks(0, 256))
        with pytest.raises(StoreError, match="not finished"):
            PatchStore.open(tmp_path / "a.zarr.tmp")
        assert not is_complete(tmp_path / "a.zarr.tmp")
    with pytest.raises(StoreError, match="no such patch store"):
        PatchStore.open(tmp_path / "a.zarr")


def test_stored_jpeg_is_handed_out_as_it_is(tmp_path: Path, store_maker: Maker) -> None:
    made = store_maker()
    store = PatchStore.open(made.write(tmp_path / "a.zarr"))
    shards = b"".join(file.read_bytes() for file in store.path.glob("scale_*/patches/c.*"))
    assert store.holds_jpeg
    for patch in (0, 200, 298):
        (stream,) = store.read_jpeg(np.array([patch])).streams
        assert stream in shards
        out = np.empty((16, 16, 3), np.uint8)
        decode_jpeg_into(stream, out)
        assert np.array_equal(out, store.read(np.array([patch]))[0])
    with pytest.raises(StoreError, match="patch 255 could not be read from the slide"):
        store.read_jpeg(np.array([255]))
    for patch in (-1, 300):
        with pytest.raises(IndexError, match="patches are 0 to 299"):
            store.read_jpeg(np.array([patch]))
    raw = PatchStore.open(store_maker(codec="raw").write(tmp_path / "raw.zarr"))
    assert not raw.holds_jpeg
    with pytest.raises(ValueError, match="holds no JPEG"):
        raw.read_jpeg(np.array([0]))


def test_a_damaged_stream_is_not_handed_out(tmp_path: Path, store_maker: Maker) -> None:
    store = PatchStore.open(store_maker().write(tmp_path / "a.zarr"))
    shard = next(store.path.glob("scale_*/patches/c.0.*"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="patch 0 cannot be read .its checksum"):
        store.read_jpeg(np.array([0]))


def test_opening_and_reading_leaves_few_descriptors(tmp_path: Path, store_maker: Maker) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    made = store_maker(num_patches=4, codec="raw", unreadable=())
    first = made.write(tmp_path / "0.zarr")
    for number in range(1, 100):
        shutil.copytree(first, tmp_path / f"{number}.zarr")
        store = PatchStore.open(tmp_path / f"{number}.zarr")
        assert np.array_equal(store.read(np.array([2])), made.patches[[2]])
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64 + 8
