"""What a scanner writes into a slide about a patient must come out nowhere."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import openslide
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wsi_hr.exchange.export import FORMATS

NAME = "DOE_JANE_1961"


@pytest.fixture(scope="module")
def named_slides(cohort, tmp_path_factory) -> Path:
    """The cohort's slides, the patient's name in every free text that Aperio scanners fill in."""
    folder = tmp_path_factory.mktemp("named")
    fields = ("Filename", "Title", "User", "Date", "Time", "Patient", "Barcode", "ScanScope ID")
    told = "|".join(f"{field} = {NAME}" for field in fields)
    for slide in (cohort / "slides").iterdir():
        copy = Path(shutil.copy(slide, folder))
        with tifffile.TiffFile(copy) as tiff:
            texts = [page.description for page in tiff.pages]
        tifffile.tiffcomment(copy, f"{texts[0]}|{told}".encode())
        with tifffile.TiffFile(copy, mode="r+") as tiff:
            tiff.pages[1].tags["ImageDescription"].overwrite(f"{texts[1]}|{told}")
        with openslide.OpenSlide(copy) as opened:
            assert opened.properties["aperio.Filename"] == NAME, "as a reader gives it out"
        assert copy.read_bytes().count(NAME.encode()) == 2 * len(fields)
    return folder


def test_no_output_holds_the_name(cli, named_slides, cohort, tmp_path):
    out = tmp_path / "out"
    printed = []

    def call(*args: object) -> None:
        ended = cli("-v", *args)
        assert ended.code == 0, ended.err
        printed.append(ended.out + ended.err)

    call("info", *sorted(named_slides.iterdir())[:2])
    call("tile", named_slides, "-o", out / "store", "--mpp", 2, "--patch-size", 64)
    sets = ("encoder.name=test_resnet", "train.epochs=1", "train.threads=1", "train.device=cpu")
    call("train", out / "store", "--labels", cohort / "labels.csv", "-o", out / "run",
         *(f"--set={text}" for text in sets))  # fmt: skip
    call("predict", out / "run", *sorted(named_slides.iterdir())[:2],
         "-o", out / "predictions", "--device", "cpu")  # fmt: skip

    call("verify", out / "store", "--slides", named_slides)
    for form in FORMATS:
        call("export", out / "store", "-o", out / form, "--format", form)

    assert not any(NAME in text for text in printed)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".png", ".csv", ".json", ".safetensors", ".yaml"}
    for path in files:
        assert NAME not in str(path)
        assert not told_in(path.read_bytes()), path
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert not any(NAME in str(text) for text in picture.info.values())
    with (out / "predictions/predictions.csv").open() as handle:
        assert {row["status"] for row in csv.DictReader(handle)} == {"done"}


def told_in(content: bytes) -> bool:
    return NAME.encode() in content or NAME.encode("utf-16-le") in content


def test_the_search_would_find_it(tmp_path):
    """The oracle's own proof: the name in a PNG's zipped text and in plain bytes is found."""
    assert told_in(b"..." + NAME.encode("utf-16-le"))
    image = Image.new("RGB", (4, 4))
    texts = PngInfo()
    texts.add_text("Title", NAME, zip=True)
    image.save(tmp_path / "a.png", pnginfo=texts)
    assert NAME.encode() not in (tmp_path / "a.png").read_bytes(), "zipped"
    with Image.open(tmp_path / "a.png") as picture:
        assert any(NAME in str(text) for text in picture.info.values())
