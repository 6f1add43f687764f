"""Days of a zone: the local calendar's, to the microsecond, on days of 23 and 25 hours too."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.days import Zone
from fraud.errors import ConfigError, SchemaError
from fraud.schema.columns import Column
from fraud.schema.contract import Schema
from fraud.schema.zone import agreed, zone_of
from fraud.settings import Settings

HOUR = 3_600_000_000
# Zones with summer time, without, of half and quarter hours, that left a day out, and that move to summer at midnight.
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia",
         "America/Sao_Paulo", "Africa/Casablanca")  # fmt: skip
MOMENTS = st.datetimes(dt.datetime(1900, 1, 2), dt.datetime(2199, 12, 30))


def us(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


def schema(**changes: object) -> Schema:
    columns = (Column(name="x", kind="numeric"), Column(name="at", kind="timestamp"))
    return Schema(name="s", columns=columns, **changes)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.sampled_from(ZONES), st.lists(MOMENTS, min_size=1, max_size=20))
def test_a_day_is_the_one_that_zoneinfo_names(name: str, moments: list[dt.datetime]) -> None:
    aware = [moment.replace(tzinfo=dt.UTC).astimezone(zoneinfo.ZoneInfo(name)) for moment in moments]
    times = np.array(moments, dtype="datetime64[us]")

    assert Zone(name).day_of(times).tolist() == [moment.date() for moment in aware]
    assert Zone(name).day_of(times.astype(np.int64)).tolist() == [moment.date() for moment in aware]
    clocks = [moment.replace(tzinfo=None) for moment in aware]
    assert Zone(name).local_us(times).tolist() == clocks
    assert Zone(name).local_us(times.astype(np.float64)).tolist() == np.array(clocks, "M8[us]").astype(float).tolist()


@settings(deadline=None)
@given(st.sampled_from(ZONES), MOMENTS)
def test_every_instant_lies_between_the_start_and_the_end_of_its_day(name: str, moment: dt.datetime) -> None:
    zone, instant = Zone(name), int(np.datetime64(moment, "us").astype(np.int64))
    day = zone.day_of(np.array([instant]))[0].item()

    start, end = zone.start_of(day), zone.end_of(day)

    assert start <= instant < end
    before, first = zone.day_of(np.array([start - 1, start])).tolist()
    assert before < first == day


@pytest.mark.parametrize(
    ("day", "start", "hours"),
    [("2026-03-28", "2026-03-27T23:00", 24), ("2026-03-29", "2026-03-28T23:00", 23),
     ("2026-03-30", "2026-03-29T22:00", 24), ("2026-10-24", "2026-10-23T22:00", 24),
     ("2026-10-25", "2026-10-24T22:00", 25), ("2026-10-26", "2026-10-25T23:00", 24)],
)  # fmt: skip
def test_berlin_has_a_day_of_23_and_one_of_25_hours(day: str, start: str, hours: int) -> None:
    zone, date = Zone("Europe/Berlin"), dt.date.fromisoformat(day)

    assert zone.start_of(date) == us(start)
    assert zone.end_of(date) - zone.start_of(date) == hours * HOUR


def test_a_day_that_a_zone_left_out_is_empty() -> None:
    zone, left_out = Zone("Pacific/Apia"), dt.date(2011, 12, 30)  # from the 29th to the 31st, over the date line

    assert zone.start_of(left_out) == zone.end_of(left_out) == zone.start_of(dt.date(2011, 12, 31))


def test_times_that_are_missing_stay_missing() -> None:
    for name in ("UTC", "Europe/Berlin"):
        days = Zone(name).day_of(np.array(["NaT", "2026-06-30T22:30"], dtype="datetime64[us]"))
        assert np.isnat(days).tolist() == [True, False]
        assert np.isnan(Zone(name).local_us(np.array([np.nan]))).all()
        assert len(Zone(name).day_of(np.array([], dtype="datetime64[us]"))) == 0


def test_today_is_the_zones() -> None:
    now = dt.datetime(2026, 6, 30, 22, 30, tzinfo=dt.UTC)

    assert (Zone().today(now), Zone("Europe/Berlin").today(now)) == (dt.date(2026, 6, 30), dt.date(2026, 7, 1))
    assert Zone("Europe/Berlin").yesterday(now) == dt.date(2026, 6, 30)


@pytest.mark.parametrize(
    ("name", "told"),
    [("Europe/Berln", "did you mean 'Europe/Berlin'"), ("europe/berlin", "did you mean 'Europe/Berlin'"),
     ("Europe", "is not a time zone"), ("../etc/passwd", "is not a time zone"), ("", "is not a time zone")],
)  # fmt: skip
def test_an_unknown_zone_is_refused_with_the_nearest_name(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Zone(name)
    with pytest.raises(SchemaError, match="schema 's': day_zone .*" + told):
        schema(day_zone=name)


def test_the_zone_travels_in_the_schema_and_utc_changes_no_fingerprint() -> None:
    berlin = schema(day_zone="Europe/Berlin")

    assert Schema.from_dict(berlin.to_dict()) == berlin
    assert zone_of(berlin).name == "Europe/Berlin"
    assert "day_zone" not in schema().to_dict() and schema().fingerprint == schema(day_zone="UTC").fingerprint
    assert schema().fingerprint != berlin.fingerprint


def test_schema_and_environment_must_name_one_zone() -> None:
    berlin = schema(day_zone="Europe/Berlin")
    settings = Settings.from_environment({"FRAUD_DAY_ZONE": "Europe/Berlin"})

    assert agreed(berlin, settings.day_zone).name == "Europe/Berlin"
    assert agreed(berlin, Settings.from_environment({}).day_zone).name == "Europe/Berlin"
    with pytest.raises(ConfigError, match=r"FRAUD_DAY_ZONE='Europe/Berlin' and day_zone 'UTC' of schema 's' differ"):
        agreed(schema(), settings.day_zone)
    timeless = Schema(name="s", columns=(Column(name="x", kind="numeric"),))
    assert agreed(timeless, settings.day_zone).name == "Europe/Berlin", "it has no days that could differ"
    with pytest.raises(ConfigError, match="FRAUD_DAY_ZONE: day_zone 'Berln'"):
        Settings.from_environment({"FRAUD_DAY_ZONE": "Berln"})
