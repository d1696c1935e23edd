"""JPEG decoded where the network is: nvJPEG, through torchvision. The only door to it."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wsi_hr.geometry import UInt8Array
from wsi_hr.store.jpeg import encode_jpeg
from wsi_hr.store.jpeg_patches import JpegPatches

logger = logging.getLogger(__name__)

_PROBE_PX = 64
_PROBE_TOLERANCE = 4  # grey levels; decoders round differently, and no more than that


class JpegDecoder:
    """Decodes patches on a device, a batch at a time.

    On a GPU in a stream of its own, with memory that nothing else writes to: torchvision fills its
    outputs without waiting for what still reads the memory that they were given.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._complained = False

    def __call__(self, patches: JpegPatches) -> Tensor:
        """Pixels u8[K, P, P, 3] of K > 0 patches on the device.

        What the device cannot decode, the CPU does.

        Raises:
            StoreError: nor can the CPU.
        """
        try:
            return self._decode(patches)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not self._complained:
                reason = str(error).partition("\n")[0]
                logger.warning(
                    "the GPU cannot decode %d patches (%s); the CPU decodes such ones, more slowly",
                    len(patches),
                    reason,
                )
            self._complained = True
            return torch.from_numpy(patches.decode()).to(self.device)

    def _decode(self, patches: JpegPatches) -> Tensor:
        streams = [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in patches.streams]
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            pictures = _pictures(streams, self.device)
            # in the order of bytes that pixels from the CPU have, and so to the same embedding
            pixels_KPP3 = torch.stack(pictures).permute(0, 2, 3, 1).contiguous()
        if pixels_KPP3.shape[1:3] != (patches.patch_px, patches.patch_px):
            raise RuntimeError(f"they have {pixels_KPP3.shape[2]} x {pixels_KPP3.shape[1]} px")
        if self._stream is not None:
            self._stream.synchronize()  # the streams are read, and no memory of theirs is in use
            pixels_KPP3.record_stream(torch.cuda.current_stream(self.device))
        return pixels_KPP3


def _pictures(streams: list[Tensor], device: torch.device) -> list[Tensor]:
    """Streams u8[any] to pictures u8[3, h, w] on the device."""
    # only here: torchvision means to drop it one day, which then costs nothing but speed
    from torchvision.io import ImageReadMode, decode_jpeg

    pictures = decode_jpeg(streams, ImageReadMode.RGB, device)
    assert isinstance(pictures, list), "a list is answered by a list"
    return pictures


def device_decoder(device: torch.device) -> JpegDecoder | None:
    """The decoder of a GPU that proves to decode; None: decode on the CPU."""
    if device.type != "cuda":
        return None
    decoder, (probe, wanted) = JpegDecoder(device), _probe()
    try:
        found = decoder._decode(probe).cpu().numpy()
    except (RuntimeError, ImportError) as error:
        logger.info("JPEG is decoded on the CPU: %s", str(error).partition("\n")[0])
        return None
    away = np.abs(found.astype(np.int16) - wanted).max()
    if away > _PROBE_TOLERANCE:
        logger.warning(
            "the GPU decodes JPEG otherwise than the CPU, by up to %d grey levels; "
            "the CPU decodes it",
            away,
        )
        return None
    return decoder


@lru_cache(maxsize=1)
def _probe() -> tuple[JpegPatches, UInt8Array]:
    """A patch whose colours turn gently, which every sound decoder sees alike; and its pixels."""
    ramp = np.linspace(30, 220, _PROBE_PX)
    colours = np.broadcast_arrays(ramp[:, None], ramp[None, :], 250 - ramp[:, None])
    picture = np.stack(colours, axis=2).astype(np.uint8)
    stream = encode_jpeg(picture, quality=95, subsampling="444")
    patches = JpegPatches((stream,), (("probe", 0),), _PROBE_PX)
    return patches, patches.decode()
