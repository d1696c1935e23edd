from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.config import TileConfig
from wsi_hr.store.chunks import JpegChunks, RawChunks, chunk_codec_for, seal, unseal

CODECS = [RawChunks(), JpegChunks(90, "420"), JpegChunks(95, "444")]


def test_the_seal_is_crc32c_as_the_standard_gives_it() -> None:
    # RFC 3720 B.4: 32 bytes of zeros give aa 36 91 8a.
    assert seal(bytes(32)) == bytes(32) + bytes.fromhex("aa36918a")


@given(st.binary(max_size=200))
def test_unsealing_gives_the_body_back(body: bytes) -> None:
    assert unseal(seal(body)) == body


@given(st.binary(min_size=1, max_size=60))
@settings(max_examples=20)
def test_every_flipped_bit_and_every_cut_is_found(body: bytes) -> None:
    sealed = seal(body)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="checksum"):
            unseal(bytes(damaged))
    for length in range(min(4, len(sealed))):
        with pytest.raises(ValueError, match="checksum"):
            unseal(sealed[:length])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_patch_comes_back(codec: RawChunks | JpegChunks) -> None:
    patch = np.full((16, 16, 3), (200, 30, 90), dtype=np.uint8)
    out = np.zeros_like(patch)
    codec.decode_into(codec.encode(patch), out)
    assert np.abs(out.astype(int) - patch).max() <= (0 if codec.name == "raw" else 3)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_patch_of_another_size_is_refused(codec: RawChunks | JpegChunks) -> None:
    chunk = codec.encode(np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="belong"):
        codec.decode_into(chunk, np.zeros((16, 16, 3), dtype=np.uint8))


def test_the_settings_choose_the_codec() -> None:
    def chosen(**settings: object) -> object:
        return chunk_codec_for(TileConfig.model_validate(settings))

    assert chosen(codec="raw") == RawChunks()
    assert chosen(jpeg_quality=80) == JpegChunks(80, "420")
    assert chosen(jpeg_quality=97) == JpegChunks(97, "444")
