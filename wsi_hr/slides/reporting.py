"""How far the work on a slide has come, told to whoever listens; to nobody unless somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Listener = Callable[[int, int], None]

EVERY_S = 0.5  # a listener hears no more often, however fast the work is


@dataclass
class _Audience:
    listener: Listener | None = None
    heard: float = 0.0


_audience = _Audience()


def listen(listener: Listener | None) -> None:
    """Have ``listener(done, total)`` called in this process; None: nobody listens any more."""
    _audience.listener, _audience.heard = listener, 0.0


def report_progress(done: int, total: int) -> None:
    """Say that ``done`` of ``total`` patches are dealt with; costs next to nothing.

    May be called after every read. The listener hears the first and the last report, and between
    them at most two a second.
    """
    if _audience.listener is None:
        return
    now = time.monotonic()
    if done == total or now - _audience.heard >= EVERY_S:
        _audience.heard = now
        _audience.listener(done, total)
