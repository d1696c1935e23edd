"""The fault harness at small counts; and that each of its oracles finds the bug it is for."""

from __future__ import annotations

import pytest

from benchmarks.anatomy import dissect
from benchmarks.faults import PROOFS, prove
from benchmarks.mutation_faults import make_mutants, make_victims, mutations, row_problems
from benchmarks.mutations import MUTATIONS, NotApplicableError
from benchmarks.planted import BUGS
from benchmarks.stage_faults import kills, poison
from wsi_hr.runtime import rng_for

pytestmark = pytest.mark.timeout(900)  # of processes on a machine that others use too


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    return make_victims(tmp_path_factory.mktemp("victims") / "sound", seed=0)


def test_every_victim_is_dissected_as_it_is(victims, tmp_path):
    assert len({victim.name[0] for victim in victims}) == len(victims)
    for victim in victims:
        path = tmp_path / victim.name
        path.write_bytes(victim.data)
        assert dissect(path) == victim.anatomy
        assert len(victim.anatomy.directories[0].segments) in (4, 8)
        for directory in victim.anatomy.directories:
            for tile in directory.segments:
                assert 0 < tile.offset < tile.offset + tile.count <= len(victim.data)
    jpeg = next(victim for victim in victims if victim.name == "jpeg.tif")
    tile = jpeg.anatomy.directories[0].segments[0]
    assert jpeg.data[tile.offset : tile.offset + 2] == b"\xff\xd8"


@pytest.mark.parametrize("kind", sorted(MUTATIONS))
def test_every_kind_of_damage_applies_somewhere_and_is_seeded(victims, kind):
    made = []
    for victim in victims:
        for number in range(6):
            try:
                twins = [
                    bytes(MUTATIONS[kind](bytearray(victim.data), victim.anatomy, rng_for(number)))
                    for _ in range(2)
                ]
            except NotApplicableError:
                continue
            assert twins[0] == twins[1]
            made.append(twins[0] != victim.data)
    assert any(made)


def test_a_mutant_depends_on_the_seed_and_its_number_alone(victims, tmp_path):
    some = make_mutants(tmp_path / "some", victims, range(5, 8), seed=1)
    all_of_them = make_mutants(tmp_path / "all", victims, range(10), seed=1)
    assert [mutant.sha256 for mutant in some] == [mutant.sha256 for mutant in all_of_them[5:8]]
    assert len({mutant.sha256 for mutant in all_of_them}) == 10


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"status": "done", "reason": ""}, None),
        ({"status": "skipped"}, "status is skipped"),
        ({"reason": ""}, "has no reason"),
        ({"reason": "Traceback (most recent call last):"}, "not one sentence"),
        ({"reason": "two\nlines"}, "not one sentence"),
        ({"reason": "unexpected KeyError (3); please report it"}, "nobody expected"),
        ({"reason": "x" * 2000}, "2000 letters"),
        ({"seconds": "31.0"}, "its deadline was 20 s"),
    ],
)
def test_what_is_wrong_with_a_row_is_found(change, problem):
    row = {
        "slide_id": "a",
        "status": "failed",
        "reason": "it is cut off",
        "seconds": "0.1",
    } | change
    problems = row_problems(row, 20.0)
    assert bool(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


@pytest.mark.slow
def test_sixty_damaged_slides(tmp_path):
    report = mutations(tmp_path, count=60, seed=1, batch=30)
    assert report.violations == []
    assert sum(report.facts["states"].values()) == 60
    assert {"failed", "done, equal", "done, other pixels"} <= report.facts["states"].keys()


@pytest.mark.fault("A1a")
@pytest.mark.slow
def test_a_few_kills(tmp_path):
    report = kills(tmp_path, count=4, seed=1, slides=4)
    assert report.violations == []
    assert report.facts["kills"] == 4


@pytest.mark.fault("A8b", "A8c")
@pytest.mark.slow
def test_one_poisoned_slide_of_eight(tmp_path):
    report = poison(tmp_path, slides=8, seed=0, kinds=("segfault", "memory"))
    assert report.violations == []
    assert set(report.facts["reasons"]) == {"segfault", "memory"}


def test_every_planted_bug_has_its_proof():
    assert {name for name, _, _ in PROOFS} == set(BUGS)


CHEAP = ("clock in the store", "row lost", "hash of another file", "parent crashes")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_an_oracle_finds_the_bug_it_is_for(tmp_path, name):
    """The others take minutes: ``python -m benchmarks.faults prove``."""
    number = [proof[0] for proof in PROOFS].index(name)
    assert prove(tmp_path, seed=0, number=number) == []
