"""Days scored one after the other by real jobs see what one replay of everything sees; what is missing stops a job."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data.simulation import cards
from fraud.data.splits import SplitConfig
from fraud.detectors.features import raw_features
from fraud.errors import DataError
from fraud.history.snapshots.build import build
from fraud.history.snapshots.days import Snapshots
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, SOURCE, LabelStore
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from ray_jobs.score import command as score
from ray_jobs.score.output import Job
from ray_jobs.train import history as train_history
from tests.fraud.history.oracle import features_of_days
from tests.ray_jobs.score.test_score import SMALL

pytestmark = pytest.mark.ray

SCHEMA = Schema.load("handbook")
DELAY = pd.Timedelta(days=7)
PRODUCTION_DAYS = 6


@dataclass(frozen=True)
class House:
    """A trained model, its snapshots, the days after the training as files, and what they should be scored as."""

    folder: Path
    settings: Settings
    rows: pd.DataFrame
    ledger: pd.DataFrame
    days: list[dt.date]
    expected: pd.Series

    def job(self, day: dt.date, **more: object) -> Job:
        given: dict[str, object] = {
            "data": str(self.folder / "daily" / f"{day}.parquet"), "out": str(self.folder / "scored"),
            "model": str(self.folder / "bundle"), "date": day,
        }  # fmt: skip
        return Job(**{**given, **more})

    def score(self, day: dt.date, **more: object) -> dict:
        return score.score(self.job(day, **more), self.settings)

    def scores(self, day: dt.date, out: str = "scored") -> pd.Series:
        return pd.read_parquet(self.folder / out / f"date={day}").set_index("TRANSACTION_ID")["score"]

    @property
    def snapshots(self) -> Snapshots:
        return Snapshots.open(self.settings, SCHEMA)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: tuple, ray_session: None) -> House:
    detector, rows, known, expected, days = fitted
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_HISTORY", str(tmp_path / "history"))
    monkeypatch.setenv("FRAUD_LABELS", str(tmp_path / "labels"))
    settings = Settings.from_environment()
    first = pd.Timestamp(days[0])
    training = rows[rows["TX_DATETIME"] < first]
    training.to_parquet(tmp_path / "training.parquet", index=False)
    carried = train_history.write_snapshots(
        detector, training, str(tmp_path / "training.parquet"), settings, in_bundle=False
    )
    assert not any(len(state.events) for state in carried.history), "the bundle carries nobody's transactions"
    windows = [{"name": "train", "start": str(training["TX_DATETIME"].min()), "end": str(first)}]
    bundle.save(tmp_path / "bundle", carried, windows=windows)
    (tmp_path / "daily").mkdir()
    for day in days:
        of_day = rows[rows["TX_DATETIME"].dt.date == day]
        of_day.drop(columns="TX_FRAUD").to_parquet(tmp_path / "daily" / f"{day}.parquet", index=False)
    labels = known[known[SOURCE] == "analyst"]
    LabelStore(str(tmp_path / "labels")).add(labels, "all", ingested_at=dt.datetime(2026, 1, 1))
    return House(tmp_path, settings, rows, known, days, expected)


@pytest.fixture(scope="module")
def fitted() -> tuple:
    """A detector of the training days, all rows, the labels, the scores by the oracle, and the days after training."""
    rows = validate(cards(6_000, seed=4, fraud_rate=0.06), SCHEMA).rows
    last = rows["TX_DATETIME"].max().normalize()
    first = last - pd.Timedelta(days=PRODUCTION_DAYS - 1)
    config = replace(SMALL, split=SplitConfig(history=0.3, train=0.4, validation=0.15, test=0.15, delay_days=7))
    detector, _ = fitting.fit_locally(rows[rows["TX_DATETIME"] < first], SCHEMA, config)
    frauds = rows[rows["TX_FRAUD"] == 1]
    training = frauds["TX_DATETIME"] < first
    rng = np.random.default_rng(1)
    late = pd.Series(pd.to_timedelta(rng.uniform(0, 5, len(frauds)), unit="D").round("s"), index=frauds.index)
    # A label that came with the training data counts once the delay is over, to the second.
    moments = (frauds["TX_DATETIME"] + DELAY + late).where(~training, frauds["TX_DATETIME"])
    ledger = pd.DataFrame(
        {ID: frauds["TRANSACTION_ID"], IS_FRAUD: True, KNOWN_AT: moments, SOURCE: np.where(training, "own", "analyst")}
    )
    # Some chargebacks of the training days are taken back while production runs.
    reversed_ = ledger[training.to_numpy()].iloc[-30::2].assign(**{
        IS_FRAUD: False, KNOWN_AT: first + pd.Timedelta(days=3.5), SOURCE: "analyst"})  # fmt: skip
    ledger = pd.concat([ledger, reversed_]).sort_values(KNOWN_AT, kind="stable", ignore_index=True)
    history = features_of_days(rows, SCHEMA, ledger)
    raw = raw_features(rows, SCHEMA, detector.features.categories, history)
    expected = pd.Series(Engine(detector).score_raw(raw)[:, 0], index=rows["TRANSACTION_ID"])
    days = [(first + pd.Timedelta(days=n)).date() for n in range(PRODUCTION_DAYS)]
    return detector, rows, ledger, expected, days


def test_days_after_the_training_score_as_one_replay_of_everything(house: House) -> None:
    for n, day in enumerate(house.days):
        manifest = house.score(day, history_partitions=(1, 2, 4)[n % 3])
        scores = house.scores(day)
        np.testing.assert_allclose(scores, house.expected.loc[scores.index], atol=1e-6)
        assert manifest["history"]["through"] == str(day - dt.timedelta(days=1))
        assert not manifest["history"]["is_stale"]
    assert manifest["history"]["labels"]["ids"] > 10
    assert house.snapshots.newest_day() == house.days[-1]
    # An old day once more: it sees the labels of its day and not of today, and changes nothing.
    chain = house.snapshots.chain_of(house.days[-1])
    before = house.scores(house.days[4])
    house.score(house.days[4], force=True)
    pd.testing.assert_series_equal(house.scores(house.days[4]), before)
    assert house.snapshots.chain_of(house.days[-1]) == chain


def test_a_gap_stops_the_job_and_daily_data_close_it(house: House, caplog: pytest.LogCaptureFixture) -> None:
    day = house.days[5]
    with pytest.raises(DataError, match=r"is not whole .* --history-data 'daily/\*.parquet'"):
        house.score(day)
    assert not (house.folder / "scored" / f"date={day}").exists()
    stale = house.score(day, stale_history=True, out=str(house.folder / "stale"))
    assert stale["history"]["is_stale"] and any("STALE HISTORY" in warning for warning in stale["warnings"])
    assert stale["history"]["through"] == str(house.days[0] - dt.timedelta(days=1))
    assert house.snapshots.newest_day() == house.days[0] - dt.timedelta(days=1), "a stale day leaves no gap behind it"
    assert (house.scores(day, "stale") != house.expected.loc[house.scores(day, "stale").index]).any()
    house.score(day, history_data=str(house.folder / "daily" / "*.parquet"))
    scores = house.scores(day)
    np.testing.assert_allclose(scores, house.expected.loc[scores.index], atol=1e-6)


def test_a_late_row_takes_its_place_and_the_others_keep_their_scores(house: House) -> None:
    first, second = house.days[:2]
    file = house.folder / "daily" / f"{first}.parquet"
    rows = pd.read_parquet(file)
    late, there = rows.iloc[[7]], rows.drop(index=rows.index[7])
    there.to_parquet(file, index=False)
    house.score(first)
    next_file = house.folder / "daily" / f"{second}.parquet"
    pd.concat([late, pd.read_parquet(next_file)]).to_parquet(next_file, index=False)
    manifest = house.score(second, **ON_A_DAYS_FILE)
    assert manifest["rows"]["other_days"] == 1
    scores = house.scores(second)
    np.testing.assert_allclose(scores, house.expected.loc[scores.index], atol=1e-6)
    third = house.score(house.days[2])
    scores = house.scores(house.days[2])
    np.testing.assert_allclose(scores, house.expected.loc[scores.index], atol=1e-6)
    assert not third["warnings"]


def test_a_long_file_gives_its_day_no_row_twice(house: House) -> None:
    """Earlier rows that come along are remembered already."""
    house.score(house.days[0])
    everything = house.folder / "everything.parquet"
    house.rows.drop(columns="TX_FRAUD").to_parquet(everything, index=False)
    house.score(house.days[1], data=str(everything))
    scores = house.scores(house.days[1])
    np.testing.assert_allclose(scores, house.expected.loc[scores.index], atol=1e-6)


def test_labels_in_the_file_do_not_count(house: House) -> None:
    day = house.days[0]
    file = house.folder / "daily" / f"{day}.parquet"
    house.rows[house.rows["TX_DATETIME"].dt.date == day].assign(TX_FRAUD=1).to_parquet(file, index=False)
    house.score(day)
    house.score(house.days[1])
    scores = house.scores(house.days[1])
    np.testing.assert_allclose(scores, house.expected.loc[scores.index], atol=1e-6)


def test_a_job_killed_between_its_scores_and_its_history_is_made_good(house: House) -> None:
    day = house.days[0]
    house.score(day)
    house.snapshots.drop(day)
    assert house.score(day)["already_scored"]
    assert house.snapshots.newest_day() == day


def test_a_corrected_day_names_the_days_to_score_again(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for day in house.days[:3]:
        house.score(day)
    file = house.folder / "daily" / f"{house.days[0]}.parquet"
    pd.read_parquet(file).iloc[5:].to_parquet(file, index=False)
    house.score(house.days[0], force=True)
    assert f"the scores of {house.days[1]} to {house.days[2]} (2 days) were made with the older history" in caplog.text


def test_a_snapshot_of_all_files_equals_what_the_jobs_left(house: House, tmp_path: Path) -> None:
    for day in house.days[:3]:
        house.score(day, history_partitions=2)
    again = Snapshots(str(tmp_path / "again"), SCHEMA)
    build(again, str(house.folder / "daily" / "*.parquet"), house.days[2], since=house.days[0])
    for day in house.days[:3]:
        for plan in again.plans:
            assert again.read(plan, day).fingerprint == house.snapshots.read(plan, day).fingerprint
    manifest = json.loads((house.folder / "scored" / f"date={house.days[2]}" / "_manifest.json").read_text())
    assert manifest["history"]["chain"] == house.snapshots.chain_of(house.days[1])


# A day's file with a late row of the day before.
ON_A_DAYS_FILE: dict[str, object] = {"other_days": "skip"}
