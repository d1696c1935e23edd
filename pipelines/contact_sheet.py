"""All slides at a glance: small pictures of them on one sheet, or a few."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from wsi_hr import __version__
from wsi_hr.errors import writing
from wsi_hr.file_names import file_in
from wsi_hr.listing import matching, read_if_there
from wsi_hr.remote import Place
from wsi_hr.runtime import atomic_path
from wsi_hr.tiling.mask_files import MASK_COLORS
from wsi_hr.tiling.review import PICTURE_PX, picture_of

SHEET = "contact_sheet.png"
_SHEETS = re.compile(r"contact_sheet(_[0-9]+)?\.png")
_CHUNK = "wsi-hr"  # of a sheet's texts, for its key
Color = tuple[int, int, int]
_COLUMNS, _ROWS = 6, 8
_CAPTION_PX, _GAP_PX, _HEAD_PX = 40, 12, 36
_PAPER, _INK, _RED = (255, 255, 255), (30, 30, 30), (190, 20, 20)


@dataclass(frozen=True)
class Entry:
    """A slide's place on a sheet.

    Attributes:
        picture: PNG of it; None, or no picture there: the place stays empty.
        caption: two lines below.
        bad: whether they are red.
    """

    picture: Place | None
    caption: tuple[str, str]
    bad: bool = False


def write_contact_sheets(store: Place, rows: Sequence[Mapping[str, str]]) -> list[Place]:
    """Draw the masks of all slides of a store folder; see :func:`write_sheets`.

    Args:
        store: folder of the stores.
        rows: of ``qc.csv``; slides without a picture, such as those that failed, are named.
    """
    entries = []
    for row in rows:
        # what is there of others, if anything, is of an earlier run
        drawn = row["status"] in ("done", "no_tissue")
        picture = picture_of(store, row["slide_id"]) if drawn else None
        entries.append(Entry(picture, _caption(row), bad=row["status"] != "done"))
    legend = {code.name.lower(): color for code, color in MASK_COLORS.items()}
    return write_sheets(store, entries, legend)


def write_sheets(
    folder: Place, entries: Sequence[Entry], legend: Mapping[str, Color]
) -> list[Place]:
    """Draw ``contact_sheet.png``; from the 49th slide on, ``contact_sheet_2.png`` and so on.

    Args:
        folder: where the sheets go.
        entries: the slides in order.
        legend: colours by their meaning.

    Returns:
        The sheets; one that would be the same again is kept, and those of an earlier, longer list
        are removed.

    Raises:
        WriteError: the disk does not take them.
        ReadError: a picture is there and cannot be read just now.
    """
    per_sheet = _COLUMNS * _ROWS
    sheets: list[Place] = []
    for first in range(0, len(entries), per_sheet):
        number = first // per_sheet + 1
        path = folder / SHEET
        if number > 1:
            path = file_in(folder, f"contact_sheet_{number}", ".png", of="contact sheet")
        some = entries[first : first + per_sheet]
        contents = [_content(entry.picture) for entry in some]
        key = _key(some, contents, legend)
        if _key_of(path) != key:
            texts = PngInfo()
            texts.add_text(_CHUNK, key)
            with atomic_path(path) as temporary:
                _draw(some, contents, legend).save(temporary, format="PNG", pnginfo=texts)
        sheets.append(path)
    with writing(folder):
        there = matching(folder, "contact_sheet*.png")
    for path in there:
        if _SHEETS.fullmatch(path.name) and path not in sheets:
            with writing(path):
                path.unlink(missing_ok=True)
    return sheets


def _content(picture: Place | None) -> bytes | None:
    """The bytes of a picture; None: there is none.

    Raises:
        ReadError: it is there and cannot be read just now: it is not to be left out.
    """
    return None if picture is None else read_if_there(picture)


def _key(
    entries: Sequence[Entry], contents: Sequence[bytes | None], legend: Mapping[str, Color]
) -> str:
    """All that a sheet of these depends on: equal keys mean equal sheets."""
    digest = hashlib.sha256(repr((__version__, legend)).encode())
    for entry, content in zip(entries, contents, strict=True):
        drawn = None if content is None else hashlib.sha256(content).hexdigest()
        facts = repr((entry.caption, entry.bad, drawn))
        digest.update(facts.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _key_of(path: Place) -> str | None:
    """The key of the sheet that is there; None: there is none, or not one of ours.

    Raises:
        ReadError: it cannot be read just now.
    """
    content = read_if_there(path)
    try:
        with Image.open(io.BytesIO(content or b""), formats=["PNG"]) as sheet:
            return sheet.info.get(_CHUNK)
    except (OSError, SyntaxError, ValueError):
        return None


def _draw(
    entries: Sequence[Entry], contents: Sequence[bytes | None], legend: Mapping[str, Color]
) -> Image.Image:
    columns = min(_COLUMNS, len(entries))
    width = max(columns * (PICTURE_PX + _GAP_PX) + _GAP_PX, 600)
    row_px = PICTURE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (width, _HEAD_PX + -(-len(entries) // columns) * row_px), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    x = _GAP_PX
    for meaning, color in legend.items():
        draw.rectangle((x, 12, x + 14, 26), fill=color)
        draw.text((x + 20, 10), meaning, _INK, font)
        x += 100
    for number, (entry, content) in enumerate(zip(entries, contents, strict=True)):
        left = _GAP_PX + number % columns * (PICTURE_PX + _GAP_PX)
        top = _HEAD_PX + number // columns * row_px
        picture = None if content is None else _picture(content)
        if picture is not None:
            sheet.paste(picture, (left, top))
        for line, text in enumerate(entry.caption):
            place = (left, top + PICTURE_PX + 2 + 18 * line)
            draw.text(place, _fitting(text, font), _RED if entry.bad else _INK, font)
    return sheet


def _picture(content: bytes) -> Image.Image | None:
    """The picture as large as it is drawn; None: it is damaged."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.thumbnail((PICTURE_PX, PICTURE_PX))
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None


def _caption(row: Mapping[str, str]) -> tuple[str, str]:
    if not row["mask"]:
        return row["slide_id"], row["status"]
    spoilt = [
        f"{name} {100 * float(row[name]):.0f} %"
        for name in ("pen", "blur", "fold", "bubble")
        if float(row[name]) >= 0.005
    ]
    told = [f"{row['num_patches']} patches", *spoilt]
    if row["left_out"] != "0":
        told.append(f"{row['left_out']} left out")
    return row["slide_id"], ", ".join(told if row["status"] == "done" else [row["status"], *told])


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut to the width of a picture."""
    plain = text.encode("utf-8", "replace").decode()
    if font.getlength(plain) <= PICTURE_PX:
        return plain
    while plain and font.getlength(plain + "...") > PICTURE_PX:
        plain = plain[:-1]
    return plain + "..."
