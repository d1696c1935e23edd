"""Kinds of damage to one small slide, each applied to its file in place; rows of docs/faults.md."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from PIL import Image

from benchmarks.anatomy import Anatomy, dissect, put, set_value
from benchmarks.mutations import DESCRIPTION, TILE_HEIGHT, TILE_WIDTH
from benchmarks.victims import write_pink_slide
from wsi_hr.geometry import Point, Size, UInt8Array
from wsi_hr.runtime import rng_for
from wsi_hr.testing.svs import TILE_PX, write_svs

Damage = Callable[[Path], None]

EDGE_PX = 2 * TILE_PX
PER_CM = (20_000, 20_000)  # 0.5 um/px
PEN = (20, 90, 200)


def write_victim(path: Path, seed: int = 0) -> Path:
    """An Aperio-like slide of four tiles, all tissue, with a label and a macro picture."""
    write_pink_slide(path, seed=seed, size=Size(EDGE_PX, EDGE_PX))
    picture = rng_for(seed, "label").integers(0, 256, (64, 96, 3), np.uint8)
    with tifffile.TiffWriter(path, append=True) as writer:
        for kind, subfile in (("label", 1), ("macro", 9)):
            writer.write(
                picture,
                photometric="rgb",
                compression="lzw" if kind == "label" else "jpeg",
                rowsperstrip=64,
                subfiletype=subfile,
                description=f"Aperio Image Library v11.2.1\r\n{kind} 96x64",
                metadata=None,
                software=False,
            )
    return path


def content(data: bytes) -> Damage:
    """Other bytes altogether."""
    return lambda path: void(path.write_bytes(data))


def void(_: object) -> None:
    """Nothing."""


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 512), "pink").save(buffer, "png")
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        writer.writestr("slide.svs", "pixels")
    return buffer.getvalue()


def cut(share: float) -> Damage:
    """The first part of the file alone."""

    def damage(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return damage


def cut_by_one(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edited(edit: Callable[[bytearray, Anatomy], bytes | bytearray | None]) -> Damage:
    """Bytes of the file changed with its anatomy at hand."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        changed = edit(data, dissect(path))
        path.write_bytes(data if changed is None else changed)

    return damage


def tile_of_zero_length(data: bytearray, anatomy: Anatomy) -> None:
    at, form = anatomy.directories[0].segments[1].count_at
    put(data, at, form, 0)


def tile_zeroed(data: bytearray, anatomy: Anatomy) -> None:
    tile = anatomy.directories[0].segments[1]
    data[tile.offset : tile.offset + tile.count] = bytes(tile.count)


def tile_bit_flipped(data: bytearray, anatomy: Anatomy) -> None:
    """A bit that no decoder misses: it gives other pixels without a word."""
    tile = anatomy.directories[0].segments[1]
    sound = decoded(data[tile.offset : tile.offset + tile.count])
    for at in range(tile.offset + tile.count // 2, tile.offset + tile.count):
        data[at] ^= 1
        with suppress(ValueError):
            if (decoded(data[tile.offset : tile.offset + tile.count]) != sound).any():
                return
        data[at] ^= 1
    raise AssertionError("every bit is missed")


def decoded(stream: bytearray) -> UInt8Array:
    """As strictly as can be."""
    return simplejpeg.decode_jpeg(bytes(stream), strict=True)


def tile_behind_the_end(data: bytearray, anatomy: Anatomy) -> None:
    at, form = anatomy.directories[0].segments[1].offset_at
    put(data, at, form, len(data) + 10_000)


def tile_frame_too_large(data: bytearray, anatomy: Anatomy) -> None:
    tile = anatomy.directories[0].segments[1]
    at = data.index(b"\xff\xc0", tile.offset) + 5
    assert int.from_bytes(data[at : at + 2], "big") == TILE_PX
    data[at : at + 4] = b"\x40\0\x40\0"


def directories_in_a_circle(data: bytearray, anatomy: Anatomy) -> None:
    put(data, anatomy.directories[-1].next_at, "I", anatomy.directories[0].offset)


def levels_missing(data: bytearray, anatomy: Anatomy) -> None:
    put(data, anatomy.directories[0].next_at, "I", 0)


def picture_damaged(number: int) -> Callable[[bytearray, Anatomy], None]:
    """The directory that many from the end has noise for pixels."""

    def edit(data: bytearray, anatomy: Anatomy) -> None:
        for strip in anatomy.directories[-number].segments:
            noise = rng_for(0, "noise").bytes(strip.count)
            data[strip.offset : strip.offset + strip.count] = noise

    return edit


def told_mpp(text: str) -> Damage:
    """Another text in place of ``MPP = 0.5000``, of at most its length."""
    old = b"MPP = 0.5000"

    def damage(path: Path) -> None:
        data = path.read_bytes()
        assert data.count(old) == 2  # level 0, thumbnail
        path.write_bytes(data.replace(old, text.encode().ljust(len(old))))

    return damage


def described(text: str) -> Callable[[bytearray, Anatomy], bytes]:
    """Another description of level 0."""

    def edit(data: bytearray, anatomy: Anatomy) -> bytes:
        entry = anatomy.directories[0].entries[DESCRIPTION]
        encoded = text.encode() + b"\0"
        put(data, entry.offset + 4, "I", len(encoded))
        put(data, entry.offset + 8, "I", len(data))
        return data + encoded

    return edit


BOMB = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))


def bomb(root: str) -> str:
    """XML that is a hundred billion times as long once its entities are replaced."""
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{BOMB}]>{root % "&a11;"}'


def entity(root: str, file: Path) -> str:
    """XML that asks for another file."""
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY f SYSTEM "file://{file}">]>{root % "&f;"}'


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    "<Description>%s</Description></Image></OME>"
)
PLAIN = "<slide>%s</slide>"


def tissue(seed: int = 0) -> UInt8Array:
    """u8[EDGE_PX, EDGE_PX, 3]: what most of the written pictures show."""
    rng = rng_for(seed, "tissue")
    shades = rng.integers(0, 60, (EDGE_PX // 8, EDGE_PX // 8, 1))
    return (np.array([215, 120, 170]) - np.kron(shades, np.ones((8, 8, 3)))).astype(np.uint8)


def tiff(picture: UInt8Array | None = None, **options: Any) -> Damage:
    """Another slide: a TIFF of no vendor, 0.5 um/px, without loss, in tiles unless asked."""
    layout = {"tile": (TILE_PX, TILE_PX), "compression": "zlib"}
    layout |= {"resolution": PER_CM, "resolutionunit": "CENTIMETER", "metadata": None}
    layout |= options

    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        pixels = tissue() if picture is None else picture
        tifffile.imwrite(path, pixels, photometric="rgb", **layout)

    return damage


def flat(colour: tuple[int, int, int]) -> Damage:
    """A slide of one colour."""

    def damage(path: Path) -> None:
        tile = np.full((TILE_PX, TILE_PX, 3), colour, np.uint8)
        size = Size(EDGE_PX, EDGE_PX)

        def tile_at(_: Point) -> UInt8Array:
            return tile

        write_svs(path, size=size, mpp=0.5, tile_at=tile_at, glass=tile[None])

    return damage


def huge_and_empty(path: Path) -> None:
    """100,000 x 100,000 px of which one tile has bytes."""
    path.unlink(missing_ok=True)
    tile = tissue()
    tifffile.imwrite(
        path,
        (tile if number == 0 else None for number in range(196 * 196)),
        shape=(100_000, 100_000, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=tile.shape[:2],
        compression="zlib",
        resolution=PER_CM,
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    assert path.stat().st_size < 1 << 20


def one_huge_tile(path: Path) -> None:
    """A tile of 32768 x 32768 px, in a small file."""
    tiff(np.full((16, 16, 3), 200, np.uint8), tile=(16, 16))(path)
    data, anatomy = bytearray(path.read_bytes()), dissect(path)
    entries = anatomy.directories[0].entries
    for tag in (256, 257, TILE_WIDTH, TILE_HEIGHT):
        set_value(data, entries[tag], 32_768)
    path.write_bytes(data)
