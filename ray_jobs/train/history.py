"""Write daily history snapshots of the training data, from which scoring and serving continue."""

from __future__ import annotations

import datetime as dt
import logging
import os
from dataclasses import replace

import numpy as np
import pandas as pd

from fraud.cli import stage
from fraud.errors import DataError
from fraud.history.definition import plans
from fraud.history.records import microseconds_since_epoch
from fraud.history.snapshots.build import BuildReport, DayWriter, sources_of
from fraud.history.snapshots.days import Snapshots
from fraud.history.state import HistoryState
from fraud.labels.store import ID, LabelStore
from fraud.scoring.detector import Detector
from fraud.settings import Settings

logger = logging.getLogger(__name__)


def write_snapshots(
    detector: Detector, rows: pd.DataFrame, path: str, settings: Settings, *, in_bundle: bool
) -> Detector:
    """Write missing days of the training data to FRAUD_HISTORY; return the detector to bundle, with an empty history.

    rows: canonical, all rows of `path`. in_bundle: keep the history in the bundle. If the snapshots cannot be written,
    the bundle keeps it too, and an error is logged.
    """
    schema = detector.schema
    if not schema.history or not len(rows):
        return detector
    with stage(f"entity history in {settings.history}", logger) as done:
        try:
            snapshots = Snapshots.open(settings, schema)
            built = _write_days(snapshots, rows, path)
            n_frauds = add_frauds(snapshots, rows, LabelStore.from_environment(settings, os.environ))
            if n_frauds:
                logger.info("added %d frauds to existing days from the data's own labels", n_frauds)
        except DataError as error:
            logger.error("the bundle contains the entity history, because snapshots could not be written: %s", error)
            return detector
        done(f"{len(built.made)} days")
    if in_bundle:
        return detector
    return replace(detector, history=tuple(HistoryState.empty(plan) for plan in plans(schema)))


def add_frauds(snapshots: Snapshots, rows: pd.DataFrame, store: LabelStore) -> int:
    """Add the training data's frauds to days that were built without labels; return the number of new ones.

    Skips ids with a label in the store: that label counts from the time it became known.
    """
    schema = snapshots.schema
    if schema.label is None or schema.label.name not in rows or schema.id is None:
        return 0
    frauds = rows[rows[schema.label.name] == 1]
    frauds = frauds[~frauds[schema.id.name].isin(store.read()[ID])]
    if not len(frauds):
        return 0
    assert schema.timestamp is not None  # Schema checks this
    days = snapshots.zone.day_of(microseconds_since_epoch(frauds[schema.timestamp.name]))
    return sum(snapshots.mark_frauds(day.astype(dt.date), frauds[days == day]) for day in np.unique(days))


def _write_days(snapshots: Snapshots, rows: pd.DataFrame, path: str) -> BuildReport:
    existing, built = set(snapshots.days()), BuildReport()
    label = snapshots.schema.label
    writer = DayWriter(snapshots, own_labels=label is not None and label.name in rows)
    writer.add(rows, source=sources_of(path), is_requested=lambda day: day not in existing)
    days = writer.days
    if days:
        span = [days[0] + dt.timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)]
        writer.publish([day for day in span if day not in existing], built, made_by="train")
    if built.later:
        message = "days before %s were added to the history: %d later days were scored without them"
        logger.warning(message, built.later[0], len(built.later))
    return built
