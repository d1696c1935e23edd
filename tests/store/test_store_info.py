from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.config import TileConfig
from wsi_hr.geometry import Bounds, Mpp, Pair, ReadPlan, Size
from wsi_hr.store.store_info import StoreInfo, scale_name

numbers = st.floats(0.01, 1e6)
whole = st.integers(0, 10**9)
pairs = st.builds(Pair, numbers, numbers)
tiles = st.builds(
    TileConfig,
    mpp=st.floats(0.1, 9),
    more_mpp=st.lists(st.floats(10, 100), max_size=2, unique=True).map(tuple),
    stride=st.none() | st.integers(1, 512),
    codec=st.sampled_from(["jpeg", "raw"]),
)
infos = st.builds(
    lambda asked, number, **facts: StoreInfo(
        asked=asked, tile=asked.at(asked.scales[number % len(asked.scales)]), **facts
    ),
    asked=tiles,
    number=st.integers(0, 2),
    slide_id=st.text(min_size=1),
    source_name=st.text(),
    source_size=whole,
    source_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    source_edges_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    mpp=st.builds(Mpp, numbers, numbers, st.text()),
    level0_size=st.builds(Size, whole, whole),
    bounds=st.builds(Bounds, whole, whole, whole, whole),
    vendor=st.text(),
    reader=st.text(),
    mode=st.text(),
    plan=st.builds(ReadPlan, whole, pairs, pairs, pairs, pairs, st.sampled_from([1, 2, 4, 8])),
    segmenter=st.text(),
    mask_downsample=pairs,
    wsi_hr_version=st.text(),
)


@given(infos)
def test_json_gives_an_equal_info_back(info: StoreInfo) -> None:
    root, scale = json.loads(json.dumps([info.root_json(), info.scale_json()]))
    assert StoreInfo.from_json(root, scale) == info


@given(infos, st.data())
def test_no_part_may_be_missing(info: StoreInfo, data: st.DataObject) -> None:
    documents: list[dict[str, Any]] = [info.root_json(), info.scale_json()]
    lacking = data.draw(st.sampled_from(documents))
    del lacking[data.draw(st.sampled_from(sorted(lacking)))]
    with pytest.raises(ValueError, match="not the attributes of a patch store"):
        StoreInfo.from_json(*documents)


def test_a_setting_that_is_not_known_is_refused(store_maker: Any) -> None:
    info = store_maker().info
    document = info.root_json()
    document["tile"]["colour"] = "blue"
    with pytest.raises(ValueError, match=r"^tile settings not known here, colour: [^\n]*$"):
        StoreInfo.from_json(document, info.scale_json())


def test_the_groups_name_is_the_asked_mpp() -> None:
    tile = TileConfig.model_validate({"mpp": 0.5, "more_mpp": [1, 0.25271]})
    names = [scale_name(mpp) for mpp in tile.scales]
    assert names == ["scale_0.5", "scale_1.0", "scale_0.25271"]
