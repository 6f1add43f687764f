"""Describe a column's most unusual feature in one sentence, in the units of the data.

"Usually" is the median, or the most frequent level, of the training rows. The mean in a sentence about a z-score or a
ratio is computed from the features: the window's `mean` if declared, else the row's value divided by its `ratio`, else
it is omitted. So the sentence needs no access to the history, and batches and requests give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fraud.detectors import kernels
from fraud.detectors.features import CALENDAR_WIDTH, MICROSECONDS_A_DAY, FeatureMap, calendar
from fraud.history.definition import feature_statistics, plans
from fraud.history.kernels import LARGEST_RATIO
from fraud.schema import Schema
from fraud.schema.columns import History
from fraud.schema.zone import zone_of
from fraud.scoring.reason_numbers import as_given, duration, percent, plural, rounded

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Description(NamedTuple):
    """Description of a feature; see fraud.scoring.reasons.Reason."""

    feature: str
    value: float | str | None
    typical: float | str | None
    text: str


@dataclass(frozen=True)
class _Item:
    """A describable feature.

    raw: indices of its raw features (two for a cycle). kind: of the column, part of the calendar, or "history", with
    entry, statistic and window.
    """

    name: str
    column: str
    kind: str
    raw: tuple[int, ...]
    entry: History | None = None
    statistic: str = ""
    window: str = ""


class Describer:
    """Describes the features of a row. Safe to share between threads."""

    def __init__(self, schema: Schema, features: FeatureMap) -> None:
        self._schema, self._features, self._zone = schema, features, zone_of(schema)
        items = _items(schema, features)
        self._of_column = [
            [item for item in items if features.columns[item.raw[0]] == column]
            for column in dict.fromkeys(features.columns)
        ]
        kinds, scale = features.kinds.tolist(), features.scale.tolist()
        usual = [_transformed(x, kind) for x, kind in zip(features.typical.tolist(), kinds, strict=True)]
        self._measures = [
            self._surprises(j) if kind == kernels.LOOKUP else (kind, usual[j], scale[j]) for j, kind in enumerate(kinds)
        ]
        self._raw_of_item = {(item.entry, item.statistic, item.window): item.raw[0] for item in items if item.entry}
        self._position = {name: j for j, name in enumerate(features.names)}
        self._memory = {plan.column: plan.memory / 1e6 for plan in plans(schema)}

    def describe(self, column: int, raw: Sequence[float], row: Mapping[str, object], now: float) -> Description:
        """Describe the most unusual feature of a column. column: its index.

        raw: the row's raw features, n_raw numbers; row: values by column; now: microseconds since 1970.
        """
        item = self._most_unusual(self._of_column[column], raw)
        value, typical = raw[item.raw[0]], _short(self._features.typical[item.raw[0]])
        if item.entry is not None:
            value = _short(value)  # history is stored in float32
            return Description(item.name, _number(value), typical, self._history(item, value, typical, raw, row))
        if item.kind == "categorical":
            return self._category(item, value, typical, row)
        if item.kind in CALENDAR_WIDTH:
            return self._calendar(item, typical, now)
        show = _true_or_false if item.kind == "boolean" else as_given
        if math.isnan(value):
            text = f"{item.column} is missing (usually {show(typical)})"
        elif item.kind == "boolean":
            text = f"{item.column} is {show(value)} (usually {show(typical)})"
        else:
            text = f"{item.column} {show(value)} is {_against(value, typical, show(typical))}"
        return Description(item.name, _number(value), typical, text)

    def _most_unusual(self, items: list[_Item], raw: Sequence[float]) -> _Item:
        """The item farthest from typical; of its statistic's windows the longest that is at least half as far.

        Long windows are more informative: a z-score in an hour often compares with a single transaction.
        """
        if len(items) == 1:
            return items[0]
        distances = [self._distance(item, raw) for item in items]
        farthest = max(distances)
        item_of_farthest = items[distances.index(farthest)]
        if not item_of_farthest.window:
            return item_of_farthest
        same = (item_of_farthest.entry, item_of_farthest.statistic)
        return [
            item
            for item, distance in zip(items, distances, strict=True)
            if (item.entry, item.statistic) == same and distance >= farthest / 2.0
        ][-1]

    def _distance(self, item: _Item, raw: Sequence[float]) -> float:
        """Distance from the typical row in standard deviations; infinite if missing."""
        square = 0.0
        for j in item.raw:
            x, measure = raw[j], self._measures[j]
            if x != x:
                return math.inf
            if isinstance(measure, tuple):
                kind, usual, scale = measure
                square += ((_transformed(x, kind) - usual) / scale) ** 2
            else:
                square += measure[int(x)] ** 2
        return math.sqrt(square)

    def _surprises(self, j: int) -> list[float]:
        """Surprise of each level relative to the usual one; the unknown level is last."""
        f = self._features
        surprise = f.tables[f.offsets[j] : f.offsets[j] + f.levels[j] + 1, 0]
        return (surprise - surprise[int(f.typical[j])]).tolist()

    def _category(self, item: _Item, code: float, typical: float, row: Mapping[str, object]) -> Description:
        j, value = item.raw[0], row.get(item.column)
        levels = self._features.categories[item.column]
        usual = levels[int(typical)] if int(typical) < len(levels) else None
        usually = f" (usually {usual!r})" if usual is not None else ""
        if _is_missing(value):
            return Description(item.name, None, usual, f"{item.column} is missing{usually}")
        share = float(self._features.shares[self._features.offsets[j] + int(code)]) if code < len(levels) else 0.0
        often = percent(share) if share > 0 else "none"
        text = f"{item.column} {str(value)!r} appears in {often} of the training rows{usually}"
        return Description(item.name, str(value), usual, text)

    def _calendar(self, item: _Item, typical: float, now: float) -> Description:
        if math.isnan(now):
            return Description(item.name, None, None, f"{item.column} is missing")
        local = int(self._zone.local_us(np.array([now]))[0])
        days = local / MICROSECONDS_A_DAY
        at_night = bool(calendar(np.array([days]), ("night",))[0, 0])
        minutes = local % int(MICROSECONDS_A_DAY) // 60_000_000  # as fractions of a day, 11:00 is 10:59
        clock, day = f"{minutes // 60:02d}:{minutes % 60:02d}", _WEEKDAYS[int(math.floor(days) + 3) % 7]
        if item.kind in ("weekday", "weekend"):
            usual = None if item.kind == "weekday" else ("a weekend" if typical else "a weekday")
            return Description(item.name, day, usual, f"on a {day}" + (f" (usually on {usual})" if usual else ""))
        text = f"at {clock}" + (", at night" if at_night else "")
        if item.kind == "night":
            usual = "at night" if typical else "by day"
            return Description(item.name, "at night" if at_night else "by day", usual, f"{text} (usually {usual})")
        # The medians of sine and cosine give the usual hour; if both are near 0, there is none.
        sine, cosine = (float(self._features.typical[j]) for j in item.raw)
        if math.hypot(sine, cosine) < 0.1:
            return Description(item.name, clock, None, text)
        hour = f"{round(math.atan2(sine, cosine) / math.tau * 24.0) % 24:02d}:00"
        return Description(item.name, clock, hour, f"{text} (usually about {hour})")

    def _history(self, item: _Item, x: float, typical: float, raw: Sequence[float], row: Mapping[str, object]) -> str:
        entry, statistic = item.entry, item.statistic
        assert entry is not None
        if _is_missing(row.get(entry.entity)):
            return f"{entry.entity} is missing, so its past is not known"
        whose, last = f"this {entry.entity}", f"in the last {item.window}"
        if statistic in ("ratio", "zscore"):
            return self._comparison(item, x, typical, raw)
        if statistic == "count":
            return f"{plural(x, 'earlier transaction')} of {whose} {last} (usually {rounded(typical)})"
        if statistic in ("sum", "mean", "std", "max"):
            noun = {"sum": "total", "mean": "mean", "std": "standard deviation of", "max": "largest"}[statistic]
            against = _against(x, typical, rounded(typical))
            return f"{whose}'s {noun} {entry.value} {last} is {rounded(x)}, {against}"
        if statistic == "distinct":
            values = plural(x, f"different value of {entry.of}", f"different values of {entry.of}")
            return f"{values} for {whose} {last} (usually {rounded(typical)})"
        if statistic == "first_seen":
            seen = "first time within" if x else "seen before within"
            return f"{seen} {item.window} that {whose} is seen with this {entry.of}"
        if statistic in ("risk", "frauds"):
            return self._risk(item, x, typical, raw)
        if statistic == "time_since_last":
            longest = self._memory[entry.entity]
            usual = f"{duration(typical)} or more" if typical >= longest else duration(typical)
            if x >= longest:
                return f"no earlier transaction of {whose} in the last {duration(longest)} (usually {usual} ago)"
            return f"{duration(x)} after the last transaction of {whose} (usually {usual})"
        unit = "km/h" if statistic == "speed_from_last" else "km"
        return f"{rounded(x)} {unit} from the last place of {whose} (usually {rounded(typical)} {unit})"

    def _risk(self, item: _Item, x: float, typical: float, raw: Sequence[float]) -> str:
        assert item.entry is not None
        delay, whose = self._schema.label_delay_days, f"this {item.entry.entity}"
        ago = f"in a {item.window} window, {plural(delay, 'day')} ago or earlier"
        when = ago if delay else f"in the last {item.window}"
        if item.statistic == "frauds":
            return f"{plural(x, 'known fraud')} of {whose} {when} (usually {rounded(typical)})"
        usually = f"(usually {percent(typical)})"
        if x == 0:
            return f"no known fraud of {whose} {when} {usually}"
        # The risk counts one extra legitimate transaction; with the number of frauds, the exact share follows.
        position = self._raw_of_item.get((item.entry, "frauds", item.window))
        share = f"at least {percent(x)}"
        if position is not None:
            frauds = raw[position]
            among = round(frauds / x) - 1
            share = f"{percent(frauds / among)} ({rounded(frauds)} of {rounded(among)})"
        return f"{share} of {whose}'s transactions {when}{',' if delay else ''} were fraud {usually}"

    def _comparison(self, item: _Item, x: float, typical: float, raw: Sequence[float]) -> str:
        """Describe a ratio or z-score: the row's value against the window's mean."""
        entry = item.entry
        assert entry is not None and entry.value is not None
        value = raw[self._position[entry.value]]
        whose = f"this {entry.entity}'s {item.window} mean"
        if math.isnan(value):
            return f"{entry.value} is missing (usually {as_given(self._features.typical[self._position[entry.value]])})"
        what = f"{entry.value} {as_given(value)}"
        if x == (1.0 if item.statistic == "ratio" else 0.0):
            return f"{what} equals {whose}, or is its first in {item.window}"
        mean = self._window_mean(item, value, raw)
        of_mean = f"{whose} of {rounded(mean)}" if mean is not None else whose
        if item.statistic == "zscore":
            return f"{what} is {rounded(abs(x))} σ {'above' if x > 0 else 'below'} {of_mean}"
        return f"{what} is {rounded(x)} times {of_mean} (usually {rounded(typical)})"

    def _window_mean(self, item: _Item, value: float, raw: Sequence[float]) -> float | None:
        """The mean of the item's window, from any entry with `mean` or `ratio`."""
        assert item.entry is not None
        for source in ("mean", "ratio"):
            for (entry, statistic, window), j in self._raw_of_item.items():
                same = (entry.entity, entry.value) == (item.entry.entity, item.entry.value)
                if not same or statistic != source or window != item.window:
                    continue
                x = raw[j]
                if source == "mean":
                    return x
                if value and x and x != 1.0 and abs(x) < LARGEST_RATIO:
                    return value / x
        return None


def _items(schema: Schema, features: FeatureMap) -> list[_Item]:
    items = [_Item(c.name, c.name, c.kind, (j,)) for j, c in enumerate(schema.features)]
    j = len(items)
    if schema.timestamp is not None:
        for part in schema.timestamp.calendar:
            width = CALENDAR_WIDTH[part]
            items.append(
                _Item(f"{schema.timestamp.name} {part}", schema.timestamp.name, part, tuple(range(j, j + width)))
            )
            j += width
    for entry, statistic, window in feature_statistics(schema):
        items.append(_Item(features.names[j], features.columns[j], "history", (j,), entry, statistic, window))
        j += 1
    return items


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _is_missing(value: object) -> bool:
    return value is None or value != value or str(value) == "<NA>"


def _true_or_false(value: float) -> str:
    return "true" if value else "false"


def _short(x: float) -> float:
    """Remove the rounding noise of float32, the type of the history."""
    return float(f"{x:.7g}")


def _transformed(x: float, kind: int) -> float:
    if kind == kernels.LOG:
        return math.log1p(max(x, 0.0))
    return math.copysign(math.log1p(abs(x)), x) if kind == kernels.SIGNED_LOG else x


def _against(value: float, typical: float, shown: str) -> str:
    return f"the usual {shown}" if value == typical else f"{'above' if value > typical else 'below'} the usual {shown}"
