"""The bags of a whole store folder, opened when asked for and kept open in bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.patch_labels import PatchLabels
from wsi_hr.errors import StoreError
from wsi_hr.file_names import file_in
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
        low_mpp: a second, coarser scale, which bags have as their ``low``; None: no second one.
        patch_labels: gives the classes of patches; None: none is known.
        max_open: stores kept open; their coordinates stay in memory, their pixels never do.
    """

    def __init__(
        self,
        folder: Place,
        labels: Mapping[str, int] | None = None,
        *,
        mpp: float | None = None,
        low_mpp: float | None = None,
        patch_labels: PatchLabels | None = None,
        max_open: int = 256,
    ) -> None:
        self.folder = folder
        self._labels = dict(labels or {})
        self._mpp = mpp
        self._low_mpp = low_mpp
        self._patch_labels = patch_labels
        self._max_open = max_open
        self._open: OrderedDict[tuple[str, float | None], PatchStore] = OrderedDict()

    def open(self, slide_id: str) -> Bag:
        """All readable patches of a slide, at least one.

        Raises:
            StoreError: the slide's store is missing, incomplete, damaged or another slide's, has
                no readable patch, lacks the second scale, or is virtual and its slide is gone or
                changed.
        """
        store, known = self.store(slide_id), self._patch_labels
        if store.virtual:
            require_slide(store)
        of_patches = None if known is None else partial(known.of, store.info, store.grid)
        bag = Bag.of(store, self._labels.get(slide_id), of_patches)
        if len(bag) == 0:
            raise StoreError(
                f"{self.path(slide_id)}: none of its patches could be read from the slide; "
                "leave the slide out, or mend it and run wsi-hr tile again"
            )
        return bag if self._low_mpp is None else replace(bag, low=self._low(slide_id))

    def store(self, slide_id: str) -> PatchStore:
        """The slide's store itself, for what a bag does not show.

        Raises:
            StoreError: it is missing, incomplete, damaged or another slide's.
        """
        return self._at(slide_id, self._mpp)

    def path(self, slide_id: str) -> Place:
        """Where the slide's store is, or would be."""
        return file_in(self.folder, slide_id, STORE_SUFFIX, of="slide id")

    def _low(self, slide_id: str) -> Bag | None:
        """The slide's patches of the second scale; None where tissue is too scarce for any."""
        mpp, high = self._low_mpp, self.store(slide_id).info
        assert mpp is not None
        if mpp not in high.asked.scales:
            raise StoreError(
                f"{self.path(slide_id)}: holds no patches at {mpp:g} um/px beside those at "
                f"{high.tile.mpp:g}; tile with both, as in "
                f"wsi-hr tile --mpp {high.tile.mpp:g},{mpp:g}"
            )
        store = self._at(slide_id, mpp)
        return Bag.of(store) if store.info.tile.mpp == mpp else None

    def _at(self, slide_id: str, mpp: float | None) -> PatchStore:
        store = self._open.pop((slide_id, mpp), None) or self._opened(slide_id, mpp)
        self._open[slide_id, mpp] = store
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return store

    def _opened(self, slide_id: str, mpp: float | None) -> PatchStore:
        path = self.path(slide_id)
        store = open_store(path, mpp)
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
