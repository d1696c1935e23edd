"""The ways in which a call goes wrong."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from benchmarks.crash_trace import Counted

_TAKES_ROOM = frozenset({"create", "write", "truncate", "mkdir", "link", "symlink"})
_NAMES_A_FILE = frozenset(
    {"open", "create", "truncate", "chmod", "rename", "link", "symlink", "mkdir", "unlink", "rmdir"}
)
KINDS = _TAKES_ROOM | _NAMES_A_FILE | {"fsync"}
"""Kinds of calls that are counted."""


@dataclass(frozen=True)
class Mode:
    """A way to go wrong.

    Attributes:
        how: see :class:`benchmarks.crash_driver.Fault`.
        kinds: of calls that can go wrong so.
        error: the errno of a failure.
    """

    how: str
    kinds: frozenset[str]
    error: int = 0

    def fits(self, counted: Counted) -> bool:
        """Whether a call can go wrong so."""
        halved = self.how in ("tear", "short")
        return counted.call.kind in self.kinds and (counted.num_bytes > 1 or not halved)


MODES: dict[str, Mode] = {
    "kill": Mode("kill", KINDS),
    "tear": Mode("tear", frozenset({"write"})),
    "short": Mode("short", frozenset({"write"})),
    "full": Mode("on", _TAKES_ROOM, errno.ENOSPC),
    "ENOSPC": Mode("once", _TAKES_ROOM | {"fsync", "rename"}, errno.ENOSPC),
    "EIO": Mode("once", KINDS, errno.EIO),
    "EACCES": Mode("once", _NAMES_A_FILE, errno.EACCES),
}
"""``kill``: before the call; ``tear``: when half of a write is done; ``short``: a write does half;
``full``: no room from this call on; the others fail once."""
