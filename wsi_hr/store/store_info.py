"""What a patch store says of itself: which slide, how it was read, with which settings.

A store holds one group per asked mpp. What is of the slide stands in the attributes of its root,
what is of a scale in those of the scale's group; a :class:`StoreInfo` is both, for one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from wsi_hr.config import TileConfig
from wsi_hr.geometry import Bounds, Mpp, Pair, QcSummary, ReadPlan, Size
from wsi_hr.store.manifest import SCHEMA_VERSION


@dataclass(frozen=True)
class StoreInfo:
    """The attributes of a store, seen at one of its scales.

    Attributes:
        slide_id: which slide.
        source_name: file name of the slide, without its folder; the id with the file's suffix
            where names are hashed.
        source_size: bytes of the slide's file.
        source_sha256: SHA-256 of the slide's file, hexadecimal.
        source_edges_sha256: SHA-256 of the file's first and last 64 KiB, which is cheap to compare.
        mpp: of the slide's level 0.
        level0_size: (w, h) of the slide, level-0 px.
        bounds: the scanned rectangle, level-0 px.
        vendor: who made the scanner, in OpenSlide's words.
        reader: what read the patches: ``jpeg tiles`` (the file's own, checked against the library
            that opened it), or that library.
        mode: ``passthrough`` (patches are the slide's own tiles), ``jpeg``, ``raw``, or ``virtual``
            (the slide is read when patches are).
        plan: how the slide gave the patches.
        tile: the settings of this scale.
        asked: the settings of the store, with all scales.
        segmenter: what drew the tissue mask: a segmenter, or ``mask_file``.
        mask_downsample: level-0 px per mask px, per axis.
        wsi_hr_version: the version that wrote the store.
        coords_sha256: SHA-256 of the coordinates file that gave the grid, hexadecimal; empty where
            the tissue mask did.
        colour: what was done to the colours (:class:`wsi_hr.tiling.colour.Colour`'s record).
        mask_sha256: SHA-256 of the user's mask file; empty where a segmenter drew the mask.
        qc: how much of what the mask shows.
        source_path: where the slide was, of a virtual store; empty in others.
        schema_version: the layout of the store.
    """

    slide_id: str
    source_name: str
    source_size: int
    source_sha256: str
    mpp: Mpp
    level0_size: Size
    bounds: Bounds
    vendor: str
    reader: str
    mode: str
    plan: ReadPlan
    tile: TileConfig
    asked: TileConfig
    segmenter: str
    mask_downsample: Pair
    wsi_hr_version: str
    source_edges_sha256: str = ""
    coords_sha256: str = ""
    colour: Mapping[str, Any] = field(default_factory=dict)
    mask_sha256: str = ""
    qc: QcSummary = QcSummary()
    source_path: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def colour_notes(self) -> list[str]:
        """What was asked of the colours and could not be done, a clause each."""
        return [part["reason"] for part in self.colour.values() if not part["applied"]]

    def root_json(self) -> dict[str, Any]:
        """What is of the slide, as plain dicts, lists, texts and numbers; see :meth:`from_json`."""
        whereabouts = {"source_path": self.source_path} if self.source_path else {}
        return {
            "schema_version": self.schema_version,
            "wsi_hr_version": self.wsi_hr_version,
            "slide_id": self.slide_id,
            "source_name": self.source_name,
            "source_size": self.source_size,
            "source_sha256": self.source_sha256,
            "source_edges_sha256": self.source_edges_sha256,
            **whereabouts,
            "vendor": self.vendor,
            "mpp": asdict(self.mpp),
            "level0_size": list(self.level0_size),
            "bounds": list(self.bounds),
            "tile": self.asked.model_dump(mode="json"),
            "segmenter": self.segmenter,
            "mask_downsample": list(self.mask_downsample),
            "coords_sha256": self.coords_sha256,
            "colour": dict(self.colour),
            "mask_sha256": self.mask_sha256,
            "qc": asdict(self.qc),
        }

    def scale_json(self) -> dict[str, Any]:
        """What is of this scale."""
        return {
            "mpp": self.tile.mpp,
            "reader": self.reader,
            "mode": self.mode,
            "plan": {
                "level": self.plan.level,
                "level_downsample": list(self.plan.level_downsample),
                "scale": list(self.plan.scale),
                "patch_px0": list(self.plan.patch_px0),
                "stride_px0": list(self.plan.stride_px0),
                "decode_scale": self.plan.decode_scale,
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], scale: Mapping[str, Any]) -> Self:
        """Build it from what :meth:`root_json` and :meth:`scale_json` gave; an equal one.

        Raises:
            ValueError: something is missing, unknown or of the wrong kind.
        """
        try:
            plan = scale["plan"]
            asked = TileConfig.model_validate(data["tile"])
            plain = {
                name: data[name]
                for name in (
                    "schema_version",
                    "wsi_hr_version",
                    "slide_id",
                    "source_name",
                    "source_size",
                    "source_sha256",
                    "source_edges_sha256",
                    "vendor",
                    "segmenter",
                    "coords_sha256",
                    "mask_sha256",
                )
            }
            return cls(
                mpp=Mpp(**data["mpp"]),
                level0_size=Size(*data["level0_size"]),
                bounds=Bounds(*data["bounds"]),
                plan=ReadPlan(
                    level=plan["level"],
                    level_downsample=Pair(*plan["level_downsample"]),
                    scale=Pair(*plan["scale"]),
                    patch_px0=Pair(*plan["patch_px0"]),
                    stride_px0=Pair(*plan["stride_px0"]),
                    decode_scale=plan["decode_scale"],
                ),
                reader=scale["reader"],
                mode=scale["mode"],
                tile=asked.at(scale["mpp"]),
                asked=asked,
                mask_downsample=Pair(*data["mask_downsample"]),
                colour=dict(data["colour"]),
                qc=QcSummary(**data["qc"]),
                source_path=str(data.get("source_path", "")),
                **plain,
            )
        except ValidationError as cause:
            reasons = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in cause.errors()]
            raise ValueError(f"tile settings not known here, {'; '.join(reasons)}") from cause
        except (KeyError, TypeError) as cause:
            raise ValueError(f"not the attributes of a patch store ({cause})") from cause


SCALE_PREFIX = "scale_"


def scale_name(mpp: float) -> str:
    """Name of the group that holds the patches at an asked mpp, e.g. ``scale_0.5``."""
    return f"{SCALE_PREFIX}{mpp}"
