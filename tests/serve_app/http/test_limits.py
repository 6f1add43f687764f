"""Limits: settings that are wrong are named, buckets let through what they promise, deadlines pass when they say."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import ConfigError
from fraud.settings.serving import RequestLimits
from serve_app.auth import ApiKey
from serve_app.http.limits import Deadline, ExpectedTime, RateLimiter, TokenBucket
from serve_app.request.problems import Rejected


def test_settings_come_from_the_environment():
    assert RequestLimits.from_environment({}) == RequestLimits()
    environment = {
        "FRAUD_RATE_LIMIT": "50", "FRAUD_RATE_BURST": "80", "FRAUD_DEADLINE_MS": "40.5", "FRAUD_FALLBACK": "decline",
        "FRAUD_BODY_TIMEOUT_S": "2", "FRAUD_METRICS_OPEN": "1",
    }  # fmt: skip
    assert RequestLimits.from_environment(environment) == RequestLimits(
        rate=50, burst=80, deadline_ms=40.5, fallback="decline", body_timeout_s=2, is_metrics_open=True
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAUD_RATE_LIMIT", "-1"),
        ("FRAUD_RATE_BURST", "many"),
        ("FRAUD_DEADLINE_MS", "nan"),
        ("FRAUD_FALLBACK", "Approve"),
        ("FRAUD_BODY_TIMEOUT_S", "0"),
        ("FRAUD_METRICS_OPEN", "yes"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str):
    with pytest.raises(ConfigError, match=f"{name}='{value}'"):
        RequestLimits.from_environment({name: value})


@given(st.floats(0.5, 1000), st.floats(0, 100), st.lists(st.floats(0, 0.2), max_size=200))
def test_a_bucket_never_lets_more_through_than_it_promises(rate: float, burst: float, pauses: list[float]):
    bucket, now, passed = TokenBucket(rate, burst), 0.0, 0
    for pause in pauses:
        now += pause
        passed += bucket.wait_s(now) == 0
    assert passed <= max(burst or rate, 1.0) + rate * now + 1e-6


def test_who_waits_as_told_passes():
    bucket = TokenBucket(rate=4, burst=1)
    assert bucket.wait_s(100.0) == 0
    assert bucket.wait_s(100.0) == pytest.approx(0.25)
    assert bucket.wait_s(100.1) == pytest.approx(0.15)
    assert bucket.wait_s(100.25) == 0


def test_each_key_has_a_bucket_and_may_have_its_own_rate():
    limiter = RateLimiter(RequestLimits(rate=2))
    first, second = ApiKey(b"1" * 32), ApiKey(b"2" * 32)
    fast, free, short = (
        ApiKey(bytes([n]) * 32, rate=rate, burst=b) for n, rate, b in ((3, 5, 0), (4, 0, 0), (5, None, 1))
    )

    def passed(key: ApiKey | None) -> int:
        return sum(limiter.wait_s(key, 10.0) == 0 for _ in range(20))

    assert [passed(key) for key in (first, first, second, None, fast, free, short)] == [2, 0, 2, 2, 5, 20, 1]
    assert limiter.wait_s(ApiKey(b"1" * 32, rate=1, burst=3), 10.0) == 0  # a new rate in the file counts at once


def test_a_requests_deadline_can_only_shorten_ours():
    ours = RequestLimits(deadline_ms=100)
    assert Deadline.of_request(ours, 5.0, None).at == pytest.approx(5.1)
    assert Deadline.of_request(ours, 5.0, b"20.5").at == pytest.approx(5.0205)
    assert Deadline.of_request(ours, 5.0, b"2000").at == pytest.approx(5.1)
    assert Deadline.of_request(RequestLimits(), 5.0, b"2000").at == pytest.approx(7.0)
    assert Deadline.of_request(RequestLimits(), 5.0, None) == Deadline()
    assert Deadline.of_request(RequestLimits(), time.perf_counter(), b"-3").has_passed()


@pytest.mark.parametrize("header", [b"", b"soon", b"1e3", b"5ms", b"nan", b"1" * 20, "٣".encode()])
def test_a_deadline_that_is_no_number_is_refused(header: bytes):
    with pytest.raises(Rejected) as caught:
        Deadline.of_request(RequestLimits(), 0.0, header)
    assert caught.value.status == 422
    assert caught.value.problems[0]["field"] == "X-Deadline-Ms"


def test_a_deadline_passes_also_for_what_would_take_too_long():
    assert not Deadline().has_passed(1e9)
    assert not Deadline(time.perf_counter() + 60).has_passed()
    assert Deadline(time.perf_counter() + 60).has_passed(needed_s=61)
    assert Deadline(time.perf_counter() - 1e-6).has_passed()
    assert not Deadline.from_scope({"type": "http"}).has_passed(1e9)
    assert Deadline.from_scope({"state": {"deadline": Deadline(0.0)}}).has_passed()


def test_the_expected_time_follows_what_is_observed_and_is_forgotten():
    expected = ExpectedTime(half_life_s=0.01)
    assert expected.seconds() == 0
    for _ in range(20):
        expected.observe(10.0)
    assert expected.seconds() > 1.0
    time.sleep(0.2)
    assert expected.seconds() < 1.0
