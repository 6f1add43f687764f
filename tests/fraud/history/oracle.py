"""The plainest way to the truth: one replay over everything that came before a row, with the labels known then."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd

from fraud.history.definition import feature_names
from fraud.history.records import microseconds_since_epoch
from fraud.history.replay import replay
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT
from fraud.schema import Schema
from fraud.schema.zone import zone_of


def labels_at(ledger: pd.DataFrame, moment: int) -> set[str]:
    """The ids that were known as frauds at a moment, microseconds since 1970."""
    known = ledger[ledger[KNOWN_AT].to_numpy(dtype="datetime64[us]").astype(np.int64) <= moment]
    newest = known.sort_values(KNOWN_AT, kind="stable").drop_duplicates(ID, keep="last")
    return set(newest.loc[newest[IS_FRAUD].astype(bool), ID])


def features_of_days(rows: pd.DataFrame, schema: Schema, ledger: pd.DataFrame) -> np.ndarray:
    """History features of every row, float64 (n_rows, n_features), each day with the labels known when it began."""
    assert schema.timestamp is not None and schema.id is not None and schema.label is not None
    zone = zone_of(schema)
    days = zone.day_of(microseconds_since_epoch(rows[schema.timestamp.name]))
    out = np.empty((len(rows), len(feature_names(schema))))
    for day in np.unique(days):
        before, of_day = days <= day, days == day
        frauds = labels_at(ledger, zone.start_of(day.astype(dt.date)))
        seen = rows[before].assign(**{schema.label.name: rows.loc[before, schema.id.name].isin(frauds).astype("int8")})
        out[of_day] = replay(seen, schema)[0][of_day[before]]
    return out
