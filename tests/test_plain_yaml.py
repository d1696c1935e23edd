"""YAML as plain data: what reads in two ways is refused, the rest is read as it is meant."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.plain_yaml import MAX_DEPTH, PlainYamlError, plain_yaml, read_plain_yaml

REFUSED = {
    "a key twice": ("seed: 1\ntrain:\n  lr: 0.1\n  lr: 0.2\n", 4, "'lr' again, after line 3"),
    "a section twice": (
        "train: {lr: 1}\nseed: 1\ntrain: {lr: 2}",
        3,
        "'train' again, after line 1",
    ),
    "a key twice, once in quotes": ("seed: 1\n'seed': 2", 2, "'seed' again, after line 1"),
    "a key twice in a list": ("sampler:\n- a: 1\n- {a: 1, a: 2}", 3, "'a' again, after line 3"),
    "a zero in front": ("a: 1\nb: 010", 2, "010 begins with a zero"),
    "a zero in front, base 8 or not": ("b: 089", 1, "089 begins with a zero"),
    "a zero in front, signed": ("b: [1, -007]", 1, "-007 begins with a zero"),
    "a time": ("\nb: 1:30", 2, "1:30 may mean minutes"),
    "a long time": ("b: 190:20:30", 1, "190:20:30 may mean minutes"),
    "a time with a fraction": ("b: 1:30.5", 1, "1:30.5 may mean minutes"),
    "base 16": ("b: 0x1F", 1, "0x1F: write the number to the base 10"),
    "base 2": ("b: 0b101", 1, "0b101: write the number to the base 10"),
    "a number of any length": ("b: " + "9" * 5000, 1, "a number of 5000 digits"),
    "an anchor": ("a: &x 1\nb: 2", 1, "the anchor &x"),
    "an anchor of a section": ("a: 1\nb: &x\n  c: 2", 2, "the anchor &x"),
    "an alias": ("b: *x", 1, "the alias *x"),
    "a tag": ("b: !!str 5", 1, "the tag tag:yaml.org,2002:str"),
    "a tag of somebody's": ("b: !mine {c: 1}", 1, "the tag !mine"),
    "the tag without a name": ("b: ! 5", 1, "the tag !"),
    "a merge key": ("train:\n  <<: {lr: 1}", 2, "the merge key <<"),
    "two documents": ("a: 1\n---\na: 2", 2, "a second document"),
    "two documents with an end": ("a: 1\n...\n---\n", 3, "a second document"),
    "a list as a key": ("? [a, b]\n: 1", 1, "a key that is no name"),
    "a mapping as a key": ("a: 1\n{b: 1}: 2", 2, "a key that is no name"),
    "an open bracket": ("a: 1\nb: [1,", 2, "expected"),
    "a tabulator": ("train:\n\tlr: 1", 2, "cannot start any token"),
    "a zero byte": ("a: 1\nb: \0", 2, "a character that is none of a text"),
    "deep lists": ("a: 1\nb: " + "[" * 50, 2, f"more than {MAX_DEPTH} sections deep"),
    "deep sections": ("\n".join(" " * n + "a:" for n in range(50)), 17, "sections deep"),
    "lists that would exhaust the stack": ("- " * 100_000, 1, "sections deep"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_reads_in_two_ways_is_refused_with_its_line(kind: str) -> None:
    text, line, reason = REFUSED[kind]
    with pytest.raises(PlainYamlError) as caught:
        read_plain_yaml(text)
    assert caught.value.line == line
    assert reason in caught.value.reason


def test_depth_is_counted_in_sections() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read_plain_yaml(deepest).data == yaml.safe_load(deepest)
    with pytest.raises(PlainYamlError):
        read_plain_yaml(f"[{deepest}]")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("0", 0), ("-0", 0), ("+5", 5), ("10_000", 10_000),
        ("0.5", 0.5), ("00.5", 0.5), ("1.", 1.0), (".5", 0.5), ("3.0e-4", 3e-4),
        ("-.INF", -float("inf")),
        ("true", True), ("False", False), ("ON", True), ("no", False), ("y", "y"), ("oN", "oN"),
        ("'010'", "010"), ('"1:30"', "1:30"), ("'on'", "on"), ("'~'", "~"), ("|\n  010\n", "010\n"),
        ("1e-3", "1e-3"), ("2024-01-02", "2024-01-02"), ("1:99", "1:99"), ("1.2.3", "1.2.3"),
        ("=", "="),
    ],
)  # fmt: skip
def test_values_are_what_people_mean(text: str, value: object) -> None:
    found = read_plain_yaml(f"a: {text}").data["a"]
    assert (found, type(found)) == (value, type(value))


def test_no_content_is_nothing() -> None:
    for text in ("", "# a remark\n", "---\n", "\ufeff"):
        assert read_plain_yaml(text).data is None


def test_every_value_has_its_line() -> None:
    text = "# a study\nseed: 1\ntrain:\n  lr: 0.1\nsampler:\n- name: a\n  keep: 0.2\n- {name: b}\n"
    read = read_plain_yaml(text)
    assert read.data == yaml.safe_load(text)
    assert read.lines == {
        "seed": 2, "train": 4, "train.lr": 4, "sampler": 6, "sampler.0": 6, "sampler.0.name": 6,
        "sampler.0.keep": 7, "sampler.1": 8, "sampler.1.name": 8,
    }  # fmt: skip


_numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_odd_texts = st.sampled_from(
    ["010", "08", "1:30", "on", "No", "null", "~", ".inf", "0x1", "5", "<<"]
)
_leaves = st.none() | st.booleans() | _numbers | _texts | _odd_texts
_data = st.recursive(
    _leaves, lambda inner: st.lists(inner) | st.dictionaries(_texts, inner), max_leaves=10
)


@given(st.dictionaries(_texts.filter(lambda key: key != "<<"), _data))
@settings(max_examples=200)
def test_what_is_written_reads_back_as_the_same(data: dict) -> None:
    assert read_plain_yaml(plain_yaml(data)).data == data
