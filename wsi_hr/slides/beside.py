"""Words by which files name the pictures beside a slide: label, macro, overview, thumbnail."""

from __future__ import annotations

import re

# Words for such a picture, and words that may stand with them. A text that has others is about
# something else: "macrophages", "Label: 4711".
_KINDS = {
    **dict.fromkeys(("label", "labels", "labelimage", "slidelabel"), "label"),
    **dict.fromkeys(("macro", "macroimage"), "macro"),
    **dict.fromkeys(("overview", "overviewimage", "preview", "slidepreview"), "overview"),
    **dict.fromkeys(("thumbnail", "thumbnailimage", "thumb"), "thumbnail"),
}
_WITH_KINDS = re.compile(r"the|a|of|images?|picture|photo|page|slide|[0-9]{1,2}|[0-9]+x[0-9]+")
_BETWEEN_WORDS = re.compile(r"[\s_.,;()\[\]-]+")
# XML (PerkinElmer's has ImageType), JSON and key=value texts that say what the image is
_TOLD = re.compile(
    r"""\b(?:image_?type|page_?name|name|type)["']?\s*[=:>]\s*["']?"""
    r"""([\w .-]{1,60}?)\s*(?=["'<|;,}\r\n]|$)""",
    re.IGNORECASE,
)


def named_beside(text: str) -> str | None:
    """The kind of picture that ``text`` names; None where it names none, or says more.

    Each line is looked at by itself, up to the ``|`` behind which Aperio's scanners tell more.
    """
    lines = [line.partition("|")[0] for line in text.splitlines()]
    return next(filter(None, map(_kind, [*lines, *_TOLD.findall(text)])), None)


def _kind(phrase: str) -> str | None:
    words = [word for word in _BETWEEN_WORDS.split(phrase.lower()) if word]
    kinds = [_KINDS[word] for word in words if word in _KINDS]
    others = [word for word in words if word not in _KINDS]
    return kinds[0] if kinds and all(map(_WITH_KINDS.fullmatch, others)) else None
