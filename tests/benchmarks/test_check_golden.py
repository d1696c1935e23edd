"""The golden command agrees with what is right, and with nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.check_golden import AGREES, DISAGREES, NOT_OF_THE_FORM, main

sys.path.insert(0, str(Path(__file__).parent))
from golden_references import patchgd_arrays, selection_arrays  # noqa: E402

TASKS = {"zeta": 4, "grade.of.all": 2, "alpha": 3}
SELECTIONS = {
    "dbps": {},
    "two tasks and positions": {"tasks": TASKS, "positions": True, "d": 30, "h": 5},
    "ips": {"ips": True, "n": 33, "m": 8, "i": 4, "h": 1},
    "ips of several tasks": {"ips": True, "tasks": TASKS, "n": 90, "slides": 1},
    "positions": {"positions": True, "n": 120, "m": 17, "s": 40, "i": 11},
    "room for all": {"n": 6, "m": 9, "ips": True},
    "one chunk": {"n": 40, "i": 500, "s": 20},
    "no sub-salient": {"s": 0},
}
GRADIENTS = {
    "oblong grid": {},
    "three layers": {"grid": (6, 6), "edge": 4, "pct": 1 / 3, "layers": 3, "classes": 2},
    "one inner step": {"grid": (2, 3), "edge": 6, "pct": 1.0, "layers": 1, "slides": 2},
    "several optimiser steps": {"grid": (4, 4), "pct": 0.25, "epsilon": 3},
    "a short last draw": {"grid": (4, 5), "pct": 0.3},
    "float32": {"dtype": np.float32},
}


@pytest.fixture(scope="module")
def gradients() -> dict[str, np.ndarray]:
    """One file, which takes seconds; tests change a copy."""
    return patchgd_arrays()


def save(path: Path, arrays: dict[str, np.ndarray]) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.data
def test_the_papers_files_agree(shared_golden, capsys) -> None:
    files = sorted(map(str, shared_golden.glob("*.npz")))
    assert len(files) == 6
    assert main(files) == AGREES
    out = capsys.readouterr().out
    assert all(f"{name}: agrees" in out for name in files)
    assert "DISAGREES" not in out


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_selections_of_other_sizes_agree(tmp_path, capsys, name: str, seed: int) -> None:
    arrays = selection_arrays(seed, **SELECTIONS[name])
    assert main([save(tmp_path / "a.npz", arrays)]) == AGREES, capsys.readouterr().out
    out = capsys.readouterr().out
    for key in arrays:
        if key.startswith("probs.") or key in ("idx", "sub_idx", "sub_emb"):
            assert f"  {key} " in out or not arrays[key].size


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_other_sizes_agree(tmp_path, capsys, name: str) -> None:
    arrays = patchgd_arrays(**GRADIENTS[name])
    assert main([save(tmp_path / "a.npz", arrays)]) == AGREES, capsys.readouterr().out
    out = capsys.readouterr().out
    for key in arrays:
        if key.startswith("grad"):
            assert f"  {key} " in out


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("idx", lambda a: a + 1),
        ("sub_idx", lambda a: np.roll(a, 1, 0)),
        ("sub_emb", lambda a: a + 1e-3 * (np.arange(a.size) == 5).reshape(a.shape)),
        ("probs.grade", lambda a: a + 3e-6 * (np.arange(a.size) == 4).reshape(a.shape)),
        ("probs.grade", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.nan, a)),
        ("emb", lambda a: a * 1.001),
        ("state.output_layers.grade.0.bias", lambda a: a + np.eye(len(a))[0] * 1e-4),
        ("state.transf.mlp.layer_norm.bias", lambda a: a + 1e-3 * (np.arange(len(a)) == 3)),
        ("conf", lambda a: np.array(str(a).replace("'N': 61", "'N': 62"))),
        ("conf", lambda a: np.array(str(a).replace("'M': 5", "'M': 4"))),
    ],
)
def test_a_changed_selection_disagrees(tmp_path, key: str, change) -> None:
    arrays = selection_arrays()
    arrays[key] = change(arrays[key]).astype(arrays[key].dtype)
    assert main([save(tmp_path / "a.npz", arrays)]) == DISAGREES


def test_tasks_read_queries_in_the_order_of_their_classifiers(tmp_path) -> None:
    arrays = selection_arrays(tasks={"b": 3, "a": 3})
    layers = [key for key in arrays if key.startswith("state.output_layers.")]
    swapped = {k: v for k, v in arrays.items() if k not in layers}
    swapped |= {key: arrays[key] for key in sorted(layers)}
    assert main([save(tmp_path / "a.npz", arrays)]) == AGREES
    assert main([save(tmp_path / "b.npz", swapped)]) == DISAGREES


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("grad.encoder.conv1.weight", lambda a: a + 1e-4 * np.linalg.norm(a) * (a == a.max())),
        ("gradnorm.head.linear.bias", lambda a: a * (1 + 2e-5)),
        ("head.layers.0.0.weight", lambda a: a * 1.001),
        ("y", lambda a: (a + 1) % 4),
        ("inner", lambda a: a + 1),
        ("epsilon", lambda a: a - 1),
        ("n_optimizer_steps", lambda a: a + 1),
    ],
)
def test_changed_gradients_disagree(tmp_path, gradients, key: str, change) -> None:
    arrays = dict(gradients)
    arrays[key] = np.asarray(change(arrays[key])).astype(arrays[key].dtype)
    assert main([save(tmp_path / "a.npz", arrays)]) == DISAGREES


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.pop("idx"), "has no idx"),
        (lambda a: a.pop("emb"), "neither embeddings (emb) nor images (x)"),
        (lambda a: a.pop("probs.grade"), "has no probs.grade"),
        (lambda a: a.pop("state.transf.mlp.w_1.bias"), "has no state.transf.mlp.w_1.bias"),
        (lambda a: a.update(conf=np.array("M = 5")), "conf is not a printed dict"),
        (lambda a: a.update(conf=np.array("{'M': 5}")), "conf has no S, I"),
        (lambda a: a.update(emb=a["emb"][0]), "emb has 2 dimensions, not 3"),
        (lambda a: a["emb"].fill(np.nan), "emb holds values that are no finite floats"),
        (lambda a: a.update({"probs.stage": a["probs.grade"]}), "probs.stage"),
        (lambda a: a.update(idx=a["idx"][:1]), "idx does not hold patch numbers of 2 slides"),
        (lambda a: a.update(conf=np.array(str(a["conf"]).replace("'H': 4", "'H': 5"))), "heads 5"),
    ],
)
def test_a_selection_of_another_form_is_named(tmp_path, capsys, change, sentence: str) -> None:
    arrays = selection_arrays()
    change(arrays)
    assert main([save(tmp_path / "a.npz", arrays)]) == NOT_OF_THE_FORM
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.pop("pct"), "has no pct"),
        (lambda a: a.pop("y"), "has no y"),
        (lambda a: a.update(pct=np.array(0.0)), "pct is 0.0"),
        (lambda a: a.update(y=a["y"] + 9), "y holds labels other than 0 to 3"),
        (lambda a: a.update(x=a["x"][:, :, 1:]), "no square patches"),
        (lambda a: a.pop("head.layers.1.2.bias"), "weights are not those of the form"),
        (lambda a: [a.pop(k) for k in list(a) if k.startswith("grad.")], "has no grad.encoder."),
    ],
)
def test_gradients_of_another_form_are_named(
    tmp_path, capsys, gradients, change, sentence: str
) -> None:
    arrays = dict(gradients)
    change(arrays)
    assert main([save(tmp_path / "a.npz", arrays)]) == NOT_OF_THE_FORM
    assert sentence in capsys.readouterr().err


def test_what_is_no_npz_is_named_and_the_others_are_checked(tmp_path, capsys) -> None:
    sound = save(tmp_path / "a.npz", selection_arrays())
    text, cut, gone = tmp_path / "b.npz", tmp_path / "c.npz", tmp_path / "d.npz"
    text.write_text("no npz")
    cut.write_bytes(Path(sound).read_bytes()[:3000])
    assert main([str(text), str(cut), str(gone), sound]) == NOT_OF_THE_FORM
    captured = capsys.readouterr()
    assert captured.err.count("cannot be read as an npz file") == 3
    assert f"{sound}: agrees" in captured.out
