"""The tags that say what serves: thresholds, shadow, canary; nothing malformed passes."""

from __future__ import annotations

import pytest

from fraud.errors import ConfigError
from fraud.registry import promotion
from fraud.registry.promotion import LiveThreshold


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
