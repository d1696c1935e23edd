"""Slides that are in a folder of stores under two names, and names that now mean another slide."""

from __future__ import annotations

import logging
from pathlib import Path

from pipelines.status import StatusTable, printable
from wsi_hr.cohort.same_content import same_content
from wsi_hr.errors import SlideError, StoreError
from wsi_hr.file_names import file_in
from wsi_hr.remote import Place
from wsi_hr.slides.source import Source
from wsi_hr.store.digests import read_digests, read_edges_sha256
from wsi_hr.store.manifest import is_ours
from wsi_hr.store.patch_store import STORE_SUFFIX

logger = logging.getLogger(__name__)


def tell_replaced(store: Place, slide: Path, earlier_path: str) -> None:
    """Warn where a store is about to be made anew from a file of the same name but elsewhere.

    Args:
        store: the slide's store, which may not be there.
        slide: the file it is to be made from.
        earlier_path: what ``status.csv`` says it was made from; "": nothing.
    """
    if not earlier_path or earlier_path == printable(slide) or not is_ours(store):
        return
    try:
        before = read_edges_sha256(store)
        if before == Source.of(slide).edges_sha256():
            return
    except (StoreError, SlideError):
        return  # nothing that anybody could still use, or that will be tiled
    logger.warning(
        "%s: the slide of this name is another file now, from another folder; its store is made "
        "anew from that one. If they are two slides, tile them into two folders, or at once",
        store.name.removesuffix(STORE_SUFFIX),
    )


def tell_copies(folder: Place, table: StatusTable) -> None:
    """Warn of slides with the same content, and say so in their rows, whichever run made them."""
    digests: dict[str, tuple[str, str]] = {}
    for slide_id in table.done:
        try:
            found = read_digests(file_in(folder, slide_id, STORE_SUFFIX, of="slide id"))
        except StoreError as error:
            logger.warning("%s; so its content is not compared with that of other slides", error)
            continue
        digests[slide_id] = found.source_sha256, found.pixels_sha256
    copies_of: dict[str, str] = {}
    for group in same_content(digests):
        logger.warning(
            "%s have identical content; keep one, or the same slide counts twice",
            " and ".join(sorted(group)),
        )
        for slide_id in group:
            copies_of[slide_id] = " and ".join(other for other in group if other != slide_id)
    for slide_id in digests:
        table.remark(slide_id, "identical content as ", copies_of.get(slide_id, ""))
