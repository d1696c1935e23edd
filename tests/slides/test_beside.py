"""Words that name a picture beside a slide, and words that only sound like it."""

from __future__ import annotations

import pytest

from wsi_hr.slides.beside import named_beside


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("label", "label"),
        ("Label_Image", "label"),
        ("Label Image", "label"),
        ("LABELIMAGE", "label"),
        ("MACROIMAGE", "macro"),
        ("Macro image of the slide", "macro"),
        ("macro 1280x431", "macro"),
        ("Thumbnail", "thumbnail"),
        ("overview", "overview"),
        ("SlidePreview", "overview"),
        ("Aperio Image Library v11.2.1 \r\nlabel 387x463", "label"),
        ("Aperio Leica Biosystems GT450 v1.0.1 \r\nmacro 1280x431|ScanScope ID = 1", "macro"),
        ("<PerkinElmer-QPI-ImageDescription>\r\n<ImageType>Label</ImageType>", "label"),
        ("<Q><ImageType>Overview</ImageType></Q>", "overview"),
        ('{"shape": [900, 400, 3], "name": "macro"}', "macro"),
        ('<Image Name="label image" ID="2">', "label"),
        ("ImageType=THUMBNAIL;x=1", "thumbnail"),
    ],
)
def test_a_picture_beside_the_slide_is_known_by_its_words(text, kind):
    assert named_beside(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Aperio Image Library v11\r\n2220x2967 [0,0] (240x240) |AppMag = 20|Filename = label",
        "Aperio Image Library v11\r\n2220x2967 -> 574x768 - |User = macro|Title = label",
        "level=0 mag=40 quality=90",
        "macrophages, label-free",
        "Label: 4711",
        "labelled by hand",
        "label=3",
        "<Q><ImageType>FullResolution</ImageType><Name>DAPI</Name></Q>",
        "the image of a slide",
        "ImageJ=1.53k\nimages=3\nLabel=abc",
    ],
)
def test_other_words_are_about_the_slide(text):
    assert named_beside(text) is None
