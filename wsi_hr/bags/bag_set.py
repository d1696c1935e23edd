"""The bags of a whole store folder, opened when asked for and kept open in bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import StoreError
from wsi_hr.store.patch_store import STORE_SUFFIX, PatchStore, is_complete


class BagSet:
    """Labelled bags by slide id.

    Args:
        folder: what ``wsi-hr tile`` wrote.
        labels: class index of each slide; slides without one can be opened for prediction.
        max_open: stores kept open; their coordinates stay in memory, their pixels never do.
    """

    def __init__(
        self, folder: Path, labels: Mapping[str, int] | None = None, *, max_open: int = 256
    ) -> None:
        self.folder = folder
        self._labels = dict(labels or {})
        self._max_open = max_open
        self._open: OrderedDict[str, PatchStore] = OrderedDict()

    def open(self, slide_id: str) -> Bag:
        """All readable patches of a slide.

        Raises:
            StoreError: the slide's store is missing, incomplete or damaged.
        """
        return Bag.of(self.store(slide_id), self._labels.get(slide_id))

    def store(self, slide_id: str) -> PatchStore:
        """The slide's store itself, for what a bag does not show.

        Raises:
            StoreError: it is missing, incomplete or damaged.
        """
        store = self._open.pop(slide_id, None) or PatchStore.open(
            self.folder / f"{slide_id}{STORE_SUFFIX}"
        )
        self._open[slide_id] = store
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return store


def stored_slides(folder: Path) -> list[str]:
    """Slide ids of all complete stores in ``folder``, sorted.

    Raises:
        StoreError: the folder does not exist or holds no complete store.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; make it with: wsi-hr tile SLIDES -o {folder}")
    found = sorted(_complete(folder))
    if not found:
        raise StoreError(
            f"{folder}: holds no finished patch store; see its status.csv, or make one with: "
            f"wsi-hr tile SLIDES -o {folder}"
        )
    return found


def _complete(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.name.endswith(STORE_SUFFIX) and is_complete(path):
            yield path.name.removesuffix(STORE_SUFFIX)
