"""When two texts that people typed are the same one, and when they may be meant for the same."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

_DASHES = "\u02d7\u2043\u207b\u2212"  # that Unicode does not call dashes
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0f\uffa0]")
_NEGATIVE = re.compile("[-\u2212]\\d")
_SEPARATOR_OF_DIGITS = re.compile(r"(?<=\d)-+(?=\d)")
_ZEROS_IN_FRONT = re.compile(r"(?<![\d.,])0+(?=\d)")
_WHOLE_NUMBER = re.compile(r"(\d+)[.,]0+")


def same_text(text: str) -> str:
    """The one form of a cell: Unicode composed (NFC), every run of blanks one space, none around.

    Blanks are all that Unicode takes for such: no-break and thin spaces, tabs, line ends. Equal
    results mean the same patient, slide or class.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def bare_name(text: str) -> str:
    """What is left of a name without letter case, blanks, dashes, underscores and what is not seen.

    Headers that differ in these only are the same.
    """
    for _, step in _STEPS[:-1]:
        text = step(text)
    return text.replace("-", "")


def twin_key(text: str, *, without: str = "") -> str:
    """What two texts share that may be meant for the same, such as ``P-007`` and ``p7``.

    Args:
        text: as it is written.
        without: a way to differ that is left as it is, see :func:`how_they_differ`.
    """
    for name, step in _STEPS:
        if name != without:
            text = step(text)
    return text


def how_they_differ(first: str, second: str) -> str:
    """Why two different texts of one :func:`twin_key` are different, a clause."""
    ways = [n for n, _ in _STEPS if twin_key(first, without=n) != twin_key(second, without=n)]
    return " and ".join(ways) or "the way of writing differs"


def twins_among(texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Groups of different texts that may be meant for the same, sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        groups[twin_key(text)].add(text)
    yield from (tuple(sorted(g)) for _, g in sorted(groups.items()) if len(g) > 1)


def _seen(text: str) -> str:
    """Without what is not seen: zero-width characters, marks of direction, fillers."""
    kept = (c for c in text if c.isspace() or unicodedata.category(c) not in ("Cf", "Cc"))
    return _UNSEEN.sub("", "".join(kept))


def _plain_form(text: str) -> str:
    """Letters and digits of one width, without ligatures."""
    return unicodedata.normalize("NFKC", text)


def _one_separator(text: str) -> str:
    """Blanks, dashes and underscores gone, but for one dash between digits: 1-1 is not 11."""
    sign = "-" if _NEGATIVE.match(text) else ""
    dashed = "".join("-" if _separates(c) else c for c in text)
    return sign + _SEPARATOR_OF_DIGITS.sub("\0", dashed).replace("-", "").replace("\0", "-")


def _separates(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind in ("Pd", "Pc") or character in _DASHES or character.isspace()


def _bare_numbers(text: str) -> str:
    """Without zeros in front of numbers; ``1.0`` is ``1`` where it is all there is."""
    whole = _WHOLE_NUMBER.fullmatch(text)
    return _ZEROS_IN_FRONT.sub("", whole[1] if whole else text)


# In this order: what is done first can hide what is done later.
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("characters that are not seen differ", _seen),
    ("dashes, underscores or blanks differ", _one_separator),
    ("forms of a character differ", _plain_form),
    ("letter case differs", str.casefold),
    ("leading zeros or decimals of zero differ", _bare_numbers),
)
