"""The bags of a whole store folder, opened when asked for and kept open in bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import StoreError
from wsi_hr.remote import Place
from wsi_hr.store.patch_store import STORE_SUFFIX, PatchStore
from wsi_hr.tiling.slide_pixels import open_store, require_slide


class BagSet:
    """Labelled bags by slide id.

    Args:
        folder: what ``wsi-hr tile`` wrote.
        labels: class index of each slide; slides without one can be opened for prediction.
        mpp: which scale of a store to take, where it has several; None, or where it does not have
            this one: its first.
        max_open: stores kept open; their coordinates stay in memory, their pixels never do.
    """

    def __init__(
        self,
        folder: Place,
        labels: Mapping[str, int] | None = None,
        *,
        mpp: float | None = None,
        max_open: int = 256,
    ) -> None:
        self.folder = folder
        self._labels = dict(labels or {})
        self._mpp = mpp
        self._max_open = max_open
        self._open: OrderedDict[str, PatchStore] = OrderedDict()

    def open(self, slide_id: str) -> Bag:
        """All readable patches of a slide, at least one.

        Raises:
            StoreError: the slide's store is missing, incomplete, damaged or another slide's, has
                no readable patch, or is virtual and its slide is gone or changed.
        """
        store = self.store(slide_id)
        if store.virtual:
            require_slide(store)
        bag = Bag.of(store, self._labels.get(slide_id))
        if len(bag) == 0:
            raise StoreError(
                f"{self.path(slide_id)}: none of its patches could be read from the slide; "
                "leave the slide out, or mend it and run wsi-hr tile again"
            )
        return bag

    def store(self, slide_id: str) -> PatchStore:
        """The slide's store itself, for what a bag does not show.

        Raises:
            StoreError: it is missing, incomplete, damaged or another slide's.
        """
        store = self._open.pop(slide_id, None) or self._opened(slide_id)
        self._open[slide_id] = store
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return store

    def path(self, slide_id: str) -> Place:
        """Where the slide's store is, or would be."""
        return self.folder / f"{slide_id}{STORE_SUFFIX}"

    def _opened(self, slide_id: str) -> PatchStore:
        path = self.path(slide_id)
        store = open_store(path, self._mpp)
        if store.slide_id != slide_id:
            # a copied or renamed store would count one slide twice, or under a wrong label
            raise StoreError(
                f"{path}: is the store of slide {store.slide_id!r}; "
                f"rename it to {store.slide_id}{STORE_SUFFIX}, or delete it if that is there too"
            )
        return store


def stored_slides(folder: Place) -> list[str]:
    """Slide ids of all stores in ``folder``, sorted; damaged ones too, so that none is lost unseen.

    Raises:
        StoreError: the folder does not exist, or is a single slide's store.
    """
    if folder.suffix == STORE_SUFFIX:
        raise StoreError(f"{folder}: is one slide's store; give the folder it lies in")
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; make it with: wsi-hr tile SLIDES -o {folder}")
    return sorted(
        path.name.removesuffix(STORE_SUFFIX)
        for path in folder.iterdir()
        if path.name.endswith(STORE_SUFFIX) and not path.name.startswith(".")
    )
