"""Write daily history snapshots after a training, so that later days and requests start where its data end."""

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


def leave(detector: Detector, rows: pd.DataFrame, path: str, settings: Settings, *, in_bundle: bool) -> Detector:
    """Write the missing days of the training data below FRAUD_HISTORY; return the detector to bundle, without
    customers' transactions.

    rows: canonical, all rows of `path`. in_bundle: the bundle carries the history nevertheless. It also does when the
    snapshots cannot be written, which is logged as an error.
    """
    schema = detector.schema
    if not schema.history or not len(rows):
        return detector
    with stage(f"entity history in {settings.history}", logger) as done:
        try:
            snapshots = Snapshots.open(settings, schema)
            built = _leave(snapshots, rows, path)
            n_frauds = tell_frauds(snapshots, rows, LabelStore.from_environment(settings, os.environ))
            if n_frauds:
                logger.info("%d frauds of existing days are added from the data's own labels", n_frauds)
        except DataError as error:
            logger.error("the bundle carries the entity history, because no snapshot could be written: %s", error)
            return detector
        done(f"{len(built.made)} days")
    if in_bundle:
        return detector
    return replace(detector, history=tuple(HistoryState.empty(plan) for plan in plans(schema)))


def tell_frauds(snapshots: Snapshots, rows: pd.DataFrame, store: LabelStore) -> int:
    """Add the training data's frauds to days that were made without labels; return how many were new.

    Only ids without a label in the store: a stored label counts from the moment it became known.
    """
    schema = snapshots.schema
    if schema.label is None or schema.label.name not in rows or schema.id is None:
        return 0
    frauds = rows[rows[schema.label.name] == 1]
    frauds = frauds[~frauds[schema.id.name].isin(store.read()[ID])]
    if not len(frauds):
        return 0
    assert schema.timestamp is not None  # Schema refuses a history without one
    days = snapshots.zone.day_of(microseconds_since_epoch(frauds[schema.timestamp.name]))
    return sum(snapshots.mark_frauds(day.astype(dt.date), frauds[days == day]) for day in np.unique(days))


def _leave(snapshots: Snapshots, rows: pd.DataFrame, path: str) -> BuildReport:
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
