"""What a slide is to the rest of the library, whichever reader opened it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from wsi_hr.geometry import BoolArray, Bounds, Mpp, Pair, Point, Size, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles


class Slide(Protocol):
    """An open slide. Open it in the process that reads it; handles do not survive a fork.

    Attributes:
        path: the file that was opened.
        slide_id: its name in tables and stores.
        reader: which library reads it.
        vendor: the format, as that library calls it.
        mpp: um per level-0 px; None where nothing plausible is known.
        mpp_problem: why ``mpp`` is None, one clause that names the way out.
        objective_power: magnification of the objective, where the file tells.
        level_dimensions: px of every level, finest first.
        level_downsamples: level-0 px per px of a level, per axis. Scanners reduce by whole
            factors and cut off what is left over, so a factor that explains a level's size is
            taken to be that whole number; otherwise it is the ratio of the sizes.
        level_tile_sizes: px of what is decoded at a time at every level; None where unknown.
        bounds: the scanned rectangle, level-0 px; the whole slide where none is told.
        associated_images: names of pictures beside the slide; their pixels are never read, for
            a label shows a name.
    """

    path: Path
    slide_id: str
    reader: str
    vendor: str
    mpp: Mpp | None
    mpp_problem: str | None
    objective_power: float | None
    level_dimensions: tuple[Size, ...]
    level_downsamples: tuple[Pair, ...]
    level_tile_sizes: tuple[Size | None, ...]
    bounds: Bounds
    associated_images: tuple[str, ...]

    @property
    def icc_profile(self) -> bytes | None:
        """What the slide's RGB means, as an ICC profile; None where it does not say.

        That of the file; where it has none, that which its JPEG tiles hold.
        """
        ...

    def read_region(self, xy0: Point, level: int, size: Size) -> tuple[UInt8Array, BoolArray]:
        """Read a rectangle of one level; parts of it may lie outside the slide.

        Args:
            xy0: top-left corner, level-0 px; the nearest px of the level is taken.
            level: level to read.
            size: px of that level.

        Returns:
            Pixels u8[h, w, 3] and where the scan has data, bool[h, w]. Where it has none the
            pixels are white.

        Raises:
            SlideError: the rectangle cannot be read. Others still can: the slide mends itself.
        """
        ...

    def reader_of(self, level: int) -> str:
        """Which library gives the px of a level: :attr:`reader`, or another where that is exact."""
        return self.reader

    def interpolates(self, level: int) -> bool:
        """Whether :meth:`read_region` shows what lies between px of a level instead of its px."""
        return False

    def thumbnail(self, max_px: int) -> UInt8Array:
        """The whole level-0 frame u8[h, w, 3], averaged down to ``max_px`` on its longest edge.

        Raises:
            SlideError: a part of the slide cannot be read.
        """
        ...

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        """The tiles of a level, where they are JPEGs that can be read past the reader; else None.

        They belong to the slide and are closed with it. Whether they show what
        :meth:`read_region` shows is for :func:`wsi_hr.slides.self_check.checked_tiles` to say.
        """
        ...

    def close(self) -> None:
        """Let go of the file; reading afterwards is a ``ValueError``."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def profile_of_tiles(slide: Slide) -> bytes | None:
    """The ICC profile that the JPEG tiles of level 0 hold; None where there is none."""
    tiles = slide.jpeg_tiles(0)
    return None if tiles is None else tiles.embedded_profile()
