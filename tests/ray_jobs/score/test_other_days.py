"""A day's file with rows of another day: named by day, stopped before writing, or skipped."""

from __future__ import annotations

import datetime as dt
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fraud.data.simulation import transactions
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import ConfigError, DataError
from fraud.schema import Column, History, Schema, validate
from fraud.scoring import bundle
from fraud.scoring.detector import Detector
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from ray_jobs.score import command as score
from ray_jobs.score.output import Job

CONFIG = TrainConfig(
    forest=ForestConfig(n_estimators=10),
    autoencoder=AutoencoderConfig(epochs=1, batch_size=256),
    head=HeadConfig(use="never"),
)
D = dt.date(2026, 2, 21)


def every(minutes: int, first: str, end: str) -> pd.DataFrame:
    """Rows in order of time, from `first` to before `end`, both UTC."""
    times = pd.date_range(first, end, freq=f"{minutes}min", inclusive="left", unit="us")
    frame = transactions(len(times), seed=3, fraud_rate=0.05)
    frame.insert(0, "card", np.arange(len(times)) % 7)
    frame.insert(0, "at", times)
    return frame


def fitted(*history: History) -> Detector:
    base = Schema.load("transactions")
    more = (Column(name="at", kind="timestamp", calendar=("hour",)), Column(name="card", kind="entity"))
    schema = replace(base, name="local", columns=(*more, *base.columns), history=history)
    rows = validate(every(15, "2026-01-01", "2026-02-01"), schema).rows
    return fitting.fit_locally(rows, schema, CONFIG)[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One detector with days of several zones."""
    folder, detector = tmp_path_factory.mktemp("models"), fitted()
    zones = ("UTC", "America/New_York", "Europe/Berlin")
    for zone in zones:
        schema = replace(detector.schema, day_zone=zone)
        bundle.save(folder / zone, replace(detector, schema=schema))
    return {zone: folder / zone for zone in zones}


def run(rows: pd.DataFrame, model: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Score rows as the file of `D`, or of another date."""
    source = tmp_path / "rows.parquet"
    rows.to_parquet(source, index=False, row_group_size=50)
    job = {"data": str(source), "out": str(tmp_path / "scored"), "model": str(model), "date": D, "reasons": False}
    return score.score(Job(**{**job, **changes}), Settings.from_environment())


# A day of New York, cut at its midnight: 05:00 UTC in winter.
LOCAL = ("2026-02-21T05:00", "2026-02-22T05:00")


def test_a_file_cut_at_local_midnight_stops_and_says_which_offset_fits(models: dict[str, Path], tmp_path: Path):
    with pytest.raises(DataError) as caught:
        run(every(6, *LOCAL), models["UTC"], tmp_path)

    text = str(caught.value)
    assert "50 rows are not of 2026-02-21 (UTC), 190 are; 2026-02-22: 50. Nothing was written" in text
    assert "The rows fit a day at UTC-05:00: set `day_zone`" in text and "such as America/New_York" in text
    assert "--other-days skip" in text
    assert not list((tmp_path / "scored").glob("date=*")) and not list((tmp_path / "scored").glob("_staging/*"))


def test_with_its_zone_every_row_of_a_local_day_is_scored_on_it(models: dict[str, Path], tmp_path: Path):
    manifest = run(every(6, *LOCAL), models["America/New_York"], tmp_path)

    assert manifest["rows"]["scored"] == 240 and manifest["rows"]["other_days"] == 0
    assert manifest["other_days_by_day"] == {} and manifest["warnings"] == []
    assert manifest["day_zone"] == "America/New_York"
    assert len(pd.read_parquet(tmp_path / "scored/date=2026-02-21")) == 240


@pytest.mark.parametrize(
    ("day", "first", "end", "hours"),
    [
        ("2026-03-29", "2026-03-28T23:00", "2026-03-29T22:00", 23),
        ("2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00", 25),
    ],
)
def test_days_of_23_and_25_hours_are_whole(
    models: dict[str, Path], tmp_path: Path, day: str, first: str, end: str, hours: int
):
    date = dt.date.fromisoformat(day)
    around = every(30, str(date - dt.timedelta(days=3)), str(date + dt.timedelta(days=3)))
    manifest = run(around, models["Europe/Berlin"], tmp_path, date=date)
    times = pd.read_parquet(tmp_path / f"scored/date={day}")["at"]
    assert manifest["rows"]["scored"] == len(times) == 2 * hours
    assert times.min() == pd.Timestamp(first) and times.max() == pd.Timestamp(end) - pd.Timedelta(minutes=30)
    days = run(around, models["Europe/Berlin"], tmp_path, date=None, out=str(tmp_path / "all"))["days"]
    assert days[day]["scored"] == 2 * hours and sum(rows["scored"] for rows in days.values()) == len(around)


def test_skipped_rows_are_counted_by_day_and_warned_of(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    late = every(60, "2026-02-10", "2026-02-10T03:00")
    rows = pd.concat([every(6, *LOCAL), late])

    returned = run(rows, models["UTC"], tmp_path, other_days="skip")

    assert returned["rows"]["scored"] == 190 and returned["rows"]["other_days"] == 53
    manifest = json.loads((tmp_path / "scored/date=2026-02-21/_manifest.json").read_text())
    assert manifest["other_days_by_day"] == {"2026-02-10": 3, "2026-02-22": 50}
    (warning,) = manifest["warnings"]
    assert warning.startswith("53 rows of other days (2026-02-10: 3, 2026-02-22: 50) are skipped")
    assert warning in caplog.text


def test_late_rows_stop_a_days_file_too(models: dict[str, Path], tmp_path: Path):
    """However many days they are of: they are few beside the day's own."""
    late = [every(60, f"2026-02-{day}", f"2026-02-{day}T02:00") for day in (10, 12, 14, 16)]
    rows = pd.concat([every(6, "2026-02-21", "2026-02-22"), *late])
    with pytest.raises(DataError) as caught:
        run(rows, models["UTC"], tmp_path, out=str(tmp_path / "one.parquet"))
    assert "8 rows are not of 2026-02-21 (UTC), 240 are; 2026-02-10: 2, 2026-02-12: 2" in str(caught.value)
    assert "UTC+" not in str(caught.value) and "UTC-" not in str(caught.value)
    assert "score that day again with both files" in str(caught.value)
    assert [path.name for path in tmp_path.glob("one*")] == []


def test_late_rows_are_scored_with_their_own_day_as_the_message_says(models: dict[str, Path], tmp_path: Path):
    yesterday, late = every(6, "2026-02-20", "2026-02-21"), every(60, "2026-02-20", "2026-02-20T03:00")
    assert run(yesterday, models["UTC"], tmp_path, date=dt.date(2026, 2, 20))["rows"]["scored"] == 240
    rows = pd.concat([every(6, "2026-02-21", "2026-02-22"), late])
    assert run(rows, models["UTC"], tmp_path, other_days="skip")["rows"]["scored"] == 240
    both = pd.concat([yesterday, rows])
    manifest = run(both, models["UTC"], tmp_path, date=dt.date(2026, 2, 20), other_days="skip", force=True)
    assert manifest["rows"]["scored"] == 243 and manifest["other_days_by_day"] == {"2026-02-21": 240}


def test_one_day_of_a_long_file_may_be_picked_and_the_rest_is_reported(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    rows = every(20, "2026-02-18", "2026-02-23")
    with caplog.at_level(logging.INFO):
        manifest = run(rows, models["UTC"], tmp_path)
    assert manifest["warnings"] == [] and manifest["rows"]["scored"] == 72
    assert manifest["other_days_by_day"] == {f"2026-02-{day}": 72 for day in (18, 19, 20, 22)}
    assert "288 rows of 4 other days are skipped: 2026-02-21 was requested" in caplog.text
    flags = ["--data", str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "scored"), "--date", str(D)]
    assert score.main([*flags, "--model", str(models["UTC"]), "--no-reasons"]) == 0
    assert "; 288 rows of 4 other days skipped" in capsys.readouterr().out


def test_refused_rows_of_another_day_count_and_those_of_an_impossible_time_are_the_days_own(
    models: dict[str, Path], tmp_path: Path
):
    rows = every(6, "2026-02-21", "2026-02-22")
    rows.loc[3, "at"] = pd.Timestamp("2099-01-01")
    manifest = run(rows, models["UTC"], tmp_path)
    assert manifest["rows"]["quarantined"] == 1 and manifest["other_days_by_day"] == {}
    refused = pd.read_parquet(tmp_path / "scored/_quarantine/date=2026-02-21")
    assert refused["reason"].str.contains("horizon_days").all()
    rows.loc[4, ["at", "hour"]] = [pd.Timestamp("2026-02-20"), 99]
    with pytest.raises(DataError, match="1 row is not of 2026-02-21"):
        run(rows, models["UTC"], tmp_path, force=True)


def test_on_ray_with_entity_history_it_is_the_same(ray_session: None, tmp_path: Path):
    bundle.save(tmp_path / "bundle", fitted(History(entity="card", windows=("1d",), statistics=("count",))))
    with pytest.raises(DataError, match=r"50 rows are not of 2026-02-21 \(UTC\), 190 are; .* at UTC-05:00"):
        run(every(6, *LOCAL), tmp_path / "bundle", tmp_path)
    manifest = run(every(6, *LOCAL), tmp_path / "bundle", tmp_path, other_days="skip")
    assert manifest["rows"]["scored"] == 190 and manifest["other_days_by_day"] == {"2026-02-22": 50}


@pytest.mark.parametrize(
    ("first", "end", "offset"),
    [
        ("2026-02-20T22:00", "2026-02-21T22:00", "+02:00"),
        ("2026-02-20T18:30", "2026-02-21T18:30", "+05:30"),
        ("2026-02-20T18:15", "2026-02-21T18:15", "+05:45"),
        ("2026-02-21T08:00", "2026-02-22T08:00", "-08:00"),
        ("2026-02-20T11:00", "2026-02-21T11:00", "+13:00"),
    ],
)
def test_the_fitting_offset_is_found(models: dict[str, Path], tmp_path: Path, first: str, end: str, offset: str):
    with pytest.raises(DataError) as caught:
        run(every(6, first, end), models["UTC"], tmp_path)
    assert f"fit a day at UTC{offset}:" in str(caught.value)


def test_schema_and_environment_must_agree(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_DAY_ZONE", "Europe/Berlin")
    assert run(every(20, "2026-02-18", "2026-02-23"), models["Europe/Berlin"], tmp_path)["rows"]["scored"] == 72
    with pytest.raises(ConfigError, match="FRAUD_DAY_ZONE='Europe/Berlin' and day_zone 'UTC' of schema 'local' differ"):
        run(every(20, "2026-02-18", "2026-02-23"), models["UTC"], tmp_path)
