"""All slides of a store at a glance: pictures of their masks on one sheet, or a few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from wsi_hr.remote import Place
from wsi_hr.runtime import atomic_path
from wsi_hr.tiling.mask_files import MASK_COLORS
from wsi_hr.tiling.review import PICTURE_PX, PICTURES

SHEET = "contact_sheet.png"
_COLUMNS, _ROWS = 6, 8
_CAPTION_PX, _GAP_PX, _HEAD_PX = 40, 12, 36
_PAPER, _INK, _RED = (255, 255, 255), (30, 30, 30), (190, 20, 20)


def write_contact_sheets(store: Place, rows: Sequence[Mapping[str, str]]) -> list[Place]:
    """Draw ``contact_sheet.png``; from the 49th slide on, ``contact_sheet_2.png`` and so on.

    Args:
        store: folder of the stores.
        rows: of ``qc.csv``; slides without a picture, such as those that failed, are named.

    Returns:
        The sheets; those of an earlier, longer list are removed.
    """
    per_sheet = _COLUMNS * _ROWS
    sheets: list[Place] = []
    for first in range(0, len(rows), per_sheet):
        number = first // per_sheet + 1
        path = store / SHEET if number == 1 else store / f"contact_sheet_{number}.png"
        with atomic_path(path) as temporary:
            _draw(store, rows[first : first + per_sheet]).save(temporary, format="PNG")
        sheets.append(path)
    for path in store.glob("contact_sheet*.png"):
        if path not in sheets:
            path.unlink()
    return sheets


def _draw(store: Place, rows: Sequence[Mapping[str, str]]) -> Image.Image:
    columns = min(_COLUMNS, len(rows))
    width = max(columns * (PICTURE_PX + _GAP_PX) + _GAP_PX, 600)
    row_px = PICTURE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (width, _HEAD_PX + -(-len(rows) // columns) * row_px), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    x = _GAP_PX
    for code, color in MASK_COLORS.items():
        draw.rectangle((x, 12, x + 14, 26), fill=color)
        draw.text((x + 20, 10), code.name.lower(), _INK, font)
        x += 100
    for number, row in enumerate(rows):
        left = _GAP_PX + number % columns * (PICTURE_PX + _GAP_PX)
        top = _HEAD_PX + number // columns * row_px
        picture = _picture(store / PICTURES / f"{row['slide_id']}.png", row)
        if picture is not None:
            sheet.paste(picture, (left, top))
        color = _INK if row["status"] == "done" else _RED
        for line, text in enumerate(_caption(row)):
            place = (left, top + PICTURE_PX + 2 + 18 * line)
            draw.text(place, _fitting(text, font), color, font)
    return sheet


def _picture(path: Place, row: Mapping[str, str]) -> Image.Image | None:
    if row["status"] not in ("done", "no_tissue"):
        return None  # what is there, if anything, is of an earlier run
    try:
        with path.open("rb") as file, Image.open(file, formats=["PNG"]) as picture:
            picture.thumbnail((PICTURE_PX, PICTURE_PX))
            return picture.convert("RGB")
    except (FileNotFoundError, UnidentifiedImageError, OSError):
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
