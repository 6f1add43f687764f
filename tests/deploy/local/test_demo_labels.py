"""Whose transactions the demonstration calls frauds: an entity with some in the right week, and a request of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from deploy.local.demo_labels import FEWEST, sheet, story_of
from fraud.data.simulation import cards
from fraud.schema import Schema, validate


def test_a_terminal_with_legitimate_transactions_before_the_label_delay_is_taken(tmp_path: Path):
    schema, frame = Schema.load("handbook"), cards(6_000, seed=2)
    frame.tail(50).to_parquet(tmp_path / "day.parquet", index=False)
    rows = validate(frame, schema).rows
    story = story_of(rows, tmp_path / "day.parquet", schema)
    assert story is not None and story.entity == "TERMINAL_ID" and len(story.ids) >= FEWEST
    called = rows.set_index("TRANSACTION_ID").loc[story.ids]
    assert set(called["TERMINAL_ID"]) == {story.value} and not (called["TX_FRAUD"] == 1).any()
    age = pd.Timestamp(story.request["TX_DATETIME"]) - called["TX_DATETIME"]
    assert (age > pd.Timedelta(days=7)).all(), "a label counts once the delay is over"
    assert validate(pd.DataFrame([story.request]), schema).quarantine.empty
    assert sheet(story, is_fraud=True).splitlines()[1] == f"{story.ids[0]},1"


def test_a_schema_that_counts_no_frauds_has_no_story(tmp_path: Path):
    assert story_of(pd.DataFrame(), tmp_path, Schema.load("transactions")) is None
