"""What a scanner writes into a slide about a patient must come out nowhere."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from wsi_hr.cohort.manifest import find_slides
from wsi_hr.exchange.export import FORMATS

from .named_dicom import write_dicom
from .named_slides import write_ome, write_svs, write_tiff
from .sentinel_search import NAME, hits, marked, names_in

KINDS = {"aperio.svs": write_svs, "generic.tif": write_tiff, "ome.ome.tif": write_ome}
DICOM = ("dicom_volume.dcm", "dicom_label.dcm", "dicom_overview.dcm")
DONE = {"aperio", "generic", "ome", "dicom_volume"}
CODECS = ("auto", "jpeg", "raw", "virtual")
SETS = "encoder.name=test_resnet train.epochs=1 train.threads=1 train.device=cpu split.val=0"
LEARNING = [f"--set={text}" for text in (*SETS.split(), "split.test=0")]


@pytest.fixture(scope="module")
def named_slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    for name, write in KINDS.items():
        write(folder / name)
        assert (folder / name).read_bytes().count(NAME.encode()) > 40, "in every place"
    write_dicom(folder)
    for name in DICOM:
        assert (folder / name).read_bytes().count(NAME.encode()) > 25, "in every place"
    return folder


@pytest.mark.fault("G1", "G2", "G3", "G4", "G5", "G7")
@pytest.mark.parametrize("codec", CODECS)
def test_no_output_holds_the_name_or_the_label(cli, named_slides, tmp_path, codec):
    out, printed = tmp_path / "out", []

    def call(*args: object) -> None:
        ended = cli("-v", *args)
        assert ended.code == 0, ended.err
        printed.append(ended.out + ended.err)

    store = out / "store"
    tile = ("tile", named_slides, "-o", store, "--mpp", 0.5, "--set=tile.icc=keep")
    tile = (*tile, f"--set=tile.codec={codec}")
    call("info", *sorted(named_slides.iterdir()))
    call(*tile, "--dry-run")
    call(*tile)
    call("verify", store, "--slides", named_slides)
    for form in FORMATS:
        if codec != "virtual" or form in ("clam", "trident"):
            call("export", store, "-o", out / form, "--format", form)
    call("sample", store, "-o", out / "sample")
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,label\naperio,a\ngeneric,b\nome,a\ndicom_volume,b\n")
    call("train", store, "--labels", labels, "-o", out / "run", *LEARNING)
    call("predict", out / "run", store, "-o", out / "of_store", "--device", "cpu")
    call("predict", out / "run", named_slides, "-o", out / "of_slides", "--device", "cpu")
    call("show")
    with (store / "status.csv").open() as handle:
        ended = {row["slide_id"]: row["status"] for row in csv.DictReader(handle)}
    assert {slide_id for slide_id, status in ended.items() if status == "done"} == DONE
    assert ended.keys() - DONE <= {Path(name).stem for name in DICOM}
    assert not any(names_in(text.encode()) for text in printed)
    suffixes = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert suffixes >= {".png", ".csv", ".json", ".safetensors", ".yaml", ".h5", ".geojson"}
    assert hits(out) == []


@pytest.mark.parametrize("how", ["tile.icc=srgb", "tile.stain=reinhard"])
def test_colours_bring_no_text_of_a_profile_with_them(cli, named_slides, tmp_path, how):
    ended = cli("-v", "tile", named_slides, "-o", tmp_path / "store", "--mpp", 1, f"--set={how}")
    assert ended.code == 0, ended.err
    assert not names_in((ended.out + ended.err).encode())
    assert hits(tmp_path) == []


def test_the_label_of_a_dicom_series_does_not_stand_for_it(named_slides):
    """Its name comes first; the volume is the slide all the same."""
    records = {r.path.name: r for r in find_slides([named_slides]) if r.path.name in DICOM}
    assert {name for name, record in records.items() if not record.redundant} == {DICOM[0]}


def test_the_slides_hold_what_is_looked_for(named_slides):
    import tifffile

    for name in KINDS:
        with tifffile.TiffFile(named_slides / name) as tiff:
            pages = [page.asarray() for page in tiff.pages if not page.is_tiled]
            assert any(marked(page) for page in pages), name
            for page in tiff.pages:
                told = {tag.code for tag in page.tags if names_in(repr(tag.value).encode())}
                assert {269, 271, 272, 305, 315, 316, 700, 33723, 34377, 65001} <= told, name
