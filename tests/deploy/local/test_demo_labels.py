"""Whose transactions the demonstration calls frauds: an entity with some in the right week, and a request of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from deploy.local.demo_labels import FEWEST, find_scenario, labels_csv
from fraud.data.simulation import cards
from fraud.schema import Schema, validate


def test_a_terminal_with_legitimate_transactions_before_the_label_delay_is_taken(tmp_path: Path):
    schema, frame = Schema.load("handbook"), cards(6_000, seed=2)
    frame.tail(50).to_parquet(tmp_path / "day.parquet", index=False)
    rows = validate(frame, schema).rows
    scenario = find_scenario(rows, tmp_path / "day.parquet", schema)
    assert scenario is not None and scenario.entity == "TERMINAL_ID" and len(scenario.ids) >= FEWEST
    called = rows.set_index("TRANSACTION_ID").loc[scenario.ids]
    assert set(called["TERMINAL_ID"]) == {scenario.value} and not (called["TX_FRAUD"] == 1).any()
    age = pd.Timestamp(scenario.request["TX_DATETIME"]) - called["TX_DATETIME"]
    assert (age > pd.Timedelta(days=7)).all(), "a label counts once the delay is over"
    assert validate(pd.DataFrame([scenario.request]), schema).quarantine.empty
    assert labels_csv(scenario, is_fraud=True).splitlines()[1] == f"{scenario.ids[0]},1"


def test_a_schema_that_counts_no_frauds_has_no_story(tmp_path: Path):
    assert find_scenario(pd.DataFrame(), tmp_path, Schema.load("transactions")) is None
