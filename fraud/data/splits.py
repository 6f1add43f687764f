"""Splits by time with a label delay: history, train, (delay), validation, (delay), test; and prequential folds.

A label is known only `delay` after its transaction. So a part may use no labels from later than its start minus the
delay (Fraud Detection Handbook, chapter 5: validation strategies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from fraud.configuration import Flag, Number, configuration
from fraud.errors import ConfigError, DataError

PARTS = ("history", "train", "validation", "test")
_DAY_US = 86_400_000_000
_INSTANTS = ("train_start", "validation_start", "validation_end", "test_start", "test_end")


_Part = Annotated[Number, Field(gt=0, lt=1)]
# YAML reads an unquoted day as a date.
_Instant = Annotated[str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)]


@configuration("split")
class SplitConfig:
    """Where to cut: shares of the rows in time order, or explicit instants.

    history, train, validation, test: shares of the rows used, sum 1. Rows within a delay are not used. `history` comes
        before the training rows and feeds entity profiles only.
    delay_days: how long a label takes: the minimum time between train and validation, and between validation and test.
        0 = none.
    validation_gap: False leaves no delay before validation (the handbook's protocol).
    train_start, validation_start, validation_end, test_start, test_end: ISO 8601 instants (UTC unless they carry a
        zone). If any is set, they replace the shares; a start is inclusive, an end exclusive. validation_start and
        test_start are needed; train ends at validation_start less the delay. Left out, train_start and test_end are
        the data's own first and last row, and validation_end is test_start less the delay.
    """

    history: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    train: _Part = 0.60
    validation: _Part = 0.15
    test: _Part = 0.25
    delay_days: Annotated[Number, Field(ge=0)] = 0.0
    validation_gap: Flag = True
    train_start: _Instant | None = None
    validation_start: _Instant | None = None
    validation_end: _Instant | None = None
    test_start: _Instant | None = None
    test_end: _Instant | None = None

    def __post_init__(self) -> None:
        if self.is_explicit:
            self._check_instants()
        else:
            self._check_shares()

    @property
    def is_explicit(self) -> bool:
        """Whether instants replace the shares."""
        return any(getattr(self, name) is not None for name in _INSTANTS)

    def _check_shares(self) -> None:
        total = sum(getattr(self, name) for name in PARTS)
        if abs(total - 1) > 1e-6:
            raise ConfigError(f"split: history + train + validation + test is {total:g}: make the shares add up to 1")

    def _check_instants(self) -> None:
        for name in ("validation_start", "test_start"):
            if getattr(self, name) is None:
                raise ConfigError(f"split: {name} is missing: explicit instants need validation_start and test_start")
        edges = _explicit_edges(self, -(2**62), 2**62)
        if edges.test_start - edges.validation_end < edges.delay:
            raise ConfigError(
                f"split: validation_end {self.validation_end} is less than delay_days={self.delay_days:g} before "
                f"test_start {self.test_start}: end validation earlier, or set delay_days to 0"
            )
        for name in ("train", "validation", "test"):
            start, end = edges.window(name)
            if start >= end:
                raise ConfigError(
                    f"split: the {name} window is empty, {_iso(start)} to {_iso(end)}: put train_start, "
                    "validation_start less the delay, validation_end, test_start and test_end in this order"
                )


@dataclass(frozen=True)
class Window:
    """Summary of a part. start, end: first and last instant (ISO 8601, or "row 12" without times)."""

    name: str
    start: str
    end: str
    rows: int
    frauds: int | None


@dataclass(frozen=True, eq=False)
class Split:
    """Row positions of each part: int64 arrays in time order. `history` may be empty."""

    history: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def learnt(self) -> np.ndarray:
        """Positions of the rows that a training uses: train and validation."""
        return np.concatenate([self.train, self.validation])

    def windows(self, times: np.ndarray | None, labels: np.ndarray | None) -> list[Window]:
        """Summaries of the parts with rows, oldest first; `frauds` is None if the part has no known label.

        times, labels: of all rows of the frame; labels are 1 fraud, 0 legitimate, -1 unknown.
        """
        windows = []
        for name in PARTS:
            rows = getattr(self, name)
            if rows.size == 0:
                continue
            if times is None:
                start, end = f"row {rows[0]}", f"row {rows[-1]}"
            else:
                start, end = (_iso(int(t)) for t in _clock(times)[rows[[0, -1]]])
            part = None if labels is None else np.asarray(labels)[rows]
            frauds = None if part is None or (part < 0).all() else int((part == 1).sum())
            windows.append(Window(name, start, end, int(rows.size), frauds))
        return windows


@dataclass(frozen=True)
class _Edges:
    """Half-open windows on the clock: microseconds since 1970, or row numbers."""

    history_start: int
    train_start: int
    train_end: int
    validation_start: int
    validation_end: int
    test_start: int
    test_end: int
    delay: int

    def window(self, name: str) -> tuple[int, int]:
        if name == "history":
            return self.history_start, self.train_start
        return getattr(self, f"{name}_start"), getattr(self, f"{name}_end")

    def shifted(self, by: int) -> _Edges:
        """The same windows moved back in time; history still begins with the data."""
        moved = {name: getattr(self, name) - by for name in self.__dataclass_fields__}
        return _Edges(**{**moved, "history_start": self.history_start, "delay": self.delay})


def split_by_time(times: np.ndarray | None, config: SplitConfig, n_rows: int) -> Split:
    """Cut a frame into history, train, validation and test.

    Parameters
    ----------
    times : datetime64 array, shape (n_rows,), UTC, in any order; None falls back to row order, with a warning.
    config : where to cut. Rows with the same time stay in one part.
    n_rows : number of rows of the frame.

    Returns
    -------
    Split. Validation rows are later than the last training time + delay, and test rows later than the last validation
    time + delay (without validation_gap the first delay is 0).

    Raises
    ------
    DataError : a part is empty (the text names it and a remedy), or a time is missing.
    ConfigError : explicit instants, but the data has no times.
    """
    return prequential(times, config, 1, n_rows=n_rows)[0]


def prequential(times: np.ndarray | None, config: SplitConfig, folds: int, *, n_rows: int | None = None) -> list[Split]:
    """The split of `split_by_time` and the same one shifted back by multiples of the test length, newest first.

    Parameters
    ----------
    times : datetime64 array, shape (n_rows,); None needs `n_rows` and shifts by row numbers.
    folds : how many splits, at least 1. Test windows are adjacent. History begins with the data in each fold. A
        training window that would begin before the data is cut short, with a warning.

    Raises
    ------
    ConfigError, DataError : as `split_by_time`; the text names the fold.
    """
    if folds < 1:
        raise ConfigError(f"split: folds is {folds}: ask for at least 1")
    clock, config, warnings = _clock_or_rows(times, config, n_rows)
    if clock.size == 0:
        raise DataError("split: the train part is empty: the data has no rows; give a file with rows")
    order = np.argsort(clock, kind="stable")
    ordered = clock[order]
    first, last = int(ordered[0]), int(ordered[-1])
    edges = _explicit_edges(config, first, last + 1) if config.is_explicit else _edges_by_share(ordered, config)
    length = edges.test_end - edges.test_start
    as_text = str if times is None else _iso
    splits = []
    for fold in range(folds):
        moved = edges.shifted(fold * length)
        notes = list(warnings)
        if moved.train_start < first and (fold or config.train_start is not None):
            notes.append(f"split fold {fold}: the training window would begin before the data and is cut short")
        parts = {}
        for name in PARTS:
            start, end = moved.window(name)
            low, high = np.searchsorted(ordered, [start, max(start, end)], side="left")
            parts[name] = order[low:high].astype(np.int64)
            if low == high and (name != "history" or (config.history > 0 and not config.is_explicit)):
                of_fold = f" of fold {fold}" if fold else ""
                raise DataError(
                    f"split: the {name} part{of_fold} is empty: {ordered.size} rows from {as_text(first)} to "
                    f"{as_text(last)}, delay_days={config.delay_days:g}; {_remedy(config, fold)}"
                )
        splits.append(Split(**parts, warnings=tuple(notes)))
    return splits


def _remedy(config: SplitConfig, fold: int) -> str:
    if fold:
        return "ask for fewer folds or give a longer stretch of data"
    if config.is_explicit:
        return "move the instants into the data"
    return (
        "give a longer stretch of data, lower delay_days (and the schema's label_delay_days) or raise this part's share"
    )


def _clock_or_rows(
    times: np.ndarray | None, config: SplitConfig, n_rows: int | None
) -> tuple[np.ndarray, SplitConfig, Sequence[str]]:
    """The clock (int64, shape (n_rows,)), the configuration that fits it, and warnings."""
    if times is not None:
        if n_rows is not None and len(times) != n_rows:
            raise ValueError(f"{len(times)} times for {n_rows} rows")
        return _clock(times), config, ()
    if n_rows is None:
        raise ValueError("data without times needs n_rows")
    if config.is_explicit:
        raise ConfigError(
            "split: explicit instants (validation_start, test_start) need a timestamp column and the schema has none: "
            "name one in the schema, or give shares (train, validation, test)"
        )
    warning = "no timestamp in the schema: split by row order, assuming that rows are oldest first"
    if config.delay_days:
        warning += f"; delay_days={config.delay_days:g} is ignored"
    shares = {name: getattr(config, name) for name in PARTS}
    return np.arange(n_rows, dtype=np.int64), SplitConfig(**shares), (warning,)


def _clock(times: np.ndarray) -> np.ndarray:
    """Microseconds since 1970, int64. Raises DataError on a missing time."""
    instants = np.asarray(times).astype("datetime64[us]")
    missing = np.isnat(instants)
    if missing.any():
        raise DataError(f"split: row {int(np.argmax(missing))} has no time: drop the row or fill in its timestamp")
    return instants.astype(np.int64)


def _edges_by_share(ordered: np.ndarray, config: SplitConfig) -> _Edges:
    """Use as many rows as possible, so that their shares and the delays between them fit the data."""
    delay = round(config.delay_days * _DAY_US)
    gap = delay if config.validation_gap else 0
    n = ordered.size

    def after(position: int, rows: int, wait: int) -> tuple[int, int]:
        """Take `rows` rows from `position`, with ties; return the end time and the position after the wait."""
        end = int(ordered[min(position + rows, n) - 1]) + 1 if position + rows > 0 else int(ordered[0])
        return end, int(np.searchsorted(ordered, end + wait, side="left"))

    def edges_for(used: int) -> tuple[_Edges, int]:
        """The windows if `used` rows are used, and the position where the test rows end."""
        history = round(used * config.history)
        history_end, position = after(0, history, 0)
        train_rows = round(used * (config.history + config.train)) - history
        train_end, position = after(position, train_rows, gap)
        validation_rows = round(used * (config.history + config.train + config.validation)) - history - train_rows
        validation_end, position = after(position, validation_rows, delay)
        edges = _Edges(
            history_start=int(ordered[0]),
            train_start=history_end,
            train_end=train_end,
            validation_start=train_end + gap,
            validation_end=validation_end,
            test_start=validation_end + delay,
            test_end=int(ordered[-1]) + 1,
            delay=delay,
        )
        return edges, position + used - history - train_rows - validation_rows

    low, high = 0, n  # bisect for the largest number that fits
    while low < high:
        middle = (low + high + 1) // 2
        if edges_for(middle)[1] <= n:
            low = middle
        else:
            high = middle - 1
    return edges_for(low)[0]


def _explicit_edges(config: SplitConfig, first: int, end: int) -> _Edges:
    """The windows of explicit instants; `first` and `end` (exclusive) of the data are the defaults."""
    delay = round(config.delay_days * _DAY_US)
    at = {name: None if getattr(config, name) is None else _instant(name, getattr(config, name)) for name in _INSTANTS}
    validation_start, test_start = at["validation_start"], at["test_start"]
    assert validation_start is not None and test_start is not None
    return _Edges(
        history_start=first,
        train_start=first if at["train_start"] is None else at["train_start"],
        train_end=validation_start - (delay if config.validation_gap else 0),
        validation_start=validation_start,
        validation_end=test_start - delay if at["validation_end"] is None else at["validation_end"],
        test_start=test_start,
        test_end=end if at["test_end"] is None else at["test_end"],
        delay=delay,
    )


def _instant(name: str, value: object) -> int:
    """Microseconds since 1970 of an ISO 8601 text."""
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ConfigError(f"split: {name} is {value!r}: write an instant like 2018-08-08T12:00:00Z") from error
    instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    return round((instant - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)


def _iso(microseconds: int) -> str:
    return str(np.datetime64(microseconds, "us")).removesuffix(".000000")
