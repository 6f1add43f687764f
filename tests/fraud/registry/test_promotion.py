"""The tags that say what serves: the way back along the champions, thresholds, shares; nothing malformed passes."""

from __future__ import annotations

import pytest

from fraud.errors import ConfigError
from fraud.registry import promotion
from fraud.registry.promotion import PROMOTED, ROLLED_BACK, UNRECORDED, LiveThreshold, Promotion


def moves(*steps: tuple[int, str]) -> list[Promotion]:
    return [Promotion(version=version, time="2026-01-01", by="ann", how=how) for version, how in steps]


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([], []),
        ([(1, UNRECORDED), (2, PROMOTED), (3, PROMOTED)], [1, 2, 3]),
        ([(1, UNRECORDED), (2, PROMOTED), (3, PROMOTED), (2, ROLLED_BACK)], [1, 2]),
        ([(1, UNRECORDED), (2, PROMOTED), (3, PROMOTED), (2, ROLLED_BACK), (1, ROLLED_BACK)], [1]),
        ([(1, UNRECORDED), (2, PROMOTED), (1, ROLLED_BACK), (4, PROMOTED)], [1, 4]),
        ([(1, UNRECORDED), (2, PROMOTED), (1, PROMOTED)], [1, 2, 1]),
        ([(5, ROLLED_BACK), (6, PROMOTED)], [5, 6]),  # the oldest entries fell away
    ],
)
def test_a_rollback_takes_its_step_out_of_the_way_back(steps: list[tuple[int, str]], line: list[int]):
    assert promotion.lineage(moves(*steps)) == line


def test_a_champion_that_was_moved_by_hand_is_entered():
    entries = moves((1, PROMOTED))
    assert promotion.with_champion(entries, 1) == entries
    assert promotion.lineage(promotion.with_champion(entries, 7)) == [1, 7]
    assert promotion.with_champion([], None) == []


def test_the_list_fits_into_a_tag_and_keeps_the_newest():
    entries = [Promotion(version=n, time="2026-01-01", by="ann", reason="é" * 1000) for n in range(1, 200)]
    tag = promotion.champions_tag(entries)
    listed = promotion.champions({promotion.CHAMPIONS: tag})
    assert len(tag) <= 5000 and listed[-1].version == 199 and len(listed) >= 2
    short = moves(*((n, PROMOTED) for n in range(1, 20)))
    assert promotion.champions({promotion.CHAMPIONS: promotion.champions_tag(short)}) == short


@pytest.mark.parametrize("tag", ["{", "3", "[3]", '[{"version": 1}]', '[{"version": "1", "time": "", "by": ""}]'])
def test_the_error_of_a_malformed_list_names_the_remedy(tag: str):
    with pytest.raises(ConfigError, match="delete the tag 'champions'"):
        promotion.champions({promotion.CHAMPIONS: tag})


def test_tags_that_are_not_there_switch_everything_off():
    assert promotion.live_threshold({}) is None
    assert promotion.is_shadowed({}) is False and promotion.canary_share({}) == 0.0


def test_a_threshold_survives_its_tag():
    live = LiveThreshold(value=0.61, by="ann", reason="why", time=promotion.now(), previous=0.9)
    assert promotion.live_threshold({promotion.THRESHOLD: live.to_json()}) == live
    for value in (0.0, 1.0, -1, float("nan"), True, "0.5"):
        with pytest.raises(ConfigError, match="above 0 and below 1"):
            LiveThreshold(value=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan", "half", "inf"])
def test_a_share_is_one(share: str):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        promotion.canary_share({promotion.CANARY_SHARE: share})
