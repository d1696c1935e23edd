"""Ways in which a slide's file is damaged, by accident or by malice; each draws its own details."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.anatomy import Anatomy, Directory, Entry, Segment, put, set_value

T = TypeVar("T")
Rng = np.random.Generator
Mutation = Callable[[bytearray, Anatomy, Rng], bytes | bytearray]

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
SAMPLES, X_RESOLUTION, Y_RESOLUTION, PLANAR = 277, 282, 283, 284
TILE_WIDTH, TILE_HEIGHT, SUB_IMAGES, JPEG_TABLES, SUBFILE_TYPE = 322, 323, 330, 347, 254
ROWS_PER_STRIP, PREDICTOR, EXTRA_SAMPLES, SAMPLE_FORMAT = 278, 317, 338, 339

_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
    + ']><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><a>&a11;</a></OME>'
)
_OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><a>&f;</a></OME>'
)
_DEEP = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">' + "<a>" * 50_000
_MPPS = ("0", "NaN", "inf", "-0.5", "0,5", "1e9", "1e-9", "", "0.5 0.5", "5.0", "352.8", "\u0664")
_ODD_NUMBERS = (0, 1, 2, 7, 255, 256, 32_767, 32_768, 65_535, 100_000, 2**31 - 1, 2**31, 2**32 - 1)


class NotApplicableError(Exception):
    """This slide has no such part."""


def truncated(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    share = rng.choice([0.01, 0.1, 0.5, 0.9, 0.99, rng.random()])
    return data[: int(len(data) * share)]


def cut_by_one(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    return data[:-1]


def appended(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    return data + rng.bytes(int(rng.choice([1, 100, 70_000])))


def zeroed(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    start, length = _range(data, rng)
    data[start : start + length] = bytes(length)
    return data


def overwritten(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    start, length = _range(data, rng)
    data[start : start + length] = rng.bytes(length)
    return data


def removed(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    start, length = _range(data, rng)
    del data[start : start + length]
    return data


def inserted(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    start, length = _range(data, rng)
    data[start:start] = rng.bytes(length)
    return data


def bits_anywhere(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    return _flip(data, 0, len(data), rng)


def header_bits(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    return _flip(data, 0, 16 if anatomy.big else 8, rng)


def other_byte_order(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    data[:2] = b"MM"
    return data


def other_content(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytes:
    png, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (512, 512), "pink").save(png, "png")
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr(zipfile.ZipInfo("slide.svs"), bytes(data))  # without the time of day
    contents = (
        b"",
        b"\0" * 4096,
        rng.bytes(5000),
        b"<!DOCTYPE html><html><body>404 not found</body></html>",
        png.getvalue(),
        archive.getvalue(),
        b"II*\0" + (8).to_bytes(4, "little") + b"\0" * 6,
        b"%PDF-1.7\n" + rng.bytes(100),
    )
    return contents[int(rng.integers(len(contents)))]


def tile_bits(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    tile = _segment(anatomy, rng)
    return _flip(data, tile.offset, tile.count, rng)


def tile_zeroed(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    tile = _segment(anatomy, rng)
    data[tile.offset : tile.offset + tile.count] = bytes(tile.count)
    return data


def tile_of_zero_length(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    _put_at(data, _segment(anatomy, rng).count_at, 0)
    return data


def tile_absent(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    tile = _segment(anatomy, rng)
    _put_at(data, tile.count_at, 0)
    _put_at(data, tile.offset_at, 0)
    return data


def tile_of_odd_length(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    tile = _segment(anatomy, rng)
    lengths = [1, 2, tile.count - 1, tile.count // 2, 2**32 - 1]
    _put_at(data, tile.count_at, int(rng.choice(lengths)))
    return data


def tile_behind_the_end(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    offset = int(rng.choice([len(data), len(data) - 1, len(data) + 10_000, 2**31, 2**32 - 1]))
    _put_at(data, _segment(anatomy, rng).offset_at, offset)
    return data


def tile_elsewhere(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    _put_at(data, _segment(anatomy, rng).offset_at, int(rng.integers(len(data))))
    return data


def tiles_swapped(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    segments = _directory(anatomy, rng).segments
    if len(segments) < 2:
        raise NotApplicableError
    first, second = (segments[int(k)] for k in rng.choice(len(segments), 2, replace=False))
    _put_at(data, first.offset_at, second.offset)
    _put_at(data, first.count_at, second.count)
    _put_at(data, second.offset_at, first.offset)
    _put_at(data, second.count_at, first.count)
    return data


def frame_size(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Another height or width in the frame header (SOF) of a JPEG tile."""
    at = _find_sof(data, _segment(anatomy, rng)) + int(rng.choice([5, 7]))
    data[at : at + 2] = int(rng.choice([0, 1, 8, 255, 257, 4096, 65_535])).to_bytes(2, "big")
    return data


def frame_components(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Another kind, precision, number or subsampling of components in a JPEG tile."""
    at = _find_sof(data, _segment(anatomy, rng)) + int(rng.choice([1, 4, 9, 11, 12]))
    data[at] = int(rng.integers(256))
    return data


def foreign_tile(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """A sound JPEG, but another one: other size, grey, CMYK, progressive."""
    mode = str(rng.choice(["RGB", "L", "CMYK"]))
    edge = int(rng.choice([8, 128, 256, 300, 2048]))
    picture = Image.fromarray(rng.integers(0, 256, (edge, edge, 3), np.uint8)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", progressive=bool(rng.random() < 0.3))
    return _replaced_tile(data, _segment(anatomy, rng), buffer.getvalue())


def exchanged_tile(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Perfectly sound pixels that are not the slide's: only the hash can tell."""
    pixels = rng.integers(100, 220, (256, 256, 3), dtype=np.uint8)
    encoded = simplejpeg.encode_jpeg(pixels, quality=80, colorspace="RGB", colorsubsampling="420")
    return _replaced_tile(data, _segment(anatomy, rng), encoded)


def directory_bits(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    directory = _directory(anatomy, rng)
    return _flip(data, directory.offset, directory.next_at + 8 - directory.offset, rng)


def entry_type(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    put(data, _entry(anatomy, rng).offset + 2, "H", int(rng.integers(0, 20)))
    return data


def entry_tag(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    put(data, _entry(anatomy, rng).offset, "H", int(rng.integers(250, 360)))
    return data


def entry_count(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    count = int(rng.choice([0, 1, 3, 1000, 2**20, 2**31, 2**32 - 1]))
    put(data, _entry(anatomy, rng).offset + 4, anatomy.offset_format, count)
    return data


def entry_elsewhere(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """The values of an entry are looked for at another place."""
    at = _entry(anatomy, rng).offset + (12 if anatomy.big else 8)
    place = int(rng.choice([0, int(rng.integers(len(data))), 2**32 - 1]))
    put(data, at, anatomy.offset_format, place)
    return data


def next_directory(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """A circle of directories, a chain that ends too early or leaves the file."""
    directory = _directory(anatomy, rng)
    targets = [other.offset for other in anatomy.directories]
    targets += [0, len(data), len(data) - 3, 2**32 - 1, int(rng.integers(len(data)))]
    put(data, directory.next_at, anatomy.offset_format, int(rng.choice(targets)))
    return data


def sub_images(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """A directory that is its own sub-image, or whose sub-image is nowhere."""
    directory, entry = _with_tag(anatomy, SUB_IMAGES, rng)
    targets = [directory.offset, 0, 1, len(data), int(rng.integers(len(data)))]
    set_value(data, entry, int(rng.choice(targets)))
    return data


def image_size(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Declared sizes from nothing to 2^32, in a file of some 100 kB."""
    for tag in rng.permutation([WIDTH, HEIGHT])[: int(rng.integers(1, 3))]:
        set_value(data, _with_tag(anatomy, int(tag), rng)[1], int(rng.choice(_ODD_NUMBERS)))
    return data


def tile_size(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    tags = [TILE_WIDTH, TILE_HEIGHT] if rng.random() < 0.8 else [ROWS_PER_STRIP]
    for tag in rng.permutation(tags)[: int(rng.integers(1, 3))]:
        set_value(data, _with_tag(anatomy, int(tag), rng)[1], int(rng.choice(_ODD_NUMBERS)))
    return data


def one_huge_tile(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Consistent, and a decompression bomb: 32768 x 32768 px in one tile."""
    directory, _ = _with_tag(anatomy, TILE_WIDTH, rng)
    for tag in (WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT):
        set_value(data, directory.entries[tag], int(rng.choice([16_384, 32_768])))
    return data


def pixel_kind(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Another compression, colour space, number or layout of samples than the pixels have."""
    kinds = {
        COMPRESSION: (1, 2, 5, 6, 7, 8, 33003, 33005, 34712, 34925, 50000, 60_001),
        PHOTOMETRIC: (0, 1, 2, 3, 5, 6, 8, 32803),
        BITS: (1, 4, 8, 12, 16, 32),
        SAMPLES: (0, 1, 2, 3, 4, 5, 65_535),
        PLANAR: (0, 1, 2),
        SUBFILE_TYPE: (0, 1, 2, 4, 9),
        PREDICTOR: (2, 3, 34892),
        EXTRA_SAMPLES: (0, 1, 2),
        SAMPLE_FORMAT: (2, 3, 6),
    }
    tag = int(rng.choice(list(kinds)))
    set_value(data, _with_tag(anatomy, tag, rng)[1], int(rng.choice(kinds[tag])))
    return data


def jpeg_tables(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    _, entry = _with_tag(anatomy, JPEG_TABLES, rng)
    return _flip(data, entry.value_offset, entry.count, rng)


def resolution(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    tag = int(rng.choice([X_RESOLUTION, Y_RESOLUTION]))
    _, entry = _with_tag(anatomy, tag, rng)
    set_value(data, entry, int(rng.choice(_ODD_NUMBERS)), index=int(rng.integers(2)))
    return data


def description_text(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """Other bytes in the description, from letters to what no encoding knows."""
    _, entry = _with_tag(anatomy, DESCRIPTION, rng)
    if entry.count < 8:
        raise NotApplicableError
    start = int(rng.integers(entry.count))
    length = int(rng.integers(1, entry.count - start + 1))
    letters = bytes(rng.integers(32, 127, length, np.uint8))
    text = rng.bytes(length) if rng.random() < 0.5 else letters
    data[entry.value_offset + start : entry.value_offset + start + length] = text
    return data


def description_replaced(data: bytearray, anatomy: Anatomy, rng: Rng) -> bytearray:
    """XML bombs, entities that point outside, endless nesting, an mpp that cannot be."""
    _, entry = _with_tag(anatomy, DESCRIPTION, rng)
    mpp = f"Aperio Image Library\r\n512x512|AppMag = 20|MPP = {rng.choice(_MPPS)}"
    texts = (_BOMB, _OUTSIDE, _DEEP, mpp, mpp, "A" * 2_000_000, "", "<OME", '{"shape": [1e9]}')
    text = texts[int(rng.integers(len(texts)))].encode() + b"\0"
    put(data, entry.offset + 4, anatomy.offset_format, len(text))
    put(data, entry.offset + (12 if anatomy.big else 8), anatomy.offset_format, len(data))
    return data + text


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        *(truncated, cut_by_one, appended, zeroed, overwritten, removed, inserted, bits_anywhere),
        *(header_bits, other_byte_order, other_content),
        *(tile_bits, tile_zeroed, tile_of_zero_length, tile_absent, tile_of_odd_length),
        *(tile_behind_the_end, tile_elsewhere, tiles_swapped, frame_size, frame_components),
        *(foreign_tile, exchanged_tile),
        *(directory_bits, entry_type, entry_tag, entry_count, entry_elsewhere, next_directory),
        *(sub_images, image_size, tile_size, one_huge_tile, pixel_kind, jpeg_tables, resolution),
        *(description_text, description_replaced),
    )
}


def mutate(data: bytes, anatomy: Anatomy, rng: Rng) -> tuple[str, bytes]:
    """Damage a file in one of the ways that apply to it; the way's name, and other bytes."""
    while True:
        name = str(rng.choice(list(MUTATIONS)))
        try:
            mutated = bytes(MUTATIONS[name](bytearray(data), anatomy, rng))
        except NotApplicableError:
            continue
        if mutated != data:
            return name, mutated


def _range(data: bytearray, rng: Rng) -> tuple[int, int]:
    length = int(rng.choice([1, 16, 512, 4096, 65_536]))
    start = int(rng.integers(len(data)))
    return start, min(length, len(data) - start)


def _flip(data: bytearray, start: int, length: int, rng: Rng) -> bytearray:
    for _ in range(int(rng.choice([1, 1, 2, 8, 64]))):
        at = start + int(rng.integers(length))
        if at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
    return data


def _directory(anatomy: Anatomy, rng: Rng) -> Directory:
    """One of the directories, level 0 in half of the cases."""
    directories = anatomy.directories
    return directories[0 if rng.random() < 0.5 else int(rng.integers(len(directories)))]


def _segment(anatomy: Anatomy, rng: Rng) -> Segment:
    return _one(_directory(anatomy, rng).segments, rng)


def _entry(anatomy: Anatomy, rng: Rng) -> Entry:
    return _one(list(_directory(anatomy, rng).entries.values()), rng)


def _one(items: Sequence[T], rng: Rng) -> T:
    return items[int(rng.integers(len(items)))]


def _with_tag(anatomy: Anatomy, tag: int, rng: Rng) -> tuple[Directory, Entry]:
    directory = _directory(anatomy, rng)
    if tag not in directory.entries:
        raise NotApplicableError
    return directory, directory.entries[tag]


def _put_at(data: bytearray, place: tuple[int, str], value: int) -> None:
    at, form = place
    bits = {"B": 8, "H": 16, "I": 32, "Q": 64}[form]
    put(data, at, form, value & ((1 << bits) - 1))


def _replaced_tile(data: bytearray, tile: Segment, encoded: bytes) -> bytearray:
    """The tile's place taken by other bytes at the end of the file."""
    _put_at(data, tile.offset_at, len(data))
    _put_at(data, tile.count_at, len(encoded))
    return data + encoded


def _find_sof(data: bytearray, tile: Segment) -> int:
    for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
        found = data.find(marker, tile.offset, tile.offset + tile.count)
        if found >= 0:
            return found
    raise NotApplicableError
