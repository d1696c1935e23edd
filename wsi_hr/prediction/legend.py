"""A slide's map and the legend below it: what all pictures of predictions are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from wsi_hr import __version__
from wsi_hr.geometry import Size, UInt8Array
from wsi_hr.runtime import atomic_path

RESEARCH_USE = "For Research Use Only. Not for use in diagnostic procedures."

# The legend is sized by the picture's longest edge, so that it fits whatever that edge is.
_EDGE_PER_EM = 80  # longest edge over the height of a letter
_LONGEST_TEXT = 300  # characters that are considered for one row; far more than fit
_WHITE = (255, 255, 255)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the latter where Pillow lacks FreeType


class MapPicture:
    """A picture that just fits ``max_px``: the map at its top left corner, the legend below it.

    Rows of the legend are written from top to bottom, each shortened in its middle to fit.

    Attributes:
        below: u8[H, W, 3] the thumbnail, enlarged or reduced to the size of the map.
        em_px: height of a letter.
    """

    def __init__(self, thumbnail: UInt8Array, *, max_px: int, num_rows: int) -> None:
        self.em_px = max(1, max_px // _EDGE_PER_EM)
        self._row_px = self.em_px * 3 // 2
        legend_px = self._row_px * num_rows + self.em_px
        height, width = thumbnail.shape[:2]
        scale = min(max_px / width, (max_px - legend_px) / height)
        self.map_size = Size(max(1, round(width * scale)), max(1, round(height * scale)))
        small = Image.fromarray(thumbnail).resize(self.map_size, Image.Resampling.BICUBIC)
        self.below: UInt8Array = np.array(small)
        size = (max(self.map_size.w, max_px // 2), self.map_size.h + legend_px)
        self._picture = Image.new("RGB", size, _WHITE)
        self._top = self.map_size.h + self.em_px // 2

    def headline(self, text: str) -> None:
        """Write a row in larger letters."""
        self._write(text, self.em_px, ImageFont.load_default(self.em_px * 5 // 4))

    def text(self, text: str) -> None:
        """Write a row."""
        self._write(text, self.em_px, ImageFont.load_default(self.em_px))

    def sample(self, pixels: UInt8Array, meaning: str) -> None:
        """Write a sample u8[em_px, w, 3] of what the map shows, and what it stands for."""
        place = (self.em_px, self._top + (self._row_px - self.em_px) // 2)
        self._picture.paste(Image.fromarray(pixels), place)
        left = 2 * self.em_px + pixels.shape[1]
        self._write(meaning, left, ImageFont.load_default(self.em_px))

    def finished(self, map_HW3: UInt8Array, *, title: str, description: str) -> Image.Image:
        """The picture; its ``info`` holds the texts that :func:`save_picture` writes."""
        self._picture.paste(Image.fromarray(map_HW3), (0, 0))
        self._picture.info = {
            "Title": title,
            "Description": description,
            "Disclaimer": RESEARCH_USE,
            "Software": f"wsi-hr {__version__}",
        }
        return self._picture

    def _write(self, text: str, left: int, font: _Font) -> None:
        room = self._picture.width - left - self.em_px
        middle = self._top + self._row_px / 2
        draw = ImageDraw.Draw(self._picture)
        draw.text((left, middle), _shorten(text, font, room), (0, 0, 0), font, anchor="lm")
        self._top += self._row_px


def save_picture(image: Image.Image, path: Path) -> None:
    """Write ``image`` as PNG, whole or not at all, with its ``info`` texts as PNG text chunks."""
    texts = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_itxt(key, value)
    with atomic_path(path) as tmp:
        image.save(tmp, format="PNG", pnginfo=texts)


def printable(text: str) -> str:
    """``text`` with everything that does not print (control, surrogate, bidi) shown as U+FFFD."""
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in text)


def _shorten(text: str, font: _Font, room_px: float) -> str:
    """``text``, or as much of its two ends as fits ``room_px``, with an ellipsis between."""
    if len(text) <= _LONGEST_TEXT and font.getlength(text) <= room_px:
        return text
    for kept in range(min(len(text), _LONGEST_TEXT), 1, -2):
        shorter = f"{text[: kept // 2]}...{text[-(kept // 2) :]}"
        if font.getlength(shorter) <= room_px:
            return shorter
    return ""
