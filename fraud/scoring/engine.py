"""The scoring engine, for requests, batches, back-tests and shadows.

All rows run through the same compiled loops (fraud/detectors/kernels.py). A row's score does not depend on other rows,
to the last bit (tests/fraud/scoring/test_row_score.py), and equals scikit-learn's and torch's within float32 rounding
(tests/fraud/scoring/test_engine.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fraud.detectors import calibration, head_kernels, kernels
from fraud.detectors.calibration import to_score
from fraud.detectors.features import MICROSECONDS_A_DAY, calendar, raw_features
from fraud.errors import DataError, StoreError
from fraud.history.online import OnlineHistory
from fraud.history.records import microseconds_since_epoch
from fraud.history.replay import replay
from fraud.history.stores.store import Snapshot, StateStore
from fraud.schema import Schema
from fraud.schema.values import microseconds, number
from fraud.schema.zone import zone_of
from fraud.scoring.detector import Detector
from fraud.scoring.reasons import Explainer, Reason
from fraud.scoring.row_score import NO_HISTORY, Explanation, HistoryRead, RowScore
from fraud.thresholds.selection import Threshold

logger = logging.getLogger(__name__)

SCORE, DECISION = "score", "is_fraud"  # columns; the detectors' scores are between them


class Engine:
    """Scores rows with a fitted detector. Safe to share between threads.

    store: the live history (fraud.history.stores), which single rows read and extend. Without one they only read the
    history at the end of the training data.
    """

    def __init__(self, detector: Detector, threshold: Threshold | None = None, store: StateStore | None = None) -> None:
        self.detector = detector
        self.schema: Schema = detector.schema
        self._zone = zone_of(self.schema)
        self.threshold: Threshold = threshold or detector.threshold
        fitted, n_columns = detector.calibration, len(detector.without_labels)
        tails = (fitted.detectors["forest"], fitted.detectors["autoencoder"], fitted.joint)
        weights = calibration.weights(fitted.forest_weight, n_columns)
        parts = (detector.features, detector.forest, detector.autoencoder)
        self._arguments = (*map(_plain, parts), (*map(_plain, tails), weights))
        self._further = [(part, fitted.detectors[part.name]) for part in detector.without_labels[2:]]
        self._head_arguments: tuple[object, ...] = ()
        if detector.head is not None:
            assert fitted.final is not None
            parts_of_head = (detector.head, fitted.detectors["head"], fitted.final)
            self._head_arguments = (*map(_plain, parts_of_head), fitted.head_weight)
        names = detector.evidence_names
        self._n_evidences = len(names)
        self._positions = [-1, *(names.index(component.name) for component in detector.components)]
        self._detector_columns = list(zip(detector.score_columns, self._positions[1:], strict=True))
        self._codes = {
            name: {level: float(code) for code, level in enumerate(levels)}
            for name, levels in detector.features.categories.items()
        }
        self._history = OnlineHistory(self.schema) if self.schema.history else None
        self._columns = {column.name: column for column in self.schema.columns}
        self.store = store
        self._explainer = Explainer(detector.features, self.schema)

    def warm_up(self) -> None:
        """Compile all loops, so that the first caller does not wait."""
        raw = np.tile(self.detector.features.typical, (9, 1))
        self.evidence(raw)
        self._zone.local_us(np.zeros(1))
        if self._history:
            self._history.warm_up()
            self._snapshot.peek([])

    def score_frame(self, rows: pd.DataFrame, *, learn_history: bool = True) -> pd.DataFrame:
        """Score canonical rows (fraud.schema.validate): `score_names` and is_fraud, same index.

        learn_history: each row extends its entities' history for later rows, beginning with the detector's state, or
        with nothing if that state already has these rows (see `history_warning`). False scores every row with that
        state only, as single requests do.
        """
        return self.decide(self.raw(rows, learn_history=learn_history), rows.index)

    def decide(self, raw: np.ndarray, index: pd.Index) -> pd.DataFrame:
        """Score and decide raw features, float64 (n_rows, n_raw): the columns of `score_frame`, under `index`."""
        scores = self.score_raw(raw)
        frame = pd.DataFrame(scores, columns=list(self.score_names), index=index)
        frame[DECISION] = self.threshold.decide(scores[:, 0])
        return frame

    def raw(self, rows: pd.DataFrame, *, learn_history: bool = True) -> np.ndarray:
        """Raw features of canonical rows, float64 (n_rows, n_raw); learn_history as in `score_frame`."""
        states = () if learn_history and self.history_warning(rows) else self.detector.history
        history, _ = replay(rows, self.schema, states, learn=learn_history)
        return raw_features(rows, self.schema, self.detector.features.categories, history)

    def raw_in_turn(
        self, columns: Mapping[str, np.ndarray], *, learn: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Raw features of rows in sequence, each with the live history after the one before, as for single requests.

        columns: the schema's inputs, each (n_rows,): float64, datetime64[us], or objects for texts, None if missing.
        learn: as in `score_row`. Returns float64 (n_rows, n_raw), and twice bool (n_rows,): whether the history was
        live, and whether the id was seen with other values. With a history in the schema, no time may be missing.
        """
        n_rows = len(next(iter(columns.values()), ()))
        is_live, is_changed = np.ones(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
        history = np.empty((n_rows, self._history.width if self._history else 0))
        if self._history is not None:
            assert self.schema.timestamp is not None
            times = microseconds_since_epoch(columns[self.schema.timestamp.name]).tolist()
            rows = zip(*(values.tolist() for values in columns.values()), strict=True)
            for i, row in enumerate(rows):
                read = self._read_history(dict(zip(columns, row, strict=True)), times[i], learn)
                history[i], (is_live[i], is_changed[i], _) = read
        return raw_features(columns, self.schema, self.detector.features.categories, history), is_live, is_changed

    def history_warning(self, rows: pd.DataFrame) -> str | None:
        """A warning if some rows are not newer than the detector's entity history, else None.

        They would count twice, so such rows are scored without that history, only with earlier rows of the frame.
        """
        if not self.detector.history or self.schema.timestamp is None or not len(rows):
            return None
        last = max((state.last_time for state in self.detector.history if state.last_time is not None), default=None)
        if last is None or microseconds_since_epoch(rows[self.schema.timestamp.name]).min() > last:
            return None
        return (
            f"the model's entity history already holds the rows up to {np.datetime64(last, 'us').astype('M8[D]')}: "
            "these rows are scored only with the history in the file, so earlier rows of the same customers "
            "belong in the file (ray_jobs.score --date picks one day of it)"
        )

    @property
    def score_names(self) -> tuple[str, ...]:
        """The columns of `score_raw`: the deciding score, then each detector's."""
        return (SCORE, *self.detector.score_columns)

    def score_raw(self, raw: np.ndarray) -> np.ndarray:
        """Scores of raw features: float64 (n_rows, n_scores), columns `score_names`."""
        return to_score(self.evidence(raw)[:, self._positions])

    def evidence(self, raw: np.ndarray, chunk: int = 4096) -> np.ndarray:
        """Evidence of each detector and joint evidence, float64 (n_rows, n); the last column decides.

        raw: float64 (n_rows, n_raw). Columns: `detector.evidence_names`. chunk: rows per compiled call, to bound memory
        and the time that other threads wait (milliseconds). A row's evidence depends on neither other rows nor `chunk`.
        """
        raw = np.ascontiguousarray(raw, dtype=np.float64)
        if len(raw) > chunk:
            return np.concatenate([self.evidence(raw[i : i + chunk], chunk) for i in range(0, len(raw), chunk)])
        out = np.empty((len(raw), self._n_evidences))
        if self._further:
            X = self.detector.features.transform(raw)
            for column, (component, tail) in enumerate(self._further, start=2):
                out[:, column] = tail(component.score(X))
        kernels.score_rows(raw, *self._arguments, out)
        if self._head_arguments:
            head_kernels.add_head(raw, *self._head_arguments, out)
        return out

    def score_row(self, row: Mapping[str, object], *, learn: bool = True) -> RowScore:
        """Score one transaction {column: value}, in tens of microseconds; see `encode_row` for the values.

        learn: add the row to its entities' history in the store. False is for "what if".
        """
        raw, history_read = self._encode(row, learn)
        return self._answer(self.evidence(raw[None])[0], history_read)

    def score_and_explain(
        self, row: Mapping[str, object], top: int = 3, *, learn: bool = True, only_flagged: bool = False
    ) -> tuple[RowScore, list[Reason]]:
        """Score one transaction and name the columns that made it suspicious, strongest first.

        only_flagged: no reasons below the threshold, which is several times faster.
        """
        raw, history_read = self._encode(row, learn)
        if only_flagged:
            answer = self._answer(self.evidence(raw[None])[0], history_read)
            if not answer.is_fraud:
                return answer, []
        evidence = self.evidence(self._explainer.probes(raw[None]))
        contributions = self._explainer.contributions(evidence[:, -1])[0]
        return self._answer(evidence[0], history_read), self._explainer.reasons(
            raw, contributions, row, self._time_of(row), top
        )

    def explain(self, row: Mapping[str, object]) -> Explanation:
        """Score one transaction and explain every column. The history is not changed."""
        raw, history_read = self._encode(row, learn=False)
        evidences = self.evidence(self._explainer.probes(raw[None]))
        evidence = evidences[:, -1]
        columns = self._explainer.account(raw, self._explainer.contributions(evidence)[0], row, self._time_of(row))
        return Explanation(self._answer(evidences[0], history_read), float(evidence[0]), float(evidence[1]), columns)

    def learn_fraud(self, row: Mapping[str, object], *, is_fraud: bool = True) -> None:
        """Record or retract a fraud label in the store. Idempotent.

        row: timestamp, id and entities. Raises StoreError. Does nothing without a store.
        """
        if self._history and self.store is not None:
            self._history.learn_fraud(row, self._required_time(self._now(row)), self.store, is_fraud=is_fraud)

    def remember(self, row: Mapping[str, object], only: Collection[int]) -> None:
        """Add a transaction to the plans with index in `only`, unless its id is there. Does not score.

        Raises StoreError, and DataError for an invalid value.
        """
        if self._history and self.store is not None:
            visits = self._history.visits(row, self._required_time(self._now(row)), self._value)
            self._history.remember([v if v.plan in only else v._replace(key="") for v in visits], self.store)

    def reasons(self, rows: pd.DataFrame, top: int = 3, *, raw: np.ndarray | None = None) -> list[list[Reason]]:
        """Reasons of each canonical row. raw: its raw features, if already computed."""
        raw = self.raw(rows) if raw is None else raw
        contributions, records = self.contributions(raw), rows.to_dict(orient="records")
        return [
            self._explainer.reasons(raw[i], contributions[i], row, self._time_of(row), top)
            for i, row in enumerate(records)
        ]

    @property
    def explained_columns(self) -> tuple[str, ...]:
        """The columns of `contributions`."""
        return self._explainer.columns

    def contributions(self, raw: np.ndarray, chunk: int = 16_384) -> np.ndarray:
        """Each column's contribution to the evidence, in powers of ten: float64 (n_rows, n_columns).

        A row's contributions, with negative ones, add up to its evidence (the last of `evidence`) minus a typical
        row's; see fraud.scoring.reasons. raw: float64 (n_rows, n_raw). chunk: evaluations at a time, 2 per column plus
        2 for each row.
        """
        out = np.empty((len(raw), len(self.explained_columns)))
        step = max(1, chunk // self._explainer.n_probes)
        for start in range(0, len(raw), step):
            probes = self._explainer.probes(raw[start : start + step])
            out[start : start + step] = self._explainer.contributions(self.evidence(probes)[:, -1])
        return out

    def encode_row(self, row: Mapping[str, object]) -> np.ndarray:
        """Raw features of one transaction, float64 (n_raw,).

        Values: numbers for numeric and boolean columns, anything with a str() for categories and entities, a datetime,
        an ISO 8601 string or a number in the column's unit for timestamps, None for a missing value. Raises DataError
        naming the column for any other value. The history is not changed.
        """
        return self._encode(row, learn=False)[0]

    def _encode(self, row: Mapping[str, object], learn: bool) -> tuple[np.ndarray, HistoryRead]:
        """Raw features, and how the history was read."""
        raw: list[float] = []
        for column in self.schema.features:
            value = row.get(column.name)
            if column.kind == "categorical":
                codes = self._codes[column.name]
                raw.append(codes.get(str(value), float(len(codes))))
            else:
                raw.append(np.nan if value is None else number(column, value))
        if self.schema.timestamp is None:
            return np.array(raw), NO_HISTORY
        now = self._now(row)
        if self.schema.timestamp.calendar:
            days = self._zone.local_us(np.array([now])) / MICROSECONDS_A_DAY
            raw += list(calendar(days, self.schema.timestamp.calendar)[0])
        if self._history is None:
            return np.array(raw), NO_HISTORY
        history, history_read = self._read_history(row, self._required_time(now), learn)
        return np.concatenate([raw, history]), history_read

    def _read_history(self, row: Mapping[str, object], now: int, learn: bool) -> tuple[np.ndarray, HistoryRead]:
        assert self._history is not None
        began = time.perf_counter()
        visits = self._history.visits(row, now, self._value)
        is_live, is_changed = True, False
        try:
            if self.store is not None and learn:
                seen = self._history.remember(visits, self.store)
                features, is_changed = seen.features, seen.is_changed
            else:
                features = self._history.read(visits, self._snapshot if self.store is None else self.store)
        except StoreError as error:
            logger.debug("scored with the model's own history: %s", error)
            features, is_live = self._history.read(visits, self._snapshot), False
        return features, HistoryRead(is_live, is_changed, time.perf_counter() - began)

    @cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(self.detector.history)

    def _value(self, name: str, value: object) -> float:
        return np.nan if value is None else number(self._columns[name], value)

    def _time_of(self, row: Mapping[str, object]) -> float:
        """`_now`, or NaN if the schema has no timestamp."""
        return np.nan if self.schema.timestamp is None else self._now(row)

    def _now(self, row: Mapping[str, object]) -> float:
        """Microseconds since 1970 of a row; NaN if the timestamp is missing."""
        assert self.schema.timestamp is not None
        return microseconds(self.schema.timestamp, row.get(self.schema.timestamp.name))

    def _required_time(self, now: float) -> int:
        assert self.schema.timestamp is not None
        if np.isnan(now):
            raise DataError(f"column {self.schema.timestamp.name!r} is missing; the entity history needs a time")
        return int(now)

    def _answer(self, evidences: np.ndarray, history_read: HistoryRead) -> RowScore:
        evidence = evidences.tolist()  # Python floats: numpy takes a microsecond longer
        score = to_score(evidence[-1])
        scores = {name: to_score(evidence[position]) for name, position in self._detector_columns}
        return RowScore(score, score >= self.threshold.value, scores, *history_read)


def _plain(part: Any) -> tuple[Any, ...]:
    return tuple(part.kernel_arguments)
