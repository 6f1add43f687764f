"""Seeded synthetic data: five-column transactions, and raw card transactions with customers and terminals.

Each block (a fixed number of rows; a day) has its own seed. So the rows do not depend on the chunk size, and any number
of them streams in bounded memory.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields

import numpy as np
import pandas as pd

from fraud.data.simulation_patterns import FRAUDULENT, LEGITIMATE, Pattern
from fraud.errors import ConfigError

BLOCK_ROWS = 65_536
MAX_AMOUNT = 50_000.0  # euros
MAX_DISTANCE = 20_000.0  # km: half the way round the Earth
MAX_DRIFT = 10.0
# The power-law tail of amounts (Pareto index 1 / 0.3): Reed & Jorgensen 2004, the double Pareto-lognormal distribution.
_AMOUNT_TAIL = 0.3
# One unit of drift, on legitimate rows: amounts +35 %, hours +2, device scores +0.6 log-odds.
_DRIFT_LOG_AMOUNT, _DRIFT_HOURS, _DRIFT_DEVICE_LOGIT = 0.3, 2.0, 0.6
_TABLE = np.array([astuple(p) for p in (*LEGITIMATE.values(), *FRAUDULENT.values())])

CARD_DAYS = 120  # target span of the card transactions
CARD_START = np.datetime64("2024-01-01T00:00:00", "s")
CARD_CUSTOMERS = 264  # about 500 transactions a day; the customers of cards(60_000)
_CARDS_A_DAY = 1.9  # mean transactions per customer and day
_NEARBY = 25  # terminals near home that a customer chooses from
_TAMPERED_DAYS, _LEAKED_DAYS = 28, 14
_BIG_TICKET, _TAMPERED, _LEAKED = 0.1, 0.6, 0.3  # each scenario's share of the frauds
# Probability that a transaction is fraud while its terminal, or its card, is compromised.
_TAMPERED_HIT, _LEAKED_HIT = 0.9, 1 / 3


def check_settings(rows: int, seed: int, fraud_rate: float, drift: float) -> None:
    """Raise ConfigError, naming the setting and its flag, if a setting is out of range."""
    if rows <= 0:
        raise ConfigError(f"rows (--rows) is {rows}: ask for at least 1 row")
    if seed < 0:
        raise ConfigError(f"seed (--seed) is {seed}: give a whole number that is not negative, such as 7")
    if not 0.0 < fraud_rate < 0.5:
        raise ConfigError(
            f"fraud rate (--fraud-rate) is {fraud_rate}: give a share above 0 and below 0.5, such as 0.02"
        )
    if not 0.0 <= drift <= MAX_DRIFT:
        raise ConfigError(
            f"drift (--drift) is {drift}: give a strength from 0 (no drift) to {MAX_DRIFT:g}, such as 0.5"
        )


def transactions(
    rows: int, seed: int = 7, fraud_rate: float = 0.02, drift: float = 0.0, start: int = 0
) -> pd.DataFrame:
    """Rows `start` to `start + rows` of the synthetic transactions of this seed.

    Parameters
    ----------
    rows : number of rows to return.
    seed : same seed, same rows.
    fraud_rate : probability that a row is fraud, above 0 and below 0.5.
    drift : 0 is none. One unit moves legitimate rows by amounts +35 %, hours +2, device scores +0.6 log-odds. Frauds do
        not move.
    start : first row to return; the same row has the same values for any start.

    Returns
    -------
    DataFrame, shape (rows, 6): amount (euros, 2 decimals), hour (int64 0..23), distance (km from home, 2 decimals),
    device_score (0..1, higher is riskier), country_mismatch (int64 0/1), is_fraud (int64 0/1).
    The index counts from `start`.

    Raises
    ------
    ConfigError : a setting is out of range.

    Examples
    --------
    >>> transactions(3, seed=7).shape
    (3, 6)
    >>> transactions(2, start=1).equals(transactions(3).iloc[1:])
    True
    """
    check_settings(rows, seed, fraud_rate, drift)
    if start < 0:
        raise ConfigError(f"start is {start}: the first row is row 0")
    stop = start + rows
    parts = []
    for block in range(start // BLOCK_ROWS, (stop - 1) // BLOCK_ROWS + 1):
        first = block * BLOCK_ROWS
        frame = _columns(*_draw(block, seed, fraud_rate), drift)
        parts.append(frame.iloc[max(start - first, 0) : min(stop - first, BLOCK_ROWS)])
    frame = pd.concat(parts, ignore_index=True)
    frame.index = pd.RangeIndex(start, stop)
    return frame


def iter_transactions(
    rows: int, seed: int = 7, fraud_rate: float = 0.02, drift: float = 0.0, chunk_rows: int = 4 * BLOCK_ROWS
) -> Iterator[pd.DataFrame]:
    """The rows of `transactions(rows, ...)` in frames of at most `chunk_rows`, one at a time in memory."""
    check_settings(rows, seed, fraud_rate, drift)
    for start in range(0, rows, chunk_rows):
        yield transactions(min(chunk_rows, rows - start), seed, fraud_rate, drift, start)


def patterns(rows: int, seed: int = 7, fraud_rate: float = 0.02, start: int = 0) -> np.ndarray:
    """The pattern name of each row of `transactions` with the same arguments, shape (rows,)."""
    check_settings(rows, seed, fraud_rate, 0.0)
    blocks = range(start // BLOCK_ROWS, (start + rows - 1) // BLOCK_ROWS + 1)
    kinds = np.concatenate([_draw(block, seed, fraud_rate)[0] for block in blocks])
    first = start - blocks[0] * BLOCK_ROWS
    return np.array([*LEGITIMATE, *FRAUDULENT])[kinds[first : first + rows]]


def _draw(block: int, seed: int, fraud_rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A block's patterns (row of _TABLE, shape (n,)), standard normals, shape (5, n), and uniforms, shape (2, n).

    The number of draws depends only on the block size: another drift or fraud rate changes rows instead of drawing new
    ones.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, block)))
    fraud = rng.random(BLOCK_ROWS) < fraud_rate
    pick = rng.random(BLOCK_ROWS)
    n_legitimate = len(LEGITIMATE)
    kinds = np.where(
        fraud,
        n_legitimate + np.searchsorted(_cumulative(_TABLE[n_legitimate:, 0]), pick, side="right"),
        np.searchsorted(_cumulative(_TABLE[:n_legitimate, 0]), pick, side="right"),
    )
    return kinds, rng.standard_normal((5, BLOCK_ROWS)), rng.random((2, BLOCK_ROWS))


def _cumulative(shares: np.ndarray) -> np.ndarray:
    return np.cumsum(shares)[:-1] / np.sum(shares)


def _columns(kinds: np.ndarray, normal: np.ndarray, uniform: np.ndarray, drift: float) -> pd.DataFrame:
    of = {field.name: _TABLE[:, i][kinds] for i, field in enumerate(fields(Pattern))}
    is_fraud = (kinds >= len(LEGITIMATE)).astype(np.int64)
    shift = drift * (1 - is_fraud)
    shared = normal[0]

    log_amount = np.log(of["amount"]) + of["amount_spread"] * normal[1] + of["amount_link"] * shared
    log_amount += _AMOUNT_TAIL * (-np.log1p(-uniform[0]) - math.log(2)) + _DRIFT_LOG_AMOUNT * shift
    amount = np.exp(log_amount)
    step = of["round_to"]
    stepped = step > 0
    amount[stepped] = np.maximum(np.round(amount[stepped] / step[stepped]), 1) * step[stepped]

    hour = of["hour"] + of["hour_spread"] * normal[2] + _DRIFT_HOURS * shift
    log_distance = np.log(of["distance"]) + of["distance_spread"] * normal[3] + of["distance_link"] * shared
    device = np.log(of["device"] / (1 - of["device"])) + of["device_spread"] * normal[4] + of["device_link"] * shared
    device_score = 1 / (1 + np.exp(-(device + _DRIFT_DEVICE_LOGIT * shift)))
    return pd.DataFrame(
        {
            "amount": np.round(np.clip(amount, 0.01, MAX_AMOUNT), 2),
            "hour": np.floor(hour).astype(np.int64) % 24,
            "distance": np.round(np.minimum(np.exp(log_distance), MAX_DISTANCE), 2),
            "device_score": np.round(device_score, 4),
            "country_mismatch": (uniform[1] < of["mismatch"]).astype(np.int64),
            "is_fraud": is_fraud,
        }
    )


@dataclass(frozen=True)
class _Customers:
    """Spending profiles, each of shape (n,). nearby: terminals, nearest first, shape (n, _NEARBY)."""

    daily: np.ndarray
    log_amount: np.ndarray
    amount_spread: np.ndarray
    hour: np.ndarray
    nearby: np.ndarray
    n_terminals: int


def cards(rows: int, seed: int = 7, fraud_rate: float = 0.02, drift: float = 0.0) -> pd.DataFrame:
    """Card transactions in time order, in the spirit of the Fraud Detection Handbook (Le Borgne et al., 2022).

    Customers have a home, a spending profile and favourite terminals nearby; frauds come from three scenarios. Big
    tickets: single purchases far above what is usual. Tampered terminals: for 28 days nearly every transaction there
    is fraud, with ordinary amounts. Leaked cards: for 14 days a third of a customer's transactions are made by someone
    else, anywhere, for about four times the customer's amounts. The number of customers follows `rows`, so that the
    rows span about `CARD_DAYS` days (fewer below 4,560 rows). Drift as in `transactions`, without device scores.

    Returns
    -------
    DataFrame, shape (rows, 6): TRANSACTION_ID (int64, from 0), TX_DATETIME (datetime64[s], UTC), CUSTOMER_ID (int64),
    TERMINAL_ID (int64), TX_AMOUNT (euros, 2 decimals), TX_FRAUD (int64 0/1; about `fraud_rate` of the rows).

    Raises
    ------
    ConfigError : a setting is out of range.

    Examples
    --------
    >>> cards(1000).TX_DATETIME.is_monotonic_increasing
    True
    """
    return pd.concat(iter_cards(rows, seed, fraud_rate, drift), ignore_index=True)


def iter_cards(rows: int, seed: int = 7, fraud_rate: float = 0.02, drift: float = 0.0) -> Iterator[pd.DataFrame]:
    """The rows of `cards(rows, ...)`, one frame per day. Memory holds one day and the customers."""
    check_settings(rows, seed, fraud_rate, drift)
    made = 0
    for frame in iter_card_days(0, max(20, math.ceil(rows / (CARD_DAYS * _CARDS_A_DAY))), seed, fraud_rate, drift):
        frame = frame.iloc[: rows - made]
        frame.insert(0, "TRANSACTION_ID", np.arange(made, made + len(frame)))
        made += len(frame)
        yield frame
        if made >= rows:
            return


def iter_card_days(
    first: int, n_customers: int, seed: int = 7, fraud_rate: float = 0.02, drift: float = 0.0
) -> Iterator[pd.DataFrame]:
    """The days of a world of `n_customers`, without end, from day `first` on (0 is CARD_START), as `cards` without ids.

    A day has the same rows for any `first`: which terminals and cards are compromised depends on the weeks before it,
    and these are drawn again. Raises ConfigError for a day before day 0.
    """
    if first < 0:
        raise ConfigError(f"day {first} of the synthetic cards is before day 0, {CARD_START.astype('M8[D]')}")
    customers = _customers(n_customers, seed)
    tampered_until = np.full(customers.n_terminals, -1)
    leaked_until = np.full(customers.daily.size, -1)
    new_tampered = _daily_hazard(_TAMPERED * fraud_rate / _TAMPERED_HIT, _TAMPERED_DAYS)
    new_leaked = _daily_hazard(_LEAKED * fraud_rate / _LEAKED_HIT, _LEAKED_DAYS)
    before = max(_TAMPERED_DAYS, _LEAKED_DAYS)
    for day in itertools.count(first - before):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, day + before)))
        tampered_until[rng.random(tampered_until.size) < new_tampered] = day + _TAMPERED_DAYS
        leaked_until[rng.random(leaked_until.size) < new_leaked] = day + _LEAKED_DAYS
        if day >= first:
            yield _card_day(rng, day, customers, tampered_until > day, leaked_until > day, fraud_rate, drift)


def with_day_ids(day: dt.date, frame: pd.DataFrame) -> pd.DataFrame:
    """A day's transactions with ids that no other day has, whichever days are made."""
    ids = int(f"{day:%Y%m%d}") * 1_000_000 + np.arange(len(frame))
    return frame.assign(TRANSACTION_ID=ids)[["TRANSACTION_ID", *frame]]


def _daily_hazard(share: float, days: int) -> float:
    """Daily probability of compromise that keeps a `share` of all compromised, if each lasts `days` days."""
    return 1 - (1 - share) ** (1 / days)


def _customers(n: int, seed: int) -> _Customers:
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    n_terminals = max(2 * n, _NEARBY)
    homes, terminals = rng.random((n, 2)), rng.random((n_terminals, 2))
    is_nocturnal = rng.random(n) < 0.06
    return _Customers(
        daily=rng.gamma(3.0, _CARDS_A_DAY / 3.0, n),
        log_amount=np.log(32) + 0.55 * rng.standard_normal(n),
        amount_spread=rng.uniform(0.3, 0.6, n),
        hour=np.where(is_nocturnal, 1.0, 13.5) + 2.0 * rng.standard_normal(n),
        nearby=cKDTree(terminals).query(homes, k=_NEARBY)[1],
        n_terminals=n_terminals,
    )


def _card_day(
    rng: np.random.Generator,
    day: int,
    customers: _Customers,
    is_tampered: np.ndarray,
    is_leaked: np.ndarray,
    fraud_rate: float,
    drift: float,
) -> pd.DataFrame:
    """One day's transactions in time order. `is_tampered`: bool, shape (n_terminals,); `is_leaked`: (n_customers,)."""
    date = CARD_START + np.timedelta64(day, "D")
    busy = (1.0, 0.95, 0.95, 1.0, 1.1, 1.15, 0.85)[(day + CARD_START.astype("datetime64[D]").astype(int) + 3) % 7]
    who = np.repeat(np.arange(customers.daily.size), rng.poisson(busy * customers.daily))
    n = who.size
    u, z = rng.random((6, n)), rng.standard_normal((3, n))

    leaked = is_leaked[who] & (u[0] < _LEAKED_HIT)
    anywhere = leaked | (u[1] < 0.04)
    favourite = customers.nearby[who, (_NEARBY * u[2] ** 2).astype(np.int64)]
    terminal = np.where(anywhere, (u[3] * customers.n_terminals).astype(np.int64), favourite)
    tampered = is_tampered[terminal] & (u[4] < _TAMPERED_HIT)
    big = u[5] < _BIG_TICKET * fraud_rate
    fraud = leaked | tampered | big

    shift = drift * ~fraud
    log_amount = customers.log_amount[who] + customers.amount_spread[who] * z[0] + _DRIFT_LOG_AMOUNT * shift
    log_amount = np.where(leaked, log_amount + math.log(4), log_amount)
    log_amount = np.where(big, math.log(240) + 0.5 * np.abs(z[1]), log_amount)
    hour = (customers.hour[who] + 3.2 * z[2] + _DRIFT_HOURS * shift) % 24
    frame = pd.DataFrame(
        {
            "TX_DATETIME": date + np.minimum(hour * 3600, 86_399).astype("timedelta64[s]"),
            "CUSTOMER_ID": who,
            "TERMINAL_ID": terminal,
            "TX_AMOUNT": np.round(np.clip(np.exp(log_amount), 0.01, MAX_AMOUNT), 2),
            "TX_FRAUD": fraud.astype(np.int64),
        }
    )
    return frame.sort_values("TX_DATETIME", kind="stable", ignore_index=True)
