"""Reading what comes next while what came before is worked on."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from wsi_hr.store.thread_pool import LazyThreadPool

_AHEAD = 2

# Their work is to wait for a source's own decoding, so a few serve any number of streams.
_readers = LazyThreadPool(2 * _AHEAD, "wsi-hr-read-ahead")

Part = TypeVar("Part")
Pixels = TypeVar("Pixels")


def read_ahead(
    read: Callable[[Part], Pixels], parts: Iterable[Part]
) -> Iterator[tuple[Part, Pixels]]:
    """Pairs of a part and ``read(part)``, in order; two more are read meanwhile in the background.

    An error is raised where its part would have come; a consumer that stops early leaves nothing
    running beyond these parts.
    """
    ahead: deque[tuple[Part, Future[Pixels]]] = deque()
    to_come = iter(parts)

    def ask(num_parts: int) -> None:
        for part in itertools.islice(to_come, num_parts):
            ahead.append((part, _readers.get().submit(read, part)))

    try:
        ask(_AHEAD)
        while ahead:
            part, pixels = ahead.popleft()
            ask(1)
            yield part, pixels.result()
    finally:
        for _, pixels in ahead:
            pixels.cancel()
