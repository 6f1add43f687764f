"""The scoring engine: the one place where a row becomes a score, for a request, a batch, a back-test or a shadow.

One row runs through a single compiled call (tens of microseconds); many rows run through blocked tree walks and matrix
products. Both read the same arrays and agree within float32 rounding (tests/fraud/test_engine.py holds them to
scikit-learn and torch).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from fraud import head, head_kernels, kernels
from fraud.calibration import to_score
from fraud.days import zone_of
from fraud.detector import Detector
from fraud.errors import DataError, StoreError
from fraud.features import MICROSECONDS_A_DAY, calendar, raw_features
from fraud.history.online import OnlineHistory
from fraud.history.replay import microseconds_since_epoch, replay
from fraud.history.stores.store import Snapshot, StateStore
from fraud.reasons import Explainer, Reason
from fraud.row_values import microseconds, number
from fraud.schema import Schema
from fraud.thresholds import Threshold

logger = logging.getLogger(__name__)

SCORE_COLUMNS = ("score", "forest_score", "autoencoder_score", "is_fraud")
HEAD_COLUMN = "head_score"  # beside them when the detector has a supervised head


@dataclass(frozen=True)
class RowScore:
    """One row's answer. Scores are in [0, 1), higher is more suspicious; is_fraud: score >= threshold.

    head_score: what the supervised head alone says; None without one. is_history_live: False where the state store
    failed, so that the row was scored with the model's own history.
    """

    score: float
    forest_score: float
    autoencoder_score: float
    is_fraud: bool
    head_score: float | None = None
    is_history_live: bool = True


@dataclass(frozen=True)
class Explanation:
    """One row's answer with the whole account of it.

    evidence: of the row, in powers of ten; typical_evidence: of a typical row. columns: every column, from the most to
    the least suspicious; their contributions add up to evidence - typical_evidence.
    """

    answer: RowScore
    evidence: float
    typical_evidence: float
    columns: list[Reason]


class Engine:
    """Scores rows with a fitted detector. Safe to share between threads.

    store: the live history that single rows read and enter (fraud.history.stores); without one they read the history as
    it was at the end of the training data, and leave no trace.
    """

    def __init__(self, detector: Detector, threshold: Threshold | None = None, store: StateStore | None = None) -> None:
        self.detector = detector
        self.schema: Schema = detector.schema
        self._zone = zone_of(self.schema)
        self.threshold: Threshold = threshold or detector.threshold
        c = detector.calibration
        self._arguments = (
            *detector.features.kernel_arguments,
            *detector.forest.kernel_arguments, detector.forest.normaliser,
            *detector.autoencoder.kernel_arguments,
            c.forest.knots, c.forest.evidence, c.forest.slope,
            c.autoencoder.knots, c.autoencoder.evidence, c.autoencoder.slope,
            c.joint.knots, c.joint.evidence, c.joint.slope, c.forest_weight,
        )  # fmt: skip
        self._head_arguments: tuple[object, ...] = ()
        if detector.head is not None:
            assert c.head is not None and c.final is not None
            self._head_arguments = (
                *detector.head.kernel_arguments,
                c.head.knots, c.head.evidence, c.head.slope,
                c.final.knots, c.final.evidence, c.final.slope, c.head_weight,
            )  # fmt: skip
        self._codes = {
            name: {level: float(code) for code, level in enumerate(levels)}
            for name, levels in detector.features.categories.items()
        }
        self._history = OnlineHistory(self.schema) if self.schema.history else None
        self._columns = {column.name: column for column in self.schema.columns}
        self.store = store
        self._explainer = Explainer(detector.features, self.schema)

    def warm_up(self) -> None:
        """Compile everything a request or a batch needs, so that the first caller does not wait for it."""
        raw = np.tile(self.detector.features.typical, (9, 1))
        self.evidence(raw)
        self._singly(raw[:1])
        self._zone.local_us(np.zeros(1))
        if self._history:
            self._history.warm_up()
            self._snapshot.peek([])

    def score_frame(self, rows: pd.DataFrame, *, learn_history: bool = True) -> pd.DataFrame:
        """Score canonical rows (fraud.schema.validate): `score_names` and is_fraud, same index.

        learn_history: rows enter their entities' history for the rows after them, starting from the state in the
        detector, or from nothing where that state knows them (see `history_warning`); False scores every row against
        that state alone, as single requests are.
        """
        return self.decide(self.raw(rows, learn_history=learn_history), rows.index)

    def decide(self, raw: np.ndarray, index: pd.Index) -> pd.DataFrame:
        """Score and decide raw features, float64 (n_rows, n_raw): the columns of `score_frame`, under `index`."""
        scores = self.score_raw(raw)
        frame = pd.DataFrame(scores, columns=list(self.score_names), index=index)
        frame["is_fraud"] = self.threshold.decide(scores[:, 0])
        return frame

    def raw(self, rows: pd.DataFrame, *, learn_history: bool = True) -> np.ndarray:
        """Raw features of canonical rows, float64 (n_rows, n_raw); learn_history as for `score_frame`."""
        states = () if learn_history and self.history_warning(rows) else self.detector.history
        history, _ = replay(rows, self.schema, states, learn=learn_history)
        return raw_features(rows, self.schema, self.detector.features.categories, history)

    def raw_in_turn(self, columns: Mapping[str, np.ndarray], *, learn: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Raw features of rows that come one after another, as single requests do with the live history.

        columns: the schema's inputs, each (n_rows,), float64, datetime64[us] or, for texts, objects, None where one is
        missing. learn as for `score_row`. Returns float64 (n_rows, n_raw), and bool (n_rows,): whether the history
        was the live one. A time must be there where the schema has a history.
        """
        n_rows = len(next(iter(columns.values()), ()))
        is_live = np.ones(n_rows, dtype=bool)
        history = np.empty((n_rows, self._history.width if self._history else 0))
        if self._history is not None:
            assert self.schema.timestamp is not None
            times = microseconds_since_epoch(columns[self.schema.timestamp.name]).tolist()
            rows = zip(*(values.tolist() for values in columns.values()), strict=True)
            for i, row in enumerate(rows):
                history[i], is_live[i] = self._read_history(dict(zip(columns, row, strict=True)), times[i], learn)
        return raw_features(columns, self.schema, self.detector.features.categories, history), is_live

    def history_warning(self, rows: pd.DataFrame) -> str | None:
        """What to tell the user when some rows are no newer than the entity history in the detector, else None.

        Learnt again they would count twice, so such rows are scored with the history that they bring themselves.
        """
        if not self.detector.history or self.schema.timestamp is None or not len(rows):
            return None
        last = max((state.last_time for state in self.detector.history if state.last_time is not None), default=None)
        if last is None or microseconds_since_epoch(rows[self.schema.timestamp.name]).min() > last:
            return None
        return (
            f"the model's entity history already holds the rows up to {np.datetime64(last, 'us').astype('M8[D]')}: "
            "these rows are scored with the history that they bring themselves, so earlier rows of the same customers "
            "belong in the file (ray_jobs.score --date picks one day of it)"
        )

    @property
    def score_names(self) -> tuple[str, ...]:
        """The columns of `score_raw`: score, forest_score, autoencoder_score, and head_score if there is a head."""
        return SCORE_COLUMNS[:3] if self.detector.head is None else (*SCORE_COLUMNS[:3], HEAD_COLUMN)

    def score_raw(self, raw: np.ndarray) -> np.ndarray:
        """Scores of raw features: float64 (n_rows, n_scores), the columns named by `score_names`."""
        return to_score(self.evidence(raw)[:, [-1, 0, 1] if self.detector.head is None else [-1, 0, 1, 3]])

    def evidence(self, raw: np.ndarray, chunk: int = 16_384) -> np.ndarray:
        """Evidence of forest, autoencoder and both, then with a head its own and that of all; the last one decides.

        raw: float64 (n_rows, n_raw). Returns float64 (n_rows, 3), with a head (n_rows, 5). Memory is bounded by `chunk`
        rows.
        """
        detector, calibrated = self.detector, self.detector.calibration
        out = np.empty((len(raw), 3 if detector.head is None else 5))
        for start in range(0, len(raw), chunk):
            piece, found = raw[start : start + chunk], out[start : start + chunk]
            X = detector.features.transform(piece)
            found[:, :3] = np.stack(
                calibrated.evidences(detector.forest.score(X), detector.autoencoder.score(X)), axis=1
            )
            if detector.head is not None:
                log_odds = detector.head.score(head.inputs(piece, found))
                found[:, 3:] = np.stack(calibrated.with_head(found[:, 2], log_odds), axis=1)
        return out

    def score_row(self, row: Mapping[str, object], *, learn: bool = True) -> RowScore:
        """Score one transaction given as {column: value}; see `encode_row` for the values. Tens of microseconds.

        learn: with a store, the row enters its entities' history for the rows after it. False asks "what if".
        """
        raw, is_live = self._encode(row, learn)
        return self._answer(self._singly(raw[None])[0], is_live)

    def score_and_explain(
        self, row: Mapping[str, object], top: int = 3, *, learn: bool = True, only_flagged: bool = False
    ) -> tuple[RowScore, list[Reason]]:
        """Score one transaction and name the columns that made it suspicious, strongest first.

        only_flagged: name none for a transaction below the threshold, which is several times as quick.
        """
        raw, is_live = self._encode(row, learn)
        if only_flagged:
            answer = self._answer(self._singly(raw[None])[0], is_live)
            if not answer.is_fraud:
                return answer, []
        found = self._singly(self._explainer.probes(raw[None]))
        contributions = self._explainer.contributions(found[:, -1])[0]
        return self._answer(found[0], is_live), self._explainer.reasons(
            raw, contributions, row, self._time_of(row), top
        )

    def explain(self, row: Mapping[str, object]) -> Explanation:
        """Score one transaction and account for every column. Nothing is learnt."""
        raw, is_live = self._encode(row, learn=False)
        found = self._singly(self._explainer.probes(raw[None]))
        evidence = found[:, -1]
        columns = self._explainer.account(raw, self._explainer.contributions(evidence)[0], row, self._time_of(row))
        return Explanation(self._answer(found[0], is_live), float(evidence[0]), float(evidence[1]), columns)

    def learn_fraud(self, row: Mapping[str, object], *, is_fraud: bool = True) -> None:
        """Tell the store that a transaction turned out a fraud, or after all not. Twice is as once.

        row: its timestamp, id and entities. Raises StoreError where the store fails; without a store nothing happens.
        """
        if self._history and self.store is not None:
            self._history.learn_fraud(row, self._known_time(self._now(row)), self.store, is_fraud=is_fraud)

    def reasons(self, rows: pd.DataFrame, top: int = 3, *, raw: np.ndarray | None = None) -> list[list[Reason]]:
        """Reasons of each canonical row. raw: its raw features, if the caller has them from a whole frame's replay."""
        raw = self.raw(rows) if raw is None else raw
        contributions, records = self.contributions(raw), rows.to_dict(orient="records")
        return [
            self._explainer.reasons(raw[i], contributions[i], row, self._time_of(row), top)
            for i, row in enumerate(records)
        ]

    @property
    def explained_columns(self) -> tuple[str, ...]:
        """The columns that evidence is divided over, in the order of `contributions`."""
        return self._explainer.columns

    def contributions(self, raw: np.ndarray, chunk: int = 16_384) -> np.ndarray:
        """What each column adds to the evidence, in powers of ten: float64 (n_rows, n_columns); see fraud.reasons.

        A row's contributions, negative ones too, add up to its evidence (the last of `evidence`) less a typical row's.
        raw: float64 (n_rows, n_raw). Memory is bounded by `chunk` evaluations, 2 a column and 2 for each row.
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
        naming the column whose value is none of these. Nothing is learnt.
        """
        return self._encode(row, learn=False)[0]

    def _encode(self, row: Mapping[str, object], learn: bool) -> tuple[np.ndarray, bool]:
        """Raw features, and whether their history is the live one."""
        raw: list[float] = []
        for column in self.schema.features:
            value = row.get(column.name)
            if column.kind == "categorical":
                codes = self._codes[column.name]
                raw.append(codes.get(str(value), float(len(codes))))
            else:
                raw.append(np.nan if value is None else number(column, value))
        if self.schema.timestamp is None:
            return np.array(raw), True
        now = self._now(row)
        if self.schema.timestamp.calendar:
            days = self._zone.local_us(np.array([now])) / MICROSECONDS_A_DAY
            raw += list(calendar(days, self.schema.timestamp.calendar)[0])
        if self._history is None:
            return np.array(raw), True
        history, is_live = self._read_history(row, self._known_time(now), learn)
        return np.concatenate([raw, history]), is_live

    def _read_history(self, row: Mapping[str, object], now: int, learn: bool) -> tuple[np.ndarray, bool]:
        assert self._history is not None
        visits = self._history.visits(row, now, self._value)
        if self.store is not None:
            try:
                read = self._history.exchange if learn else self._history.read
                return read(visits, self.store), True
            except StoreError as error:
                logger.debug("scored with the model's own history: %s", error)
        return self._history.read(visits, self._snapshot), self.store is None

    @cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(self.detector.history)

    def _value(self, name: str, value: object) -> float:
        return np.nan if value is None else number(self._columns[name], value)

    def _time_of(self, row: Mapping[str, object]) -> float:
        """As `_now`; NaN where the schema has no timestamp."""
        return np.nan if self.schema.timestamp is None else self._now(row)

    def _now(self, row: Mapping[str, object]) -> float:
        """Microseconds since 1970 of a row; NaN where a timestamp that may be missing is."""
        assert self.schema.timestamp is not None
        return microseconds(self.schema.timestamp, row.get(self.schema.timestamp.name))

    def _known_time(self, now: float) -> int:
        assert self.schema.timestamp is not None
        if np.isnan(now):
            raise DataError(f"column {self.schema.timestamp.name!r} is missing; the entity history needs a time")
        return int(now)

    def _singly(self, raw: np.ndarray) -> np.ndarray:
        """Raw scores of forest and autoencoder, then what `evidence` gives: float64 (n_rows, 5), with a head 7."""
        out = np.empty((len(raw), 7 if self._head_arguments else 5))
        kernels.score_rows_singly(raw, *self._arguments, out)
        if self._head_arguments:
            head_kernels.add_head_singly(raw, *self._head_arguments, out)
        return out

    def _answer(self, found: np.ndarray, is_history_live: bool) -> RowScore:
        forest, autoencoder, *others, score = to_score(found[2:]).tolist()  # others: both detectors, then the head
        head_score = others[1] if others else None
        return RowScore(score, forest, autoencoder, score >= self.threshold.value, head_score, is_history_live)
