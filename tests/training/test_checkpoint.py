from __future__ import annotations

import pickle
import resource
import signal

import pytest
import torch
from torch import nn

from wsi_hr.errors import CheckpointError, ReadError, WriteError
from wsi_hr.training.checkpoint import (
    Checkpoint,
    checkpoint_meta,
    load_checkpoint,
    model_tensors,
    optimizer_tensors,
    restore_model,
    restore_optimizer,
    save_checkpoint,
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    path = tmp_path / "a.safetensors"
    tensors = model_tensors(model) | optimizer_tensors(optimizer)
    save_checkpoint(path, Checkpoint(tensors, {"epoch": 3, "name": "ä"}))
    return model, optimizer, path


def test_model_and_optimizer_come_back_bit_for_bit(saved) -> None:
    model, optimizer, path = saved
    checkpoint = load_checkpoint(path)
    assert checkpoint.meta == {"epoch": 3, "name": "ä"}
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    twin = torch.optim.AdamW(other.parameters())
    restore_model(other, checkpoint, path)
    restore_optimizer(twin, checkpoint)
    batch = torch.randn(5, 3)
    for net, opt in ((model, optimizer), (other, twin)):
        opt.zero_grad()
        net(batch).square().sum().backward()
        opt.step()
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_every_flipped_byte_is_noticed(saved) -> None:
    _, _, path = saved
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("part", [0, 1, 8, 100, 0.5, 0.99])
def test_truncated_is_noticed(saved, part) -> None:
    _, _, path = saved
    good = path.read_bytes()
    path.write_bytes(good[: part if isinstance(part, int) else int(len(good) * part)])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_disk_that_fails_is_not_called_damage(tmp_path) -> None:
    path = tmp_path / "best.safetensors"
    path.symlink_to("/proc/self/mem")  # at its beginning nothing can be read
    with pytest.raises(ReadError, match=r"best.safetensors: cannot be read \(Input/output error"):
        load_checkpoint(path)


def test_pickle_is_never_run(tmp_path) -> None:
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "best.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_missing_and_foreign(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a wsi-hr checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_weights_of_another_model_are_refused(saved) -> None:
    _, _, path = saved
    with pytest.raises(CheckpointError, match="do not fit"):
        restore_model(nn.Linear(3, 4), load_checkpoint(path), path)


def test_a_misfit_names_the_weights_in_one_line(saved) -> None:
    _, _, path = saved
    with pytest.raises(CheckpointError) as caught:
        restore_model(nn.Sequential(nn.Linear(3, 5)), load_checkpoint(path), path)
    assert "0.weight" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_is_one_sentence(saved, monkeypatch) -> None:
    """A limit on the size of files stands for a disk without room."""
    _, _, path = saved
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=rf"{path}: cannot be written \(File too large\)"):
            save_checkpoint(path, Checkpoint({"a": torch.zeros(100_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_failed_save_keeps_the_old_file(saved) -> None:
    _, _, path = saved
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, Checkpoint({"a": torch.zeros(1)}, {"bad": object()}))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_facts_alone_are_read_from_the_header(saved, tmp_path) -> None:
    saved = saved[2]
    assert checkpoint_meta(saved) == load_checkpoint(saved).meta
    content = saved.read_bytes()
    size = int.from_bytes(content[:8], "little")
    (tmp_path / "header").write_bytes(content[: 8 + size])
    assert checkpoint_meta(tmp_path / "header") == load_checkpoint(saved).meta, "no tensor is read"
    for damaged in (b"", b"\xff" * 50, content[:40], content[:8] + b"{}" + content[10:]):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged: its header is damaged"):
            checkpoint_meta(tmp_path / "damaged")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint_meta(tmp_path / "none")
