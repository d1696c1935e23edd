"""Patches decoded where the network is: which device may, and what comes out.

A CPU stands in for the GPU where there is none: torchvision decodes on it by the same call.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import timm
import torch

from wsi_hr.errors import StoreError
from wsi_hr.models import jpeg_decoder
from wsi_hr.models.encoder import Encoder, frozen
from wsi_hr.models.jpeg_decoder import JpegDecoder, device_decoder
from wsi_hr.store.jpeg import Subsampling, encode_jpeg
from wsi_hr.store.jpeg_patches import JpegPatches

CPU = torch.device("cpu")


def tissue(num: int, px: int, subsampling: Subsampling = "420") -> JpegPatches:
    """Patches of soft blobs of colour."""
    coarse = np.random.default_rng(0).integers(40, 220, (num, 3, 5, 5)).astype(np.float32)
    soft = torch.nn.functional.interpolate(torch.from_numpy(coarse), px, mode="bicubic")
    pictures = soft.clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()
    streams = tuple(encode_jpeg(one, quality=80, subsampling=subsampling) for one in pictures)
    return JpegPatches(streams, tuple(("slide.zarr", k) for k in range(num)), px)


def test_a_batch_is_decoded_in_its_order() -> None:
    patches = tissue(5, 48)
    there = JpegDecoder(CPU)(patches)
    assert there.is_contiguous()
    assert np.array_equal(there.numpy(), patches.decode())


def test_streams_and_pixels_have_the_same_embedding(monkeypatch) -> None:
    monkeypatch.setattr("wsi_hr.models.encoder.device_decoder", JpegDecoder)
    torch.manual_seed(0)
    encoder = Encoder(timm.create_model("test_resnet", num_classes=0), dim=1, chunk=4)
    patches = tissue(7, 64)
    assert encoder.decodes
    with frozen(encoder):
        assert torch.equal(encoder.embed_padded(patches), encoder.embed_padded(patches.decode()))
        assert torch.equal(encoder(patches), encoder(patches.decode()))


def test_a_cpu_is_not_asked() -> None:
    assert device_decoder(CPU) is None
    assert not Encoder(torch.nn.Flatten(), dim=1).decodes


def test_cpu_is_kept_to_where_it_is_asked_for(monkeypatch) -> None:
    monkeypatch.setattr("wsi_hr.models.encoder.device_decoder", JpegDecoder)
    assert not Encoder(torch.nn.Flatten(), dim=1, decode="cpu").decodes


def test_what_a_device_cannot_decode_the_cpu_does(monkeypatch, caplog) -> None:
    def broken(*_):
        raise RuntimeError("nvjpeg: 5\nand more")

    monkeypatch.setattr(jpeg_decoder, "_pictures", broken)
    decoder, patches = JpegDecoder(CPU), tissue(3, 32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.array_equal(decoder(patches).numpy(), patches.decode())
    (line,) = caplog.messages
    assert line.startswith("the GPU cannot decode 3 patches (nvjpeg: 5);")


def test_a_patch_of_another_size_is_the_stores_fault() -> None:
    patches = tissue(2, 32)
    with pytest.raises(StoreError, match="patch 0 cannot be read .its JPEG announces 32 x 32"):
        JpegDecoder(CPU)(JpegPatches(patches.streams, patches.origins, 16))


def test_memory_that_is_short_is_for_the_encoder_to_see(monkeypatch) -> None:
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(jpeg_decoder, "_pictures", full)
    with pytest.raises(torch.OutOfMemoryError):
        JpegDecoder(CPU)(tissue(1, 16))


def test_a_device_must_prove_that_it_decodes(monkeypatch, caplog) -> None:
    honest = jpeg_decoder._pictures
    monkeypatch.setattr(jpeg_decoder, "JpegDecoder", lambda device: JpegDecoder(CPU))
    assert device_decoder(torch.device("cuda")) is not None
    monkeypatch.setattr(
        jpeg_decoder, "_pictures", lambda *args: [one.flip(0) for one in honest(*args)]
    )
    with caplog.at_level(logging.WARNING):
        assert device_decoder(torch.device("cuda")) is None
    assert "otherwise than the CPU" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("not compiled with nvJPEG"), ImportError("gone")])
def test_where_torchvision_cannot_the_cpu_decodes(monkeypatch, error: Exception) -> None:
    def absent(*_):
        raise error

    monkeypatch.setattr(jpeg_decoder, "JpegDecoder", lambda device: JpegDecoder(CPU))
    monkeypatch.setattr(jpeg_decoder, "_pictures", absent)
    assert device_decoder(torch.device("cuda")) is None


@pytest.mark.gpu
def test_a_gpu_sees_nearly_the_same_colours(cuda: str) -> None:
    decoder = device_decoder(torch.device(cuda))
    assert decoder is not None
    for subsampling, most in (("444", 4), ("422", 16), ("420", 16)):
        for _ in range(3):  # memory of the batch before is used again
            patches = tissue(64, 256, subsampling)
            pixels = patches.decode().astype(np.int16)
            away = np.abs(decoder(patches).cpu().numpy() - pixels)
            assert away.max() <= most
            assert away.mean() < 1
