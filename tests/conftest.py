"""Fixtures every test may use, and ``jpeg_slide`` for all of them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# the runner uses both cores; arithmetic that takes both as well only gets in its way
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell that runs this in the background ignores SIGINT, and children would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a busy machine is no fault of the code; what hangs is stopped by pytest-timeout
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _beside_the_checkout(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not present beside this checkout")
    return folder


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a test's report (``--junitxml``) name the rows of docs/faults.md that it proves."""
    rows = [row for mark in item.iter_markers("fault") for row in mark.args]
    item.user_properties += [("fault", row) for row in rows]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, fields and tiles, where the workplace has them."""
    return _beside_the_checkout("data")


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """What the papers' own code computes, where the workplace has it."""
    return _beside_the_checkout("golden")


@pytest.fixture(scope="session")
def cuda() -> str:
    """The name of a GPU, where there is one."""
    import torch  # most tests do without

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"
