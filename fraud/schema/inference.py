"""Guess a schema from a stranger's table: what each column is, and in its description why, and what to check."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fraud.errors import SchemaError
from fraud.schema.columns import LARGEST_NUMBER, OLDEST_DATE, Column, History, Statistic, Unit
from fraud.schema.contract import Schema
from fraud.schema.values import EARLIEST, LATEST, convert

LABEL_NAMES = ("is_fraud", "isfraud", "tx_fraud", "fraud", "fraud_flag", "is_fraudulent", "fraudulent", "chargeback")
VAGUE_LABEL_NAMES = ("class", "label", "target", "y", "outcome")
_ID_WORDS = {"id", "uuid", "guid", "num", "number", "no", "nr", "key", "ref", "reference", "index"}
_HOLDER_WORDS = {"customer", "client", "card", "cc", "account", "acct", "user", "payer", "sender", "holder", "member"}
_PLACE_WORDS = {"terminal", "merchant", "device", "receiver", "payee", "recipient", "shop", "store", "ip", "atm"}
_ENTITY_WORDS = _HOLDER_WORDS | _PLACE_WORDS | {"email", "phone", "iban"}
_TIME_WORDS = {"time", "timestamp", "datetime", "date", "unix", "epoch", "ts", "step", "days", "seconds"}
_BIRTH_WORDS = {"dob", "birth", "birthday", "born"}
_CODE_WORDS = {"zip", "postal", "postcode", "code", "mcc", "type"}
_AMOUNT_WORDS = {"amount", "amt", "value", "price", "total"}
_SHARE_WORDS = {"score", "probability", "prob", "ratio", "rate", "share", "fraction", "pct"}
_WINDOWS = ("1d", "7d", "30d")
# Numbers with a natural range, whatever the sample.
_NATURAL = {"hour": (0, 23), "weekday": (0, 6), "lat": (-90, 90), "latitude": (-90, 90)}
_NATURAL |= {"long": (-180, 180), "lon": (-180, 180), "lng": (-180, 180), "longitude": (-180, 180)}
_MOST_CATEGORIES = 1_000
_LONGEST_QUANTITY = 1e12  # a longer whole number is a card or account number
_MANY_ROWS_AN_ENTITY = 2.0
_EPOCHS: tuple[tuple[float, Unit], ...] = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (0.0, "s"))

_A_SECOND: dict[Unit, float] = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class _Facts:
    """Statistics of one column. numbers: float64, without missing values; None for text."""

    name: str
    words: frozenset[str]
    distinct: int
    rows: int
    nullable: bool
    numbers: np.ndarray | None
    is_whole: bool
    is_time: bool
    is_flag: bool

    @property
    def unique(self) -> bool:
        return self.distinct == self.rows

    @property
    def summary(self) -> str:
        return f"{self.distinct:,} distinct values in {self.rows:,} rows"

    def has(self, words: Iterable[str]) -> bool:
        return not self.words.isdisjoint(words)


def infer(frame: pd.DataFrame, name: str) -> Schema:
    """Guess the schema of `frame`, shape (n_rows, n_columns), n_rows >= 1; call it `name`.

    Only natural limits are set (at least 0, 0 to 1, an hour, a latitude), not the sample's maximum. Raises
    SchemaError if no column is left to learn from.
    """
    if frame.empty:
        raise SchemaError(f"cannot guess a schema for {name!r} from an empty table; give at least one row")
    frame = frame.rename(columns=str)
    facts = {column: _facts_of(frame[column], column) for column in frame.columns}
    label = _label_of(facts)
    time = _time_of(facts, label)
    row_id = _id_of(facts, {label, time})
    columns: list[Column] = []
    ignored: dict[str, str] = {}
    for fact in facts.values():
        if fact.name == label:
            columns.append(_label(fact))
        elif fact.name == time:
            columns.append(_timestamp(fact, frame[time]))
        elif fact.name == row_id:
            text = f"Guessed: names the row, unique ({fact.summary}). Check that it will stay unique."
            columns.append(Column(name=fact.name, kind="id", description=text))
        else:
            guess = _guess(fact, frame[fact.name], has_time=time is not None)
            if isinstance(guess, Column):
                columns.append(guess)
            else:
                ignored[fact.name] = guess
    history = _history(columns)
    delay = 7.0 if any("risk" in part.statistics for part in history) else 0.0
    text = f"Guessed from {len(frame):,} rows: read every description, then rewrite it."
    text += "" if label else " No label was found: a column of 0 and 1 called is_fraud, fraud, class, label or target."
    text += "" if time else " No time was found: rows count as being in order of time."
    text += " label_delay_days 7 is an assumption." if delay else ""
    if ignored:
        text += " Left out: " + "; ".join(f"{column} ({why})" for column, why in ignored.items()) + "."
    return Schema(
        name=name,
        columns=tuple(columns),
        description=text,
        history=history,
        label_delay_days=delay,
        ignore=tuple(ignored),
    )


def written(description: str) -> str:
    """The description if a person wrote it; "" for a guess of `infer`, which quotes the data."""
    return "" if description.startswith("Guessed") else description


def _facts_of(series: pd.Series, name: str) -> _Facts:
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    absent = series.isna().to_numpy()
    present = series[~absent]
    try:
        distinct = int(present.nunique())
    except TypeError:  # lists and the like
        present = present.astype("str")
        distinct = int(present.nunique())
    numbers = None
    if pd.api.types.is_numeric_dtype(present.dtype):
        numbers = present.to_numpy(dtype=np.float64)
        numbers = numbers[np.isfinite(numbers)]
    return _Facts(
        name=name,
        words=frozenset(_words(name)),
        distinct=distinct,
        rows=len(present),
        nullable=bool(absent.any()),
        numbers=numbers,
        is_whole=numbers is not None and bool((numbers == np.floor(numbers)).all()),
        is_time=numbers is None and _reads_as_time(present, name),
        is_flag=distinct == 2 and not convert(present, Column(name=name, kind="boolean")).faults,
    )


def _reads_as_time(present: pd.Series, name: str) -> bool:
    if pd.api.types.is_datetime64_any_dtype(present.dtype):
        return True
    few = present.iloc[:: max(1, len(present) // 1_000)]
    if few.empty:
        return False
    faults = convert(few, Column(name=name, kind="timestamp")).faults
    return sum(int(fault.mask.sum()) for fault in faults) <= 0.05 * len(few)


def _label_of(facts: dict[str, _Facts]) -> str | None:
    by_name = {name.lower(): name for name in facts if facts[name].is_flag or _is_one_class(facts[name])}
    return next((by_name[name] for name in LABEL_NAMES + VAGUE_LABEL_NAMES if name in by_name), None)


def _is_one_class(fact: _Facts) -> bool:
    return fact.distinct == 1 and fact.numbers is not None and bool(np.isin(fact.numbers, (0, 1)).all())


def _time_of(facts: dict[str, _Facts], label: str | None) -> str | None:
    """The column of dates, else of rising numbers named like a time, with the most distinct values."""
    dates = [fact for fact in facts.values() if fact.is_time and not fact.has(_BIRTH_WORDS)]
    if not dates:
        dates = [fact for fact in facts.values() if fact.name != label and _counts_time(fact)]
    return max(dates, key=lambda fact: fact.distinct).name if dates else None


def _counts_time(fact: _Facts) -> bool:
    if fact.numbers is None or not fact.has(_TIME_WORDS) or len(fact.numbers) < 2:
        return False
    rising = bool((np.diff(fact.numbers) >= 0).mean() > 0.99)
    return (rising or fact.numbers.min() > 1e8) and fact.numbers.min() >= 0 and fact.distinct > 1


def _id_of(facts: dict[str, _Facts], taken: set[str | None]) -> str | None:
    candidates = [
        fact
        for fact in facts.values()
        if fact.name not in taken and fact.rows > 1 and fact.unique and not fact.nullable and not fact.is_time
        if fact.numbers is None or (fact.is_whole and fact.has(_ID_WORDS))
    ]
    named = [fact for fact in candidates if fact.has(_ID_WORDS)]
    return (named or candidates)[0].name if candidates else None


def _label(fact: _Facts) -> Column:
    text = "Guessed from its name and its two values. Check that 1 (or true) means fraud."
    if fact.distinct == 1:
        text = "Guessed from its name, though the sample holds one class only. Check that 1 (or true) means fraud."
    return Column(name=fact.name, kind="label", description=text)


def _timestamp(fact: _Facts, series: pd.Series) -> Column:
    column = Column(name=fact.name, kind="timestamp", nullable=fact.nullable)
    text = "Guessed: the time of the transaction. Times without a zone are taken as UTC: check that they are."
    if fact.numbers is not None:
        unit, n_dates = _unit_of(fact.numbers)
        column = replace(column, unit=unit, oldest=OLDEST_DATE.isoformat() if n_dates else None)
        text = f"Guessed: numbers that count {unit} up to {fact.numbers.max():.0f}. Check the unit and where hour 0 is."
        if n_dates and (odd := len(fact.numbers) - n_dates):
            text += f" {odd:,} of {len(fact.numbers):,} are no dates since {OLDEST_DATE.year} in {unit}, and refused."
    times = pd.Series(convert(series.dropna(), column).values)
    times = times[(times >= EARLIEST) & (times < LATEST)]
    daily = len(times) > 1 and times.max() - times.min() >= pd.Timedelta(days=1) and times.dt.hour.nunique() > 1
    return replace(column, description=text, calendar=("hour",) if daily else ())


def _unit_of(numbers: np.ndarray) -> tuple[Unit, int]:
    """The unit of numeric times, and how many are plausible dates in it (0: they count from another origin).

    Plausible dates are from `OLDEST_DATE` to now. If the unit changes in the data, the more common one is returned.
    """
    first = dt.datetime.combine(OLDEST_DATE, dt.time(), dt.UTC).timestamp()
    last = dt.datetime.now(dt.UTC).timestamp() + 86_400
    counts = {
        unit: int(((numbers >= first * a_second) & (numbers <= last * a_second)).sum())
        for unit, a_second in _A_SECOND.items()
    }
    if sum(counts.values()) > len(numbers) / 2:
        unit = max(counts, key=lambda unit: counts[unit])
        return unit, counts[unit]
    return next(unit for floor, unit in _EPOCHS if numbers.max() >= floor), 0


def _guess(fact: _Facts, series: pd.Series, *, has_time: bool) -> Column | str:
    """The guessed column, or the reason to ignore it."""
    common: dict[str, Any] = {"name": fact.name, "nullable": fact.nullable}
    if fact.rows == 0:
        return "always empty"
    if fact.distinct == 1 and len(series) > 1:
        return "one value only"
    if "fraud" in fact.words or "chargeback" in fact.words:
        return "its name says that it is known only after the label"
    if fact.is_time or fact.has(_BIRTH_WORDS):
        return "a date beside the time of the transaction"
    if has_time and _counts_time(fact):
        return "rises with the time of the transaction"
    if "unnamed" in fact.words or fact.name == "":
        return "a row number without a name"
    repeats = fact.rows >= _MANY_ROWS_AN_ENTITY * fact.distinct
    long_numbers = fact.numbers is not None and fact.is_whole and bool((np.abs(fact.numbers) > _LONGEST_QUANTITY).any())
    codes = (
        fact.numbers is None or long_numbers or (fact.is_whole and fact.has(_ID_WORDS | _ENTITY_WORDS | _CODE_WORDS))
    )
    if codes and not fact.is_flag:
        if fact.unique and fact.rows > 1 and not fact.has(_ENTITY_WORDS):
            return "a second column of unique values"
        named = long_numbers or fact.has(_ID_WORDS) or (fact.has(_ENTITY_WORDS) and fact.numbers is not None)
        if named or (fact.has(_ENTITY_WORDS) and fact.distinct > _MOST_CATEGORIES):
            text = f"Guessed: someone or something that comes back ({fact.summary}). Check that its history matters."
            return Column(kind="entity", description=text, **common)
        if fact.distinct > _MOST_CATEGORIES or not (repeats or fact.rows < 100):
            return f"text or codes, {fact.summary}: make it an entity or categorical if it matters"
        text = (
            f"Guessed: a category ({fact.summary}); new values are accepted. List `categories` if no others may come."
        )
        example = "" if fact.numbers is not None else str(series.dropna().mode().iloc[0]).strip()
        return Column(kind="categorical", description=text, example=example or None, **common)
    if fact.is_flag:
        text = "Guessed from its two values. Say what true means."
        return Column(kind="boolean", description=text, example=0, **common)
    return _number(fact, common)


def _number(fact: _Facts, common: dict[str, Any]) -> Column:
    numbers = np.zeros(1) if fact.numbers is None or not len(fact.numbers) else fact.numbers
    low, high, middle = float(numbers.min()), float(numbers.max()), float(np.sort(numbers)[len(numbers) // 2])
    minimum, maximum = (0.0 if low >= 0 else None), None
    limits = ""
    natural = next((_NATURAL[word] for word in sorted(fact.words) if word in _NATURAL), None)
    if natural is not None and natural[0] <= low and high <= natural[1]:
        minimum, maximum = float(natural[0]), float(natural[1])
        limits = f" {natural[0]} to {natural[1]} follows from its name."
    elif low >= 0 and high <= 1 and not fact.is_whole and (fact.has(_SHARE_WORDS) or (low < 0.05 and high > 0.95)):
        minimum, maximum, limits = 0.0, 1.0, " A share: 0 to 1."
    elif minimum is not None:
        limits = " No negative value was seen: check that none may come."
    skewed = maximum is None and low >= 0 and high > 20 * max(middle, 1e-9)
    transform = "log" if minimum == 0 and maximum is None and (skewed or fact.has(_AMOUNT_WORDS)) else "none"
    why = " Values span orders of magnitude, so their log is used." if transform == "log" else ""
    return Column(
        kind="numeric",
        minimum=minimum,
        maximum=maximum,
        integer=fact.is_whole and not fact.has(_AMOUNT_WORDS) and fact.distinct > 1,
        transform=transform,  # type: ignore[arg-type]
        example=round(middle, 4) if abs(middle) <= LARGEST_NUMBER else None,
        description=f"Guessed: a number, seen from {low:.6g} to {high:.6g}.{limits}{why}",
        **common,
    )


def _history(columns: list[Column]) -> tuple[History, ...]:
    """Amounts compared with the holder's past; recent risk of terminals and merchants."""
    kinds = {column.kind for column in columns}
    amounts = [column.name for column in columns if column.kind == "numeric" and _words(column.name) & _AMOUNT_WORDS]
    if "timestamp" not in kinds:
        return ()
    history = []
    for column in columns:
        if column.kind != "entity":
            continue
        if _words(column.name) & _HOLDER_WORDS and amounts:
            usual: tuple[Statistic, ...] = ("count", "mean", "ratio", "zscore")
            history.append(History(entity=column.name, windows=_WINDOWS, value=amounts[0], statistics=usual))
        elif _words(column.name) & _PLACE_WORDS and "label" in kinds:
            history.append(History(entity=column.name, windows=_WINDOWS, statistics=("count", "risk")))
    return tuple(history)


def _words(name: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return {word for word in re.split(r"[^a-z]+", spaced) if word}
