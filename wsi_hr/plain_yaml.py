"""YAML as plain data: what reads in two ways is refused, with its line.

YAML 1.1 takes ``010`` for 8, ``1:30`` for 90, keeps the last of two equal keys without a word, and
lets one line stand for others (anchors, tags, merge keys). A settings file needs none of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 16
"""Sections within sections; a recipe has three."""

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_CASES = (str.lower, str.upper, str.capitalize)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9_]*)", re.ASCII)
_OTHER_BASE = re.compile(r"[+-]?0(x[0-9a-f_]+|b[01_]+)", re.ASCII | re.IGNORECASE)
_FLOAT = re.compile(r"[+-]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(e[+-][0-9]+)?", re.I | re.ASCII)
_ZEROS_IN_FRONT = re.compile(r"[+-]?0[0-9_]+", re.ASCII)
_CLOCK = re.compile(r"[+-]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", re.ASCII)
_NO_NUMBER = re.compile(r"[+-]?\.(inf|nan)", re.IGNORECASE)
_MOST_DIGITS = 40


class PlainYamlError(Exception):
    """A text that is not plain data.

    Attributes:
        line: of the text, from 1.
        reason: what is wrong, a clause.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass
class PlainYaml:
    """What a text says.

    Attributes:
        data: dicts with text keys, lists, texts, numbers, booleans and None.
        lines: dotted place of every value below the top, such as ``train.lr`` -> its line.
    """

    data: Any = None
    lines: dict[str, int] = field(default_factory=dict)


@dataclass
class _Open:
    """A mapping or list that is being read."""

    value: dict[str, Any] | list[Any]
    place: str
    key: str | None = None
    seen: dict[str, int] = field(default_factory=dict)


def read_plain_yaml(text: str) -> PlainYaml:
    """Read one document of plain data.

    Booleans are ``true``, ``false`` and YAML's ``yes``, ``no``, ``on``, ``off``; infinities are
    numbers. Whether a setting may be that is its own affair.

    Raises:
        PlainYamlError: not YAML; an anchor, alias, tag, merge key or second document; a key twice,
            or one that is no name; a number that reads in two ways; or sections that lie deeper
            than :data:`MAX_DEPTH`.
    """
    result = PlainYaml()
    opened: list[_Open] = []
    num_documents = 0
    for event in _events(text):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            num_documents += 1
            if num_documents > 1:
                raise PlainYamlError(line, "a second document begins here, and one is read")
        elif isinstance(event, yaml.NodeEvent):
            _refuse_indirections(event, line)
            _take(event, line, opened, result)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            opened.pop()
    return result


def plain_yaml(data: Any) -> str:
    """``data`` as a text that :func:`read_plain_yaml` reads back as the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, with every text in quotes that would not be read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        try:
            is_text = _value(text, 1) == text
        except PlainYamlError:
            is_text = False
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_text else "'")


_Dumper.add_representer(str, _Dumper.represent_text)


def _events(text: str) -> Iterator[yaml.Event]:
    """PyYAML's events one by one; its errors as ours."""
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        line = mark.line + 1 if mark else 1
        raise PlainYamlError(line, cause.problem or cause.context or "cannot be parsed") from cause
    except yaml.YAMLError as cause:  # a character that YAML does not have
        position = getattr(cause, "position", 0)
        line = text.count("\n", 0, position) + 1
        raise PlainYamlError(line, "a character that is none of a text") from cause


def _refuse_indirections(event: yaml.NodeEvent, line: int) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise PlainYamlError(line, f"the alias *{event.anchor}; write the value itself")
    if event.anchor is not None:
        raise PlainYamlError(line, f"the anchor &{event.anchor}; write a value where it counts")
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise PlainYamlError(line, f"the tag {tag}; a setting is plain data")


def _take(event: yaml.NodeEvent, line: int, opened: list[_Open], result: PlainYaml) -> None:
    """Put a key or value where it belongs."""
    parent = opened[-1] if opened else None
    if parent is not None and isinstance(parent.value, dict) and parent.key is None:
        parent.key = _key(event, line, parent)
        return
    place = "" if parent is None else _place_in(parent)
    if isinstance(event, yaml.ScalarEvent):  # quoted ones and blocks are text
        value = _value(event.value, line) if event.implicit[0] else event.value
    else:
        value = {} if isinstance(event, yaml.MappingStartEvent) else []
        if len(opened) >= MAX_DEPTH:
            raise PlainYamlError(line, f"lies more than {MAX_DEPTH} sections deep")
        opened.append(_Open(value, place))
    if place:
        result.lines[place] = line
    if parent is None:
        result.data = value
    elif isinstance(parent.value, dict):
        assert parent.key is not None, "a value follows its key"
        parent.value[parent.key] = value
        parent.key = None
    else:
        parent.value.append(value)


def _place_in(parent: _Open) -> str:
    name = parent.key if isinstance(parent.value, dict) else str(len(parent.value))
    return f"{parent.place}.{name}" if parent.place else f"{name}"


def _key(event: yaml.NodeEvent, line: int, parent: _Open) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise PlainYamlError(line, "a key that is no name")
    key = event.value
    if key == "<<" and event.implicit[0]:
        raise PlainYamlError(line, "the merge key <<; write the settings themselves")
    if key in parent.seen:
        raise PlainYamlError(line, f"{key!r} again, after line {parent.seen[key]}; keep one")
    parent.seen[key] = line
    return key


def _value(text: str, line: int) -> Any:
    """What a text without quotes means."""
    if text in _NULLS:
        return None
    for name, value in _BOOLEANS.items():
        if text in (case(name) for case in _CASES):
            return value
    if _ZEROS_IN_FRONT.fullmatch(text):
        raise PlainYamlError(
            line,
            f"{text} begins with a zero and may mean a number to the base 8; write the number "
            "without it, or in quotes if it is text",
        )
    if _CLOCK.fullmatch(text):
        raise PlainYamlError(
            line,
            f"{text} may mean minutes and seconds or a number to the base 60; write the number "
            "itself, or in quotes if it is text",
        )
    if _OTHER_BASE.fullmatch(text):
        raise PlainYamlError(
            line, f"{text}: write the number to the base 10, or in quotes if it is text"
        )
    if _INTEGER.fullmatch(text):
        if len(text) > _MOST_DIGITS:
            raise PlainYamlError(line, f"a number of {len(text)} digits")
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text) or _NO_NUMBER.fullmatch(text):
        plain = text.lower().replace("_", "")
        return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    return text
