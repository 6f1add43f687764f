"""Which rows an evaluation judges, and their scores: the model, the window, the history before it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud import bundle, data
from fraud.bundle import Bundle
from fraud.engine import SCORE_COLUMNS, Engine
from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from fraud.settings import Settings
from fraud.validation import Validated

logger = logging.getLogger(__name__)

_PIECE = 200_000
_LEARNT = ("train", "validation")
JOINED = "joined"


@dataclass(frozen=True)
class Model:
    """A loaded model. name: what to call it on the page; number: its version, None for a bundle folder."""

    name: str
    number: int | None
    bundle: Bundle

    @property
    def windows(self) -> dict[str, Mapping[str, Any]]:
        """The windows it was trained and judged on, by name, as its manifest tells."""
        return {window["name"]: window for window in self.bundle.manifest.get("windows") or ()}

    @property
    def schema(self) -> Schema:
        """The data contract it was trained with."""
        return self.bundle.detector.schema


@dataclass(frozen=True, eq=False)
class Window:
    """The judged rows. positions: int64, ascending, in the canonical frame; start, end, source: words for the page."""

    positions: np.ndarray
    start: str | None
    end: str | None
    source: str


def open_model(reference: str, settings: Settings) -> Model:
    """Load what an alias, a version or a bundle folder names. Raises BundleError, RegistryError."""
    folder, number = Path(settings.locate(reference)), None
    if not folder.is_dir():
        from fraud import registry

        folder = registry.fetch(reference, settings)
        number = int(folder.name)
    loaded = bundle.load(folder)
    name = f"version {number}" if number is not None else f"{'/'.join(folder.parts[-2:])} ({loaded.sha256[:8]})"
    return Model(name, number, loaded)


def read(path: str, schema: Schema) -> Validated:
    """The good rows of the data, and the others. Raises DataError, SchemaError."""
    checked = data.load(path, schema)
    for warning in checked.warnings:
        logger.warning("%s", warning)
    return checked


def labels_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """int8 (n_rows,) of 1, 0, -1; all -1 without a label column."""
    if schema.label is None or schema.label.name not in rows:
        return np.full(len(rows), -1, dtype=np.int8)
    return rows[schema.label.name].to_numpy(dtype=np.int8)


def choose_window(
    rows: pd.DataFrame, model: Model, fingerprint: str, start: str | None = None, end: str | None = None
) -> Window:
    """The rows to judge: those of `start` (inclusive) to `end` (exclusive), ISO 8601, UTC unless they carry a zone.

    Without either: the model's own test window if the data hold rows of it, else all labelled rows, else all rows.
    Raises ConfigError (no timestamp to cut by, not a time) or DataError (no row in the window).
    """
    times = times_of(rows, model.schema)
    if start is not None or end is not None:
        if times is None:
            raise ConfigError(
                f"--start and --end need a timestamp column and schema {model.schema.name!r} has none: leave them out"
            )
        inside = np.ones(len(rows), bool)
        inside &= times >= _instant("--start", start) if start is not None else True
        inside &= times < _instant("--end", end) if end is not None else True
        if not inside.any():
            raise DataError(
                f"no row between --start {start or 'of the data'} and --end {end or 'of the data'}: the data run from "
                f"{times.min()} to {times.max()}"
            )
        return _window(np.flatnonzero(inside), times, "asked for with --start and --end")
    test = model.windows.get("test")
    if test is not None:
        positions = _positions(test, times, len(rows), fingerprint == model.bundle.manifest.get("data_fingerprint"))
        if positions.size:
            part = "" if positions.size == test["rows"] else f", of which the data hold {positions.size:,} rows"
            return _window(positions, times, f"the test window of {model.name}{part}")
    labels = labels_of(rows, model.schema)
    if (labels >= 0).any():
        return _window(np.flatnonzero(labels >= 0), times, "all labelled rows of the data")
    return _window(np.arange(len(rows)), times, "all rows of the data, none of which is labelled")


def doubts(rows: pd.DataFrame, window: Window, model: Model, fingerprint: str) -> list[str]:
    """What flatters the figures: judged rows in the windows that the model learnt from, in words."""
    times = times_of(rows, model.schema)
    same = fingerprint == model.bundle.manifest.get("data_fingerprint")
    said = []
    for name in _LEARNT:
        learnt = model.windows.get(name)
        if learnt is None:
            continue
        shared = np.intersect1d(_positions(learnt, times, len(rows), same), window.positions).size
        if shared:
            said.append(
                f"{shared:,} of the judged rows lie in the {name} window of {model.name} ({learnt['start']} to "
                f"{learnt['end']}): it learnt from them, and the figures flatter it; judge later rows (--start)"
            )
    return said


def score(rows: pd.DataFrame, window: Window, model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Scores of the judged rows, {name: float64 (n_window,)}, the joined one first; and warnings.

    Rows before the window's end feed their entities' history; rows after it are not looked at.
    """
    engine = Engine(model.bundle.detector)
    told = []
    if model.schema.history:
        times = times_of(rows, model.schema)
        assert times is not None, "a schema with history has a timestamp"
        last = times[window.positions].max()
        fed = np.flatnonzero(times <= last)
        warning = engine.history_warning(rows.iloc[fed])
        if warning and not (times < times[window.positions].min()).any():
            told.append(
                f"no row of the data is older than the window, so that {model.name} scores the first rows without "
                "entity history: give data that begin earlier"
            )
        raw = engine.raw(rows.iloc[fed])[np.searchsorted(fed, window.positions)]
        frame = engine.decide(raw, rows.index[window.positions])
    else:
        pieces = range(0, len(window.positions), _PIECE)
        frame = pd.concat([engine.score_frame(rows.iloc[window.positions[start : start + _PIECE]]) for start in pieces])
    # Whatever scores this detector has: a model with a further detector brings a further column.
    wanted = [name for name in frame.columns if frame[name].dtype.kind == "f" and frame[name].notna().all()]
    wanted.sort(key=lambda name: name != SCORE_COLUMNS[0])
    names = [JOINED if name == SCORE_COLUMNS[0] else name.removesuffix("_score") for name in wanted]
    return {name: frame[column].to_numpy() for name, column in zip(names, wanted, strict=True)}, told


def times_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray | None:
    """Timestamps, datetime64[us] (n_rows,), or None without such a column."""
    return rows[schema.timestamp.name].to_numpy(dtype="datetime64[us]") if schema.timestamp else None


def _positions(window: Mapping[str, Any], times: np.ndarray | None, n_rows: int, is_same_data: bool) -> np.ndarray:
    """Rows of a manifest's window: by time, or by row number where the model had no times and the data are the same."""
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


def _instant(flag: str, text: str) -> np.datetime64:
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a time: write it as 2026-01-31 or 2026-01-31T12:00:00Z") from None
    if instant.tzinfo is not None:
        instant = instant.astimezone(dt.UTC).replace(tzinfo=None)
    return np.datetime64(instant, "us")
