"""The synthetic data is reproducible, free of chunk borders, and neither trivial nor hopeless to detect fraud in."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fraud.data.simulation import (
    BLOCK_ROWS,
    CARD_DAYS,
    cards,
    iter_card_days,
    iter_cards,
    iter_transactions,
    patterns,
    transactions,
)
from fraud.data.simulation_patterns import FRAUDULENT, LEGITIMATE
from fraud.errors import ConfigError
from fraud.schema import Schema, validate

FEATURES = ["amount", "hour", "distance", "device_score", "country_mismatch"]

GOLDEN_TRANSACTIONS = [
    [27.29, 16.0, 0.65, 0.0273, 0.0, 0.0],
    [41.4, 20.0, 2.74, 0.0212, 0.0, 0.0],
    [141.73, 13.0, 4.48, 0.1924, 0.0, 0.0],
]
GOLDEN_CARDS = [
    [0, "2024-01-01 06:44:01", 7, 5, 83.81, 0],
    [1, "2024-01-01 07:52:31", 9, 0, 40.92, 0],
    [2, "2024-01-01 08:37:54", 18, 5, 9.24, 0],
]


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return transactions(30_000)


@pytest.fixture(scope="module")
def test() -> pd.DataFrame:
    return transactions(30_000, start=500_000)


def inputs(frame: pd.DataFrame) -> np.ndarray:
    return frame[FEATURES].assign(amount=np.log1p(frame.amount), distance=np.log1p(frame.distance)).to_numpy(float)


def test_columns_ranges_and_rounding(train: pd.DataFrame) -> None:
    assert list(train.columns) == [*FEATURES, "is_fraud"]
    assert train.notna().all().all()
    assert train.amount.between(0.01, 1e6).all()
    assert (train.distance >= 0).all()
    assert train.device_score.between(0, 1).all()
    assert set(train.hour) == set(range(24))
    assert set(train.country_mismatch) == {0, 1}
    assert set(train.is_fraud) == {0, 1}
    assert np.array_equal(train.amount, train.amount.round(2))
    assert all(pd.api.types.is_integer_dtype(train[name]) for name in ("hour", "country_mismatch", "is_fraud"))


def test_same_seed_same_rows_and_another_seed_other_rows(train: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(transactions(30_000), train)
    assert not np.array_equal(transactions(30_000, seed=8).amount, train.amount)


def test_known_rows_have_not_changed() -> None:
    # Golden values: a change here changes every published figure on synthetic data, and needs a line in the changelog.
    first = transactions(3).round(4).to_numpy().tolist()
    assert first == GOLDEN_TRANSACTIONS


@pytest.mark.parametrize("chunk_rows", [1_000_003, BLOCK_ROWS, 50_001])
def test_rows_do_not_depend_on_chunks(chunk_rows: int) -> None:
    rows = 2 * BLOCK_ROWS + 17
    chunks = list(iter_transactions(rows, chunk_rows=chunk_rows))
    assert all(len(chunk) <= chunk_rows for chunk in chunks)
    pd.testing.assert_frame_equal(pd.concat(chunks), transactions(rows))


def test_a_slice_across_a_block_border_is_the_same_rows() -> None:
    rows = transactions(BLOCK_ROWS + 10)
    pd.testing.assert_frame_equal(transactions(20, start=BLOCK_ROWS - 10), rows.iloc[-20:])


def test_blocks_differ() -> None:
    assert not np.array_equal(transactions(100).amount, transactions(100, start=BLOCK_ROWS).amount)


@pytest.mark.parametrize("fraud_rate", [0.005, 0.02, 0.2])
def test_the_fraud_rate_is_kept(fraud_rate: float) -> None:
    assert transactions(200_000, fraud_rate=fraud_rate).is_fraud.mean() == pytest.approx(fraud_rate, rel=0.1)


def test_every_pattern_occurs_in_its_share(train: pd.DataFrame) -> None:
    names = patterns(30_000)
    fraud = train.is_fraud == 1
    for group, rows in ((LEGITIMATE, names[~fraud]), (FRAUDULENT, names[fraud])):
        assert set(rows) == set(group)
        for name, pattern in group.items():
            assert np.mean(rows == name) == pytest.approx(pattern.share, abs=0.05)
    assert sum(p.share for p in LEGITIMATE.values()) == pytest.approx(1)
    assert sum(p.share for p in FRAUDULENT.values()) == pytest.approx(1)


def test_patterns_look_like_their_names() -> None:
    rows = transactions(200_000)
    by = dict(list(rows.groupby(patterns(200_000))))
    assert by["card testing"].amount.median() < 3
    assert by["card testing"].hour.between(0, 7).mean() > 0.9
    assert by["account takeover"].amount.median() > 300
    assert by["impossible travel"].distance.median() > 3000
    assert (by["merchant cash-out"].amount % 50 == 0).all()
    traveller = by["traveller"]
    assert traveller.country_mismatch.mean() > 0.7
    assert traveller.distance.median() > 500
    assert traveller.device_score.median() < 0.1
    assert by["night shopper"].hour.isin([22, 23, 0, 1, 2, 3, 4, 5]).mean() > 0.8


def test_legitimate_columns_are_correlated_and_heavy_tailed(train: pd.DataFrame) -> None:
    legitimate = train[train.is_fraud == 0]
    assert np.corrcoef(np.log(legitimate.amount), np.log(legitimate.distance + 0.01))[0, 1] > 0.15
    assert legitimate.amount.quantile(0.999) > 30 * legitimate.amount.median()


def test_the_forest_finds_much_of_the_fraud_and_supervision_finds_more(train: pd.DataFrame, test: pd.DataFrame) -> None:
    forest = IsolationForest(random_state=0).fit(inputs(train))
    boosting = HistGradientBoostingClassifier(random_state=0).fit(inputs(train), train.is_fraud)
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs(train), train.is_fraud)
    scores_of = {
        "forest": -forest.score_samples(inputs(test)),
        "boosting": boosting.predict_proba(inputs(test))[:, 1],
        "linear": linear.predict_proba(inputs(test))[:, 1],
    }
    auc = {name: roc_auc_score(test.is_fraud, scores) for name, scores in scores_of.items()}
    precision = {name: average_precision_score(test.is_fraud, scores) for name, scores in scores_of.items()}
    assert 0.90 < auc["forest"] < 0.96
    assert 0.30 < precision["forest"] < 0.70
    assert auc["boosting"] > 0.965
    assert precision["boosting"] > precision["forest"] + 0.10
    assert precision["boosting"] > precision["linear"] + 0.15  # not one linearly separable blob
    assert precision["boosting"] < 0.95  # and not trivial with labels either


def test_the_seeds_request_is_suspicious_and_a_lunch_is_not(train: pd.DataFrame) -> None:
    forest = IsolationForest(random_state=0).fit(inputs(train))
    scores = -forest.score_samples(inputs(train[train.is_fraud == 0]))
    rows = pd.DataFrame([[220, 3, 12, 0.92, 1], [14.5, 12, 1.5, 0.05, 0]], columns=FEATURES)
    seed, lunch = -forest.score_samples(inputs(rows))
    assert np.mean(scores < seed) > 0.98
    assert np.mean(scores < lunch) < 0.5


def test_drift_moves_the_legitimate_rows_with_its_strength_and_no_fraud(train: pd.DataFrame) -> None:
    fraud = train.is_fraud == 1
    shift = []
    for drift in (0.0, 0.5, 1.0):
        drifted = transactions(30_000, drift=drift)
        pd.testing.assert_frame_equal(drifted[fraud], train[fraud])
        legitimate = drifted[~fraud]
        late = ((legitimate.hour - train.hour[~fraud]) % 24).mean()
        shift.append((np.log(legitimate.amount).mean(), legitimate.device_score.mean(), late))
    amount, device, late = np.array(shift).T
    assert (np.diff(amount) > 0.1).all()
    assert (np.diff(device) > 0.01).all()
    assert late == pytest.approx([0, 1, 2], abs=0.01)


@pytest.mark.parametrize("simulated", [transactions, cards])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "--rows.*is 0.*at least 1"),
        ({"rows": -5}, "--rows.*is -5"),
        ({"seed": -1}, "--seed.*is -1"),
        ({"fraud_rate": 0.0}, r"--fraud-rate.*is 0\.0.*above 0"),
        ({"fraud_rate": 0.5}, r"--fraud-rate.*is 0\.5.*below 0\.5"),
        ({"fraud_rate": float("nan")}, "--fraud-rate.*is nan"),
        ({"drift": -0.1}, r"--drift.*is -0\.1"),
        ({"drift": float("inf")}, "--drift.*is inf"),
    ],
)
def test_silly_settings_are_refused(simulated: object, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulated(**{"rows": 10, **settings})  # type: ignore[operator]


def test_a_negative_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="start is -1"):
        transactions(10, start=-1)


@pytest.fixture(scope="module")
def card_rows() -> pd.DataFrame:
    return cards(100_000)


def test_cards_are_in_time_order_with_running_ids(card_rows: pd.DataFrame) -> None:
    assert list(card_rows.columns) == [
        "TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD",
    ]  # fmt: skip
    assert np.array_equal(card_rows.TRANSACTION_ID, np.arange(100_000))
    assert card_rows.TX_DATETIME.is_monotonic_increasing
    assert card_rows.TX_DATETIME.dtype == np.dtype("datetime64[s]")
    assert 100 < (card_rows.TX_DATETIME.iloc[-1] - card_rows.TX_DATETIME.iloc[0]).days < 140
    assert (card_rows.TX_AMOUNT > 0).all()
    assert card_rows.TX_FRAUD.mean() == pytest.approx(0.02, rel=0.4)


def test_cards_are_reproducible_and_the_days_are_the_whole(card_rows: pd.DataFrame) -> None:
    days = list(iter_cards(100_000))
    assert max(map(len, days)) < 3_000
    assert all(day.TX_DATETIME.dt.date.nunique() == 1 for day in days)
    pd.testing.assert_frame_equal(pd.concat(days, ignore_index=True), card_rows)
    assert not np.array_equal(cards(1000, seed=8).TX_AMOUNT, cards(1000).TX_AMOUNT)


def test_a_day_of_the_cards_is_the_same_whatever_day_the_world_begins_at() -> None:
    days = list(iter_cards(20_000))
    n_customers = math.ceil(20_000 / (CARD_DAYS * 1.9))
    for number in (0, 1, 27, 28, 29, 60):
        (day,) = itertools.islice(iter_card_days(number, n_customers), 1)
        pd.testing.assert_frame_equal(day, days[number].drop(columns="TRANSACTION_ID"))
    drifted = next(iter_card_days(60, n_customers, drift=1.0))
    assert np.array_equal(drifted.TX_FRAUD.sum(), days[60].TX_FRAUD.sum())
    assert drifted.TX_AMOUNT.median() > 1.2 * days[60].TX_AMOUNT.median()
    with pytest.raises(ConfigError, match=r"day -1 .* before day 0"):
        next(iter_card_days(-1, n_customers))


def test_known_cards_have_not_changed() -> None:
    assert cards(3).astype({"TX_DATETIME": str}).to_numpy().tolist() == GOLDEN_CARDS


@pytest.mark.parametrize("rows", [1, 39, 5000])
def test_cards_yield_exactly_the_rows_asked_for(rows: int) -> None:
    assert len(cards(rows)) == rows


def test_customers_have_their_own_amounts_hours_and_terminals(card_rows: pd.DataFrame) -> None:
    legitimate = card_rows[card_rows.TX_FRAUD == 0]
    log_amount = np.log(legitimate.TX_AMOUNT)
    within = log_amount.groupby(legitimate.CUSTOMER_ID).std().mean()
    assert within < 0.75 * log_amount.std()
    visits = legitimate.groupby("CUSTOMER_ID").TERMINAL_ID
    favourites = visits.apply(lambda terminals: terminals.value_counts().head(25).sum() / terminals.size)
    assert favourites.mean() > 0.9


def test_the_three_card_scenarios_can_be_seen(card_rows: pd.DataFrame) -> None:
    fraud = card_rows[card_rows.TX_FRAUD == 1]
    own = np.log(card_rows.TX_AMOUNT).groupby(card_rows.CUSTOMER_ID).median()
    ratio = np.log(fraud.TX_AMOUNT) - fraud.CUSTOMER_ID.map(own)
    assert (fraud.TX_AMOUNT > 240).mean() > 0.05  # big tickets
    assert (ratio.abs() < 0.7).mean() > 0.35  # tampered terminals: ordinary amounts
    assert ratio.between(1.0, 2.0).mean() > 0.15  # leaked cards: about four times as much

    for terminal in fraud.TERMINAL_ID.value_counts().index[:5]:
        visits = card_rows[card_rows.TERMINAL_ID.eq(terminal)]
        share = visits.TX_FRAUD.rolling(15).mean()
        assert share.max() > 0.8  # a spell in which nearly every transaction is fraud,
        assert share.min() == 0  # and a clean time


def test_card_drift_raises_legitimate_amounts_only(card_rows: pd.DataFrame) -> None:
    drifted = cards(100_000, drift=1.0)
    means = [np.log(frame.TX_AMOUNT).groupby(frame.TX_FRAUD).mean() for frame in (card_rows, drifted)]
    assert means[1][0] - means[0][0] == pytest.approx(0.3, abs=0.01)
    assert means[1][1] == pytest.approx(means[0][1], abs=0.02)


@pytest.mark.parametrize(("schema", "simulated"), [("transactions", transactions), ("handbook", cards)])
def test_every_row_is_valid_under_the_shipped_schema(schema: str, simulated: object) -> None:
    rows = simulated(3000, drift=2.0)  # type: ignore[operator]
    checked = validate(rows, Schema.load(schema), need_label=True)
    assert len(checked.rows) == 3000
    assert checked.quarantine.empty
    assert checked.warnings == ()
