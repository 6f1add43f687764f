"""The daily snapshots that a training leaves, so that days and requests after it begin where its data end."""

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
from fraud.history.snapshots.building import Built, DayWriter, sources_of
from fraud.history.snapshots.days import Snapshots
from fraud.history.state import HistoryState
from fraud.labels.store import ID, LabelStore
from fraud.scoring.detector import Detector
from fraud.settings import Settings

logger = logging.getLogger(__name__)


def leave(detector: Detector, rows: pd.DataFrame, path: str, settings: Settings, *, in_bundle: bool) -> Detector:
    """Leave the days of the training data below FRAUD_HISTORY, but for those that are there; return the detector to
    bundle, which carries no customer's transactions.

    rows: canonical, all that were read from `path`. in_bundle: the bundle carries the history all the same. It also
    does where the snapshots cannot be written, which is logged.
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
                logger.info("%d frauds of days that were there are known now, by the data's own labels", n_frauds)
        except DataError as error:
            logger.error("the bundle carries the entity history, because no snapshot could be left: %s", error)
            return detector
        done(f"{len(built.made)} days")
    if in_bundle:
        return detector
    return replace(detector, history=tuple(HistoryState.empty(plan) for plan in plans(schema)))


def tell_frauds(snapshots: Snapshots, rows: pd.DataFrame, store: LabelStore) -> int:
    """Let days that were made without labels know the frauds of the training data; return how many they did not know.

    Only of ids of which the label store says nothing: its word counts from the moment it was known.
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
    return sum(snapshots.tell_frauds(day.astype(dt.date), frauds[days == day]) for day in np.unique(days))


def _leave(snapshots: Snapshots, rows: pd.DataFrame, path: str) -> Built:
    there, built = set(snapshots.days()), Built()
    label = snapshots.schema.label
    writer = DayWriter(snapshots, own_labels=label is not None and label.name in rows)
    writer.add(rows, source=sources_of(path), wanted=lambda day: day not in there)
    days = writer.days
    if days:
        span = [days[0] + dt.timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)]
        writer.publish([day for day in span if day not in there], built, made_by="train")
    if built.later:
        logger.warning("days before %s came into the history: %d days were scored without them", built.later[0],
                       len(built.later))  # fmt: skip
    return built
