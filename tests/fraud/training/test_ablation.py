"""Every feature belongs to a group that can be taken away, and what a column feeds goes with it."""

from __future__ import annotations

from fraud.detectors.features import raw_names
from fraud.schema import Column, Schema
from fraud.training.ablation import groups


def test_groups_of_a_schema_with_history_and_calendar():
    schema = Schema.load("handbook")
    by_name = {group.name: group for group in groups(schema)}
    with_amount = next(group for name, group in by_name.items() if name.startswith("TX_AMOUNT"))
    assert "histories" in with_amount.name, "its histories need the column"
    assert with_amount.schema is not None and len(with_amount.schema.history) < len(schema.history)
    for entity in ("CUSTOMER_ID", "TERMINAL_ID"):
        lost = [group for name, group in by_name.items() if name.startswith(f"history of {entity}")]
        assert lost and all(group.features for group in lost)
    for group in by_name.values():
        if group.schema is not None:
            left = raw_names(group.schema)[0]
            assert set(left).isdisjoint(group.features)
            assert sorted([*left, *group.features]) == sorted(raw_names(schema)[0])


def test_every_column_of_a_plain_schema_is_a_group():
    schema = Schema.load("transactions")
    all_groups = groups(schema)
    assert [group.name for group in all_groups] == [column.name for column in schema.features]
    assert all(group.features == (group.name,) for group in all_groups)


def test_the_only_feature_cannot_be_taken_away():
    lone = Schema(name="x", columns=(Column(name="v", kind="numeric"), Column(name="y", kind="label")))
    assert [(group.name, group.schema) for group in groups(lone)] == [("v", None)]


def test_the_calendar_is_a_group():
    when = Column(name="when", kind="timestamp", calendar=("hour", "night"))
    schema = Schema(name="x", columns=(when, Column(name="v", kind="numeric")))
    calendar = next(group for group in groups(schema) if group.name == "calendar of when")
    assert calendar.features == ("when hour sin", "when hour cos", "when night")
