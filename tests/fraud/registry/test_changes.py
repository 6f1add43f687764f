"""The history of what serves: nothing is dropped, the way back is right, and the list of older versions is read."""

from __future__ import annotations

import json
import logging

import pytest

from fraud.errors import ConfigError
from fraud.registry import changes
from fraud.registry.changes import CANARY, CHAMPIONS, PROMOTED, REFUSED, ROLLED_BACK, UNRECORDED, Change


def moves(*steps: tuple[int, str]) -> list[Change]:
    return [Change(action=action, time="2026-01-01", by="ann", version=version) for version, action in steps]


def stored(*entries: Change) -> dict[str, str]:
    tags: dict[str, str] = {}
    for entry in entries:
        key, value = changes.tag_of(entry, tags)
        tags[key] = value
    return tags


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([], []),
        ([(1, UNRECORDED), (2, PROMOTED), (3, PROMOTED)], [1, 2, 3]),
        ([(1, UNRECORDED), (2, PROMOTED), (3, REFUSED)], [1, 2]),
        ([(1, UNRECORDED), (2, PROMOTED), (3, PROMOTED), (2, ROLLED_BACK)], [1, 2]),
        ([(1, UNRECORDED), (2, PROMOTED), (3, PROMOTED), (2, ROLLED_BACK), (1, ROLLED_BACK)], [1]),
        ([(1, UNRECORDED), (2, PROMOTED), (1, ROLLED_BACK), (4, PROMOTED)], [1, 4]),
        ([(1, UNRECORDED), (2, PROMOTED), (1, PROMOTED)], [1, 2, 1]),
        ([(5, ROLLED_BACK), (6, PROMOTED)], [5, 6]),  # the oldest entries fell away, before 0.3
    ],
)
def test_a_rollback_takes_its_step_out_of_the_way_back(steps: list[tuple[int, str]], line: list[int]):
    assert changes.lineage(moves(*steps)) == line


def test_hundreds_of_long_changes_are_stored_each_in_a_tag_of_its_own():
    entries = [
        Change(action=PROMOTED, time="2026-01-01", by="ann", reason="é" * 2000, version=n, before=n - 1, after=n)
        for n in range(1, 300)
    ]
    tags = stored(*entries)
    assert max(map(len, tags.values())) <= 5000 and max(map(len, tags)) <= 250
    assert changes.history(tags, 299) == entries


def test_two_machines_that_record_at_once_keep_both():
    tags = stored(*moves((1, PROMOTED)))
    both = dict(changes.tag_of(entry, tags) for entry in moves((2, PROMOTED), (3, PROMOTED)))
    assert {entry.version for entry in changes.history({**tags, **both}, None)} == {1, 2, 3}


def test_a_champion_that_was_moved_by_hand_has_no_time():
    tags = stored(*moves((1, PROMOTED)))
    assert changes.history(tags, 1) == moves((1, PROMOTED))
    found = changes.history(tags, 7)[-1]
    assert (found.action, found.before, found.after, found.time) == (UNRECORDED, 1, 7, "")
    assert found.text().startswith("time not recorded") and "champion 1 -> 7" in found.text()
    assert changes.history(tags, 7)[-1] == found, "the same at each look"
    assert changes.history({}, None) == []


def test_the_list_of_older_versions_is_read_before_the_new_changes():
    listed = [
        {"version": 1, "time": "2025-12-31", "by": "not recorded", "reason": "", "how": "found"},
        {"version": 2, "time": "2026-01-01", "by": "ann", "reason": "better", "how": "promoted"},
        {"version": 1, "time": "2026-01-02", "by": "bob", "reason": "", "how": "rolled back"},
    ]
    tags = {CHAMPIONS: json.dumps(listed)} | stored(*moves((3, PROMOTED)))
    entries = changes.history(tags, 3)
    assert [(e.version, e.action, e.before) for e in entries] == [
        (1, "found", None), (2, "promoted", 1), (1, "rolled back", 2), (3, "promoted", None)
    ]  # fmt: skip
    assert entries[0].time == "" and entries[1].time == "2026-01-01"
    assert changes.lineage(entries) == [1, 3]


@pytest.mark.parametrize("tag", ["{", "3", "[3]", '[{"version": 1}]', '{"action": "flown", "time": "", "by": ""}'])
def test_what_cannot_be_read_is_left_out_aloud(tag: str, caplog: pytest.LogCaptureFixture):
    good = stored(*moves((1, PROMOTED)))
    with caplog.at_level(logging.WARNING):
        assert changes.history({**good, "change.000002.ab": tag}, 1) == moves((1, PROMOTED))
        assert changes.history({**good, CHAMPIONS: tag}, 1) == moves((1, PROMOTED))
    assert "change.000002.ab" in caplog.text and "'champions'" in caplog.text


def test_a_change_says_when_what_who_and_why_in_one_line():
    change = Change(action=CANARY, time="2026-01-31T10:00:00+00:00", by="ann", reason="a\ntry", before=0.0, after=0.05)
    assert change.text() == "2026-01-31T10:00:00+00:00  canary 0 -> 0.05, set by ann: a try"


def test_a_reason_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2,001 characters"):
        changes.check_length("reason", "x" * 2001)
    assert changes.check_length("reason", "é" * 2000)
