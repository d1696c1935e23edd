"""The oracle of privacy: what is hidden once in a clean folder is found, in every hiding place."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import zarr
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from .sentinel_search import NAME, hits, mark

NOISE = np.random.default_rng(0).integers(60, 200, (320, 320, 3), np.uint8)


def png(path: Path, **kwargs: object) -> None:
    Image.fromarray(NOISE).save(path / "a.png", **kwargs)


def texts(kind: str) -> PngInfo:
    info = PngInfo()
    if kind == "itxt":
        info.add_itxt("Title", NAME, zip=True)
    else:
        info.add_text("Title", NAME, zip=kind == "ztxt")
    return info


def exif() -> Image.Exif:
    found = Image.Exif()
    found[315] = NAME
    return found


def profile() -> bytes:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    there = "sRGB built-in".encode("utf-16-be")
    assert there in srgb
    return srgb.replace(there, NAME.encode("utf-16-be"))


def zarr_array(path: Path, values: np.ndarray) -> None:
    zarr.create_group(path / "a.zarr").create_array("x", data=values)


def zarr_attribute(path: Path) -> None:
    zarr.create_group(path / "a.zarr").attrs["said"] = NAME


def tar(path: Path, name: str, content: bytes) -> None:
    with tarfile.open(path / "a.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def hdf5(path: Path, where: str) -> None:
    with h5py.File(path / "a.h5", "w") as file:
        data = np.frombuffer(NAME.encode() * 40, np.uint8)
        dataset = file.create_dataset(
            "deep/x", data=data if where == "dataset" else [0], chunks=True, compression="gzip"
        )
        if where == "attribute":
            dataset.attrs["name"] = NAME


def archive(path: Path) -> None:
    with zipfile.ZipFile(path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x", NAME * 20)


def shown(scale: float = 1.0, turn: int = 0) -> np.ndarray:
    picture = NOISE.copy()
    small = cv2.resize(np.rot90(mark(), turn), None, fx=scale, fy=scale)
    picture[100 : 100 + len(small), 50 : 50 + len(small)] = small[..., None]
    return picture


def jpeg(path: Path, scale: float, turn: int = 0) -> None:
    Image.fromarray(shown(scale, turn)).save(path / "a.jpg", quality=70)


PLACES: dict[str, Callable[[Path], object]] = {
    "file name": lambda path: (path / f"{NAME}.txt").touch(),
    "folder name": lambda path: (path / NAME).mkdir(),
    "bytes": lambda path: (path / "a").write_bytes(b"\0\xff" + NAME.encode()),
    "utf-16 little": lambda path: (path / "a").write_bytes(NAME.encode("utf-16-le")),
    "utf-16 big": lambda path: (path / "a").write_bytes(b"\0" + NAME.encode("utf-16-be")),
    **{
        f"base64 at {shift}": lambda path, shift=shift: (path / "a").write_bytes(
            base64.b64encode(b"x" * shift + NAME.encode() + b"and more")
        )
        for shift in range(3)
    },
    "gzip": lambda path: (path / "a.gz").write_bytes(gzip.compress(NAME.encode() * 20)),
    "zip": archive,
    "tar": lambda path: tar(path, "x", NAME.encode()),
    "name in tar": lambda path: tar(path, NAME, b""),
    "gzip in tar": lambda path: tar(path, "x", gzip.compress(NAME.encode() * 20)),
    "png tEXt": lambda path: png(path, pnginfo=texts("text")),
    "png zTXt": lambda path: png(path, pnginfo=texts("ztxt")),
    "png iTXt": lambda path: png(path, pnginfo=texts("itxt")),
    "png eXIf": lambda path: png(path, exif=exif()),
    "png iCCP": lambda path: png(path, icc_profile=profile()),
    "jpeg comment": lambda path: Image.fromarray(NOISE).save(path / "a.jpg", comment=NAME),
    "hdf5 dataset": lambda path: hdf5(path, "dataset"),
    "hdf5 attribute": lambda path: hdf5(path, "attribute"),
    "zarr array": lambda path: zarr_array(path, np.frombuffer(NAME.encode() * 30, np.uint8)),
    "zarr attribute": zarr_attribute,
    "safetensors": lambda path: save_file(
        {"x": np.zeros(2, np.float32)}, path / "a.safetensors", metadata={"said": NAME}
    ),
    "label": lambda path: Image.fromarray(shown()).save(path / "a.png"),
    "label, half": lambda path: jpeg(path, 0.5),
    "label, a quarter": lambda path: jpeg(path, 0.25),
    "label, turned": lambda path: jpeg(path, 0.75, turn=1),
    "label in zarr": lambda path: zarr_array(path, shown()),
    "label in a patch": lambda path: zarr_array(path, np.stack([NOISE, shown(0.5)])),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_hidden_is_found(tmp_path, place):
    for name in ("clean.png", "clean.jpg"):
        Image.fromarray(NOISE).save(tmp_path / name)
    (tmp_path / "clean.csv").write_text("slide_id,path\n")
    assert hits(tmp_path) == []
    PLACES[place](tmp_path)
    assert hits(tmp_path), place
