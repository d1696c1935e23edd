from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from wsi_hr.store.jpeg import decode_jpeg_into, encode_jpeg, subsampling_for


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 3, columns * 3, rows + columns], axis=2).astype(np.uint8)


@pytest.mark.parametrize("edge", [8, 16, 31, 64])
@pytest.mark.parametrize("quality", [50, 90, 95, 100])
def test_pixels_survive_within_what_the_quality_allows(edge: int, quality: int) -> None:
    pixels = gradient(edge, edge)
    stream = encode_jpeg(pixels, quality=quality, subsampling=subsampling_for(quality))
    out = np.zeros_like(pixels)
    decode_jpeg_into(stream, out)
    assert np.abs(out.astype(int) - pixels).mean() < (12 if quality < 95 else 2)
    assert np.array_equal(out, simplejpeg.decode_jpeg(stream))


def test_a_view_into_a_bigger_array_is_encoded_as_its_copy() -> None:
    pixels = gradient(64, 64)
    view = pixels[8:24, 8:24]
    assert encode_jpeg(view, quality=90, subsampling="420") == encode_jpeg(
        view.copy(), quality=90, subsampling="420"
    )


def test_only_high_qualities_keep_full_chroma() -> None:
    assert [subsampling_for(quality) for quality in (50, 90, 94, 95, 100)] == [
        *["420"] * 3,
        *["444"] * 2,
    ]
    for quality in (90, 95):
        stream = encode_jpeg(
            gradient(16, 16), quality=quality, subsampling=subsampling_for(quality)
        )
        assert simplejpeg.decode_jpeg_header(stream)[3] == subsampling_for(quality)


def test_a_header_announcing_a_huge_picture_is_refused_before_decoding() -> None:
    stream = bytearray(encode_jpeg(gradient(16, 16), quality=90, subsampling="444"))
    frame = stream.index(b"\xff\xc0")
    stream[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    out = np.full((16, 16, 3), 7, dtype=np.uint8)
    with pytest.raises(ValueError, match="announces 65000 x 65000 px where 16 x 16 belong"):
        decode_jpeg_into(bytes(stream), out)
    assert (out == 7).all()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 32), (32, 8)])
def test_another_size_is_refused_even_where_it_would_fit(height: int, width: int) -> None:
    stream = encode_jpeg(gradient(height, width), quality=90, subsampling="444")
    with pytest.raises(ValueError, match=f"announces {width} x {height} px"):
        decode_jpeg_into(stream, np.zeros((16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize("cut", [1, 2])
def test_what_a_decoder_can_mend_is_mended(cut: int) -> None:
    stream = encode_jpeg(gradient(16, 16), quality=90, subsampling="444")
    whole, mended = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    decode_jpeg_into(stream, whole)
    decode_jpeg_into(stream[:-cut], mended)
    assert np.array_equal(whole, mended)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_stream_without_a_scan_is_an_error(length: int) -> None:
    stream = encode_jpeg(gradient(16, 16), quality=90, subsampling="444")
    with pytest.raises(ValueError, match=r"\w"):
        decode_jpeg_into(stream[:length], np.zeros((16, 16, 3), dtype=np.uint8))
