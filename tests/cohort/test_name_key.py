"""The key file of hashed names: one salt, ids that it tells back, and what it refuses."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from wsi_hr.cohort import name_key
from wsi_hr.cohort.name_key import NameKey, is_hashed_id
from wsi_hr.cohort.table import read_table
from wsi_hr.errors import ConfigError
from wsi_hr.runtime import temporary_name


def _id(key: NameKey, name: str) -> str:
    """The id of a name, without noting it."""
    return key._hash("slide", name)


def new_key(path: Path) -> NameKey:
    return NameKey.open(path, new=True)


def test_a_name_has_one_id_as_long_as_the_salt_is_the_same(tmp_path):
    key = new_key(tmp_path / "key.csv")
    slide, patient = key.slide_id("DOE", Path("a/DOE.svs")), key.patient_id("DOE")
    assert is_hashed_id(slide)
    assert slide[1:] != patient[1:], "a patient's hash does not tell the slide of the same name"
    key.save()
    again = NameKey.open(tmp_path / "key.csv")
    assert again.slide_names([slide]) == {slide: "DOE"}
    assert (again.slide_id("DOE", Path("b/DOE.svs")), again.patient_id("DOE")) == (slide, patient)
    assert again.fingerprint == key.fingerprint
    other = new_key(tmp_path / "other.csv")
    assert other.slide_id("DOE", Path("a/DOE.svs")) != slide
    assert other.fingerprint != key.fingerprint


def test_nobody_but_the_owner_reads_the_key_file(tmp_path, monkeypatch, caplog):
    path = tmp_path / "key.csv"
    stray = temporary_name(path)
    stray.write_text("left by a killed run")
    stray.chmod(0o666)
    modes = []
    rows = NameKey._rows

    def watched(key: NameKey):
        modes.append(stat.S_IMODE(stray.stat().st_mode))
        yield from rows(key)

    monkeypatch.setattr(NameKey, "_rows", watched)
    new_key(path).save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert modes == [0o600], "before the first name is written"
    NameKey.open(path)
    assert not caplog.records
    path.chmod(0o644)
    NameKey.open(path)
    assert "others may read it" in caplog.text


def test_what_another_run_added_meanwhile_is_kept(tmp_path):
    path = tmp_path / "key.csv"
    new_key(path).save()
    first, second = NameKey.open(path), NameKey.open(path)
    ids = [first.slide_id("a", Path("a.svs")), second.slide_id("b", Path("b.svs"))]
    threads = [threading.Thread(target=key.save) for key in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = NameKey.open(path)
    assert [*both.slide_names(ids).values()] == ["a", "b"]


def test_two_runs_that_begin_a_key_do_not_take_each_others_place(tmp_path):
    first, second = new_key(tmp_path / "key.csv"), new_key(tmp_path / "key.csv")
    first.save()
    with pytest.raises(ConfigError, match="another run made a key file there meanwhile"):
        second.save()
    assert NameKey.open(tmp_path / "key.csv").fingerprint == first.fingerprint


def test_nothing_is_written_before_it_is_saved(tmp_path):
    new_key(tmp_path / "key.csv").slide_id("a", Path("a.svs"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="no such file"):
        NameKey.open(tmp_path / "key.csv")


def test_two_names_of_one_id_are_refused(tmp_path, monkeypatch):
    key = new_key(tmp_path / "key.csv")
    names = {key.slide_id(f"slide_{number}", Path("x.svs")) for number in range(20_000)}
    assert len(names) == 20_000
    monkeypatch.setattr(name_key, "_ID_CHARACTERS", 1)
    short = new_key(tmp_path / "short.csv")
    taken = {short.slide_id("slide_0", Path("x.svs")): "slide_0"}
    same = next(
        name for name in map("slide_{}".format, range(1, 9999)) if _id(short, name) in taken
    )
    with pytest.raises(ConfigError, match="'slide_0' and 'slide_[0-9]+' would both be s"):
        short.slide_id(same, Path("x.svs"))


def test_names_of_every_kind_come_back(tmp_path):
    names = ["=SUM(1)", "007", "a,b;c", 'with "quotes"', "ü😐", os.fsdecode(b"caf\xe9"), " x "]
    key = new_key(tmp_path / "key.csv")
    ids = [key.slide_id(name, Path(f"folder/{name}.svs")) for name in names]
    assert len(set(ids)) == len(names)
    key.save()
    again = NameKey.open(tmp_path / "key.csv")
    assert [again.slide_id(name, Path(f"folder/{name}.svs")) for name in names] == ids
    assert [*again.slide_names(ids[:5]).values()] == names[:5]
    # one form of accents on all systems
    assert key.slide_id("u\u0308", Path("x")) == key.slide_id("ü", Path("x"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text.replace("case_007", "case_7"), "line 3: id and name do not belong"),
        (lambda text: "\n".join([*text.splitlines()[:1], *text.splitlines()[2:]]), "no key file"),
        (lambda text: text + text.splitlines()[1] + "\n", "no key file"),
        (lambda text: text.replace("=,", "A,"), "line 2: id and name do not belong together"),
        (lambda text: text.replace("slide,", "dog,"), "line 3: id and name do not belong"),
        (lambda text: "slide_id,label\na,b\n", "is no key file of wsi-hr"),
        (lambda text: "", "no key file|empty"),
    ],
)
def test_a_key_file_that_was_changed_is_refused(tmp_path, damage, sentence):
    path = tmp_path / "key.csv"
    key = new_key(path)
    key.slide_id("case_007", Path("case_007.svs"))
    key.save()
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError, match=sentence):
        NameKey.open(path)


def test_the_columns_of_a_key_file(tmp_path):
    key = new_key(tmp_path / "key.csv")
    slide = key.slide_id("a", tmp_path / "a.svs")
    patient = key.patient_id("P1")
    key.save()
    table = read_table(tmp_path / "key.csv")
    assert table.columns == ("kind", "id", "name", "path")
    kinds = {row["kind"]: row for row in table.rows}
    assert kinds["slide"] == {
        "kind": "slide", "id": slide, "name": "a", "path": str(tmp_path / "a.svs")
    }  # fmt: skip
    assert (kinds["patient"]["id"], kinds["patient"]["name"]) == (patient, "P1")
    assert kinds["salt"]["id"] == key.fingerprint


def test_what_a_killed_run_left_of_a_key_goes_with_the_next(tmp_path):
    path = tmp_path / "key.csv"
    key = NameKey.open(path, new=True)
    key.slide_id("a", Path("a.svs"))
    key.save()
    stray = temporary_name(path)
    stray.write_bytes(path.read_bytes())
    again = NameKey.open(path)
    again.slide_id("a", Path("a.svs"))
    again.save()  # nothing is new, so nothing is written
    assert list(tmp_path.iterdir()) == [path]
