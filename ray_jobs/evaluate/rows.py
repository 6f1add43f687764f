"""Choose the rows that an evaluation judges, and score them."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fraud.data import tables
from fraud.days import Zone
from fraud.errors import ConfigError, DataError
from fraud.history.definition import plans
from fraud.judging.evaluation import Plan, amount_column
from fraud.registry import models, training_rows
from fraud.registry.training_rows import TrainingRows
from fraud.schema import Schema
from fraud.schema.validation import Validated
from fraud.schema.zone import agreed, zone_of
from fraud.scoring.bundle import Bundle
from fraud.scoring.engine import SCORE, Engine
from fraud.settings import Settings

logger = logging.getLogger(__name__)

_PIECE = 200_000
_DAY = np.timedelta64(1, "D")
TRAINING_WINDOWS = ("train", "validation")
JOINED = "joined"


@dataclass(frozen=True)
class Model:
    """A loaded model. name: as the page shows it; number: its version, None for a bundle folder.

    trained_on: hashes of its training rows, None if it has none.
    """

    name: str
    number: int | None
    bundle: Bundle
    trained_on: TrainingRows | None = None

    @property
    def windows(self) -> dict[str, Mapping[str, Any]]:
        """The manifest's windows (train, validation, test) by name."""
        return {window["name"]: window for window in self.bundle.manifest.get("windows") or ()}

    @property
    def schema(self) -> Schema:
        """The schema it was trained with."""
        return self.bundle.detector.schema


@dataclass(frozen=True, eq=False)
class Window:
    """The judged rows. positions: int64, ascending, in the canonical frame; start, end, source: text for the page.

    is_test_window: they are the model's own test window.
    """

    positions: np.ndarray
    start: str | None
    end: str | None
    source: str
    is_test_window: bool = False


def open_model(reference: str, settings: Settings) -> Model:
    """Load an alias, a version or a bundle folder. Raises BundleError, ConfigError, RegistryError."""
    opened = models.open_model(reference, settings)
    agreed(opened.bundle.detector.schema, settings.day_zone)
    name = f"version {opened.number}"
    if opened.number is None:
        name = f"{'/'.join(opened.folder.parts[-2:])} ({opened.bundle.sha256[:8]})"
    return Model(name, opened.number, opened.bundle, training_rows.find(opened, settings))


def read(path: str, schema: Schema) -> Validated:
    """Read and validate the data. Raises DataError, SchemaError."""
    checked = tables.load(path, schema)
    for warning in checked.warnings:
        logger.warning("%s", warning)
    return checked


def plan_of(requested: Mapping[str, Any], model: Model) -> Plan:
    """The plan: `requested` settings that are not None, else those of the training, else the defaults."""
    config, costs = model.bundle.manifest.get("config") or {}, model.bundle.detector.threshold.settings
    trained = {
        "budget": config.get("alert_budget"),
        "alert_cost": costs.get("cost_false_positive"),
        "fraud_cost": costs.get("cost_false_negative"),
    }
    overrides = {key: value for key, value in requested.items() if value is not None}
    return Plan(**{**{key: value for key, value in trained.items() if value}, **overrides})


def columns_of(model: Model, card: str | None, amount: str | None) -> tuple[str | None, str | None]:
    """The card and amount columns: those named, else the first entity and the training's amount column.

    Raises ConfigError when a named column is of the wrong kind.
    """
    schema: Schema = model.schema
    for flag, name, kinds in (("--card", card, ("entity", "categorical")), ("--amount", amount, ("numeric",))):
        if name is not None and schema.column(name).kind not in kinds:
            kind = schema.column(name).kind
            raise ConfigError(f"{flag} {name!r} is a {kind} column: name one of kind {' or '.join(kinds)}")
    if card is None and schema.entities:
        card = schema.entities[0].name
    if amount is None:
        amount = model.bundle.detector.threshold.settings.get("amount_column") or amount_column(schema)
    return card, amount


def labels_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """int8 (n_rows,) of 1, 0, -1; all -1 without a label column."""
    if schema.label is None or schema.label.name not in rows:
        return np.full(len(rows), -1, dtype=np.int8)
    return rows[schema.label.name].to_numpy(dtype=np.int8)


def choose_window(
    rows: pd.DataFrame, model: Model, fingerprint: str, start: str | None = None, end: str | None = None
) -> Window:
    """The rows to judge: from `start` (inclusive) to `end` (exclusive), ISO 8601.

    A date means the beginning of that day in the schema's day_zone; a time is UTC unless it carries a zone.
    Without either: the model's test window if the data contain rows of it, else all labelled rows, else all rows.
    Raises ConfigError (no timestamp column, not a time) or DataError (no row in the window).
    """
    times = times_of(rows, model.schema)
    if start is not None or end is not None:
        if times is None:
            raise ConfigError(
                f"--start and --end need a timestamp column, and schema {model.schema.name!r} has none: leave them out"
            )
        inside = np.ones(len(rows), bool)
        zone = zone_of(model.schema)
        inside &= times >= _instant("--start", start, zone) if start is not None else True
        inside &= times < _instant("--end", end, zone) if end is not None else True
        if not inside.any():
            raise DataError(
                f"no row between --start {start or 'of the data'} and --end {end or 'of the data'}: the data run from "
                f"{times.min()} to {times.max()}"
            )
        return _window(np.flatnonzero(inside), times, "chosen with --start and --end")
    test = model.windows.get("test")
    if test is not None:
        positions = positions_of(test, times, len(rows), fingerprint == model.bundle.manifest.get("data_fingerprint"))
        if positions.size:
            part = "" if positions.size == test["rows"] else f", of which the data contain {positions.size:,} rows"
            window = _window(positions, times, f"the test window of {model.name}{part}")
            return replace(window, is_test_window=True)
    labels = labels_of(rows, model.schema)
    if (labels >= 0).any():
        return _window(np.flatnonzero(labels >= 0), times, "all labelled rows of the data")
    return _window(np.arange(len(rows)), times, "all rows of the data, none of which is labelled")


def unseen(
    rows: pd.DataFrame, models: Sequence[Model], fingerprint: str, start: str | None = None, end: str | None = None
) -> Window | str:
    """The newest rows that no model was trained on, or the reason why there are none.

    They begin a label delay after the last training and validation window of any model. With `start` or `end` (as for
    `choose_window`): the rows between them that lie in no such window. Without timestamps, rows are identified by the
    models' hashes of their training rows, or by their number in the first model's training data. Raises ConfigError,
    DataError as `choose_window`.
    """
    first = models[0]
    times, is_training_row, last = times_of(rows, first.schema), np.zeros(len(rows), bool), None
    for model in models:
        same = fingerprint == model.bundle.manifest.get("data_fingerprint")
        windows = [model.windows[name] for name in TRAINING_WINDOWS if name in model.windows]
        numbered = [str(window["start"]).startswith("row ") for window in windows]
        hashes = model.trained_on if times is None else None
        if hashes is not None and hashes.identifies and hashes.is_complete:
            is_training_row |= hashes.among(rows, model.schema)[0]
        elif not windows or (model is first and any(n != (times is None) or (n and not same) for n in numbered)):
            return (
                f"the manifest of {model.name} does not identify its training rows in these data: train it on them "
                "with ray_jobs.train"
            )
        for window in windows:
            is_training_row[positions_of(window, times, len(rows), same)] = True
            if times is not None and not str(window["end"]).startswith("row "):
                until = np.datetime64(str(window["end"]), "us")
                last = until if last is None else max(last, until)
    if start is not None or end is not None:
        chosen = choose_window(rows, first, fingerprint, start, end)
        positions = chosen.positions[~is_training_row[chosen.positions]]
        source = f"{chosen.source}, less {len(chosen.positions) - len(positions):,} rows that a model was trained on"
    elif times is not None and last is not None:
        split = (first.bundle.manifest.get("config") or {}).get("split") or {}
        delay = max(first.schema.label_delay_days, float(split.get("delay_days") or 0.0))
        begin = last + np.timedelta64(round(delay * 86_400e6), "us")
        positions, source = (
            np.flatnonzero(times > begin),
            f"later than {begin.astype('datetime64[s]')}, the end of the training windows plus the label delay",
        )
    else:
        positions = np.arange(int(np.flatnonzero(is_training_row).max(initial=-1)) + 1, len(rows))
        source = "rows after the last one that a model was trained on"
    if not positions.size:
        return "a model was trained on every row of the data: use later rows, with labels"
    return _window(positions, times, source)


def score(rows: pd.DataFrame, window: Window, model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Scores of the judged rows, {name: float64 (n_window,)}, the joined one first; and notes for the page.

    Rows before the window's end feed their entities' history; later rows are ignored.
    """
    engine = Engine(model.bundle.detector)
    notes = []
    if model.schema.history:
        times = times_of(rows, model.schema)
        assert times is not None, "a schema with history has a timestamp"
        last = times[window.positions].max()
        history_rows = np.flatnonzero(times <= last)
        first, oldest = times[window.positions].min(), times.min()
        reach = np.timedelta64(max(plan.memory for plan in plans(model.schema)), "us")
        carries_nothing = not any(len(state.events) for state in model.bundle.detector.history)
        begins_empty = carries_nothing or engine.history_warning(rows.iloc[history_rows]) is not None
        if begins_empty and oldest == first:
            notes.append(
                f"no row of the data is older than the window, so {model.name} scores the first rows without entity "
                "history: use data that begin earlier"
            )
        elif begins_empty and first - oldest < reach:
            notes.append(
                f"the data begin {(first - oldest) / _DAY:.0f} days before the window, and entity history reaches "
                f"{reach / _DAY:.0f} days back: the first rows have less history than in production; use data that "
                "begin earlier"
            )
        raw = engine.raw(rows.iloc[history_rows])[np.searchsorted(history_rows, window.positions)]
        frame = engine.decide(raw, rows.index[window.positions])
    else:
        pieces = range(0, len(window.positions), _PIECE)
        frame = pd.concat([engine.score_frame(rows.iloc[window.positions[start : start + _PIECE]]) for start in pieces])
    # A model may have more detectors than these: take every score column.
    score_columns = [name for name in frame.columns if frame[name].dtype.kind == "f" and frame[name].notna().all()]
    score_columns.sort(key=lambda name: name != SCORE)
    names = [JOINED if name == SCORE else name.removesuffix("_score") for name in score_columns]
    return {name: frame[column].to_numpy() for name, column in zip(names, score_columns, strict=True)}, notes


def times_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray | None:
    """Timestamps, datetime64[us] (n_rows,), or None without such a column."""
    return rows[schema.timestamp.name].to_numpy(dtype="datetime64[us]") if schema.timestamp else None


def positions_of(window: Mapping[str, Any], times: np.ndarray | None, n_rows: int, is_same_data: bool) -> np.ndarray:
    """Positions of a manifest's window: by time, or by row number without timestamps and with the same data."""
    start, end = str(window["start"]), str(window["end"])
    if times is not None and not start.startswith("row "):
        return np.flatnonzero((times >= np.datetime64(start, "us")) & (times <= np.datetime64(end, "us")))
    if times is None and start.startswith("row ") and is_same_data:
        return np.arange(int(start.removeprefix("row ")), min(int(end.removeprefix("row ")) + 1, n_rows))
    return np.empty(0, np.int64)


def _window(positions: np.ndarray, times: np.ndarray | None, source: str) -> Window:
    if times is None:
        return Window(positions, f"row {positions[0]}", f"row {positions[-1]}", source)
    first, last = (str(edge.astype("datetime64[s]")) for edge in (times[positions].min(), times[positions].max()))
    return Window(positions, first, last, source)


def _instant(flag: str, text: str, zone: Zone) -> np.datetime64:
    try:
        if len(text) == len("2026-01-31"):
            return np.datetime64(zone.start_of(dt.date.fromisoformat(text)), "us")
        instant = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a time: write it as 2026-01-31 or 2026-01-31T12:00:00Z") from None
    if instant.tzinfo is not None:
        instant = instant.astimezone(dt.UTC).replace(tzinfo=None)
    return np.datetime64(instant, "us")
