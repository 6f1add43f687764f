"""Fills a live history from the newest daily snapshot, else from the bundle, plus the decisions since.

Idempotent: existing entries stay and an id counts once. So a history can be filled while requests enter it, by two
processes at once, or again after a partial loss.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd

from fraud.errors import DataError, FraudError
from fraud.history.definition import DAY, EntityPlan, plans
from fraud.history.records import microseconds_since_epoch
from fraud.history.replay import replay
from fraud.history.snapshots.days import Snapshots, with_frauds
from fraud.history.state import HistoryState
from fraud.history.stores.store import LiveStore
from fraud.labels.store import LabelStore
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from fraud.scoring.detector import Detector
from fraud.settings import Settings
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.reader import DecisionReader, frame_of
from serve_app.decisions.settings import read_settings

logger = logging.getLogger(__name__)

SNAPSHOTS, BUNDLE, SAVED, NOTHING = "snapshots", "bundle", "saved", "nothing"
_BUILD = "python -m ray_jobs.history build"
_ROWS = 200_000  # decisions entered at a time


class HistoryMetrics(Protocol):
    """The metrics of a live history."""

    def set_history(self, *, is_behind: bool, newest_event: int | None) -> None:
        """Report the state. newest_event: microseconds since 1970."""

    def count_history_loss(self) -> None:
        """Count a history that was emptied, removed or evicted from, or that went back in time."""

    def count_caught_up(self, n: int) -> None:
        """Count decisions that entered the history from the decision log."""


@dataclass(frozen=True, kw_only=True)
class HistoryContext:
    """What a replica's live history depends on. replicas, nodes: of the service.

    wait_s: how long a start waits for the history; afterwards answers carry a warning until it is filled.
    """

    settings: Settings
    decisions: DecisionSettings
    labels: LabelStore
    replicas: int = 1
    nodes: int = 1
    wait_s: float = 30.0
    metrics: HistoryMetrics | None = None

    @classmethod
    def from_environment(cls, settings: Settings, environment: Mapping[str, str], **more: Any) -> Self:
        """Read the settings. more: further fields. Raises ConfigError."""
        decisions = read_settings(settings, environment)
        return cls(
            settings=settings, decisions=decisions, labels=LabelStore.from_environment(settings, environment), **more
        )


@dataclass(frozen=True, kw_only=True)
class HistoryOrigin:
    """What a plan's live history was filled from. through: last day or time of the source; at: when, ISO 8601.

    decisions: entered from the decision log on top. note: what is missing and how to improve it.
    """

    source: str
    through: str = ""
    decisions: int = 0
    at: str = ""
    note: str = ""

    def to_json(self) -> bytes:
        """The reverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Parse it. Ignores the unknown fields of another version."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in names})


def bootstrap(
    store: LiveStore, detector: Detector, context: HistoryContext, only: Collection[int], saved: bool = False
) -> HistoryOrigin:
    """Fill the plans at positions `only`; return their origin. saved: the store holds what an earlier process saved.

    Raises StoreError. If a source cannot be read, logs it and uses the next best one.
    """
    schema = detector.schema
    states, since, origin = _initial_states(detector, context, saved)
    store.seed(states, only)
    entered, note = catch_up(store, schema, context, since, only)
    note = "; ".join(part for part in (origin.note, note) if part)
    columns = ", ".join(plan.column for i, plan in enumerate(plans(schema)) if i in only)
    logger.log(
        logging.WARNING if note else logging.INFO,
        "filled the live history of %s from %s%s and %d later decisions%s",
        columns,
        origin.source,
        f" up to {origin.through}" if origin.through else "",
        entered,
        f": {note}" if note else "",
    )
    at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return dataclasses.replace(origin, decisions=entered, note=note, at=at)


def _initial_states(
    detector: Detector, context: HistoryContext, saved: bool
) -> tuple[tuple[HistoryState, ...], int, HistoryOrigin]:
    """Return the initial state of each plan, the time at which they end (microseconds), and their origin."""
    schema, note = detector.schema, ""
    try:
        snapshots = Snapshots.open(context.settings, schema)
        day = snapshots.newest_day()
        if day is not None:
            labels = context.labels.ledger()
            states = snapshots.states(day, labels)
            return states, zone_of(schema).end_of(day), HistoryOrigin(source=SNAPSHOTS, through=day.isoformat())
    except (FraudError, OSError) as error:
        note = f"the daily snapshots in {context.settings.history} cannot be read ({error})"
        logger.error("%s", note)
    own = detector.history or tuple(HistoryState.empty(plan) for plan in plans(schema))
    last = max((state.last_time for state in own if state.last_time is not None), default=None)
    remedy = f"build daily snapshots ({_BUILD}) to begin from what happened since"
    if last is None:
        what = "it goes on with what was saved" if saved else f"there is no snapshot: {remedy}"
        note = "; ".join(part for part in (note, what) if part and not saved)
        return own, 0, HistoryOrigin(source=SAVED if saved else NOTHING, note=note)
    age = max(0, time.time_ns() // 1000 - last) / DAY
    ends = str(np.datetime64(last, "us").astype("M8[s]"))
    old = f"the model's own history ends {ends}, {age:.0f} days ago: {remedy}"
    note = "; ".join(part for part in (note, "" if saved else old) if part)
    return own, last + 1, HistoryOrigin(source=SAVED if saved else BUNDLE, through=ends, note=note)


def own_frauds(detector: Detector, context: HistoryContext) -> tuple[HistoryState, ...]:
    """The frauds labelled in the training data, from the bundle or the snapshots, as states without transactions.

    Empty if there is none or the snapshots cannot be read, which is logged.
    """
    if any(len(state.frauds) for state in detector.history):
        return detector.history
    try:
        snapshots = Snapshots.open(context.settings, detector.schema)
        day = snapshots.newest_day()
        frauds = () if day is None else snapshots.known_frauds(day, None)
    except (FraudError, OSError) as error:
        logger.error("the frauds of the training data do not reach the live history: %s", error)
        return ()
    moment = time.time_ns() // 1000 if day is None else zone_of(detector.schema).end_of(day)
    return tuple(
        with_frauds(HistoryState.empty(plan), plan, of_plan, moment)
        for plan, of_plan in zip(snapshots.plans, frauds, strict=bool(frauds))
    )


def catch_up(
    store: LiveStore, schema: Schema, context: HistoryContext, since: int, only: Collection[int]
) -> tuple[int, str]:
    """Enter the logged transactions from `since` (microseconds) on.

    Returns how many, and a note on what could not be entered ("" if nothing).
    """
    entity_plans = plans(schema)
    columns = columns_of(schema, entity_plans)
    reader = DecisionReader(context.decisions, schema, columns, model=context.settings.model_name)
    if not reader.is_on:
        return 0, "decisions are not kept (FRAUD_DECISIONS=off), so those since cannot be entered"
    if reader.hidden:
        return 0, (
            f"the decision log hides {', '.join(reader.hidden)} (FRAUD_DECISIONS_OMIT, _HASH), so the decisions since "
            "cannot be entered: only snapshots hold them"
        )
    entered, tables, rows = 0, [], 0
    # A decision never precedes its transaction, and transactions older than the longest memory do not count.
    recent = time.time_ns() // 1000 - max(plan.memory for plan in entity_plans)
    first = np.datetime64(max(since, recent), "us").astype("M8[D]").astype(dt.date)
    try:
        for table in reader.read(first):
            tables.append(frame_of(table, schema))
            rows += len(table)
            if rows >= _ROWS:
                entered, tables, rows = entered + _enter(store, schema, tables, since, only), [], 0
        entered, note = entered + _enter(store, schema, tables, since, only), ""
    except DataError as error:
        note = str(error)
    if context.metrics is not None:
        context.metrics.count_caught_up(entered)
    return entered, note


def _enter(store: LiveStore, schema: Schema, frames: list[pd.DataFrame], since: int, only: Collection[int]) -> int:
    if not frames:
        return 0
    rows = pd.concat(frames, ignore_index=True)
    assert schema.timestamp is not None
    times = microseconds_since_epoch(rows[schema.timestamp.name])
    # Scoring does not remember rows with a wrong clock either (fraud.history.online).
    rows = rows[(times >= since) & (times <= time.time_ns() // 1000 + DAY)]
    if schema.id is not None:
        is_repeated = rows[schema.id.name].notna() & rows.duplicated(schema.id.name)
        rows = rows[~is_repeated]
    if not len(rows):
        return 0
    _, states = replay(rows.reset_index(drop=True), schema)
    store.seed(states, only)
    return len(rows)


def columns_of(schema: Schema, entity_plans: Collection[EntityPlan]) -> list[str]:
    """The columns that a replay of the plans reads: id, time, entities, values and others."""
    roles = [column.name for column in (schema.id, schema.timestamp) if column is not None]
    read = [name for plan in entity_plans for name in (plan.column, *plan.values, *plan.others)]
    return list(dict.fromkeys([*roles, *read]))
