"""What a caller may ask of a replica: requests a second for each key, a deadline, and how long a body may take.

FRAUD_RATE_LIMIT       requests a second and key, in each replica (default 0 = no limit); the key file can say otherwise
FRAUD_RATE_BURST       requests that may come at once (default: those of one second)
FRAUD_DEADLINE_MS      time from arrival until scoring must have begun (default 0 = no deadline)
FRAUD_FALLBACK         what is answered after it: approve, review or decline (default review)
FRAUD_BODY_TIMEOUT_S   time from arrival until the whole body must be there (default 5)
FRAUD_MOST_WAITING     requests that a replica takes up before it answers 503 (default 256)
FRAUD_METRICS_OPEN     1: GET /metrics needs no key
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fraud.errors import ConfigError
from serve_app.auth import ApiKey
from serve_app.request.problems import Rejected, problem

DEADLINE_HEADER = "X-Deadline-Ms"
FALLBACKS = ("approve", "review", "decline")
_MILLISECONDS = re.compile(rb"-?\d{1,9}(\.\d{1,9})?")


def number_from(environment: Mapping[str, str], name: str, default: float, lowest: float, highest: float) -> float:
    """A number setting. Raises ConfigError naming the variable where it is none, or outside lowest..highest."""
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not lowest <= value <= highest:
        raise ConfigError(f"{name}={text!r} is not a number from {lowest:g} to {highest:g}")
    return value


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The settings above. rate: requests/s; burst: requests; 0 = no limit, no deadline, one second's worth."""

    rate: float = 0.0
    burst: float = 0.0
    deadline_ms: float = 0.0
    fallback: str = "review"
    body_timeout_s: float = 5.0
    most_waiting: float = 256.0
    is_metrics_open: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Limits:
        """Read the settings. Raises ConfigError naming a variable that is wrong."""
        fallback = environment.get("FRAUD_FALLBACK") or "review"
        if fallback not in FALLBACKS:
            raise ConfigError(f"FRAUD_FALLBACK={fallback!r} is unknown: set it to {', '.join(FALLBACKS)}")
        is_open = environment.get("FRAUD_METRICS_OPEN") or "0"
        if is_open not in ("0", "1"):
            raise ConfigError(f"FRAUD_METRICS_OPEN={is_open!r} is neither 0 nor 1")
        return cls(
            rate=number_from(environment, "FRAUD_RATE_LIMIT", 0, 0, 1e6),
            burst=number_from(environment, "FRAUD_RATE_BURST", 0, 0, 1e6),
            deadline_ms=number_from(environment, "FRAUD_DEADLINE_MS", 0, 0, 60_000),
            fallback=fallback,
            body_timeout_s=number_from(environment, "FRAUD_BODY_TIMEOUT_S", 5, 0.01, 3600),
            most_waiting=number_from(environment, "FRAUD_MOST_WAITING", 256, 1, 1e6),
            is_metrics_open=is_open == "1",
        )

    def deadline(self, arrived: float, header: bytes | None) -> Deadline:
        """When a request that arrived then must have begun to be scored; its header can only make that sooner.

        Raises Rejected (422) where the header is no number of milliseconds.
        """
        ends = [self.deadline_ms] if self.deadline_ms else []
        if header is not None:
            if not _MILLISECONDS.fullmatch(header):
                message, remedy = (
                    "the value is not a number of milliseconds",
                    "send the header once, with a number like 50",
                )
                raise Rejected(422, problem("deadline", message, remedy, field=DEADLINE_HEADER, where="header"))
            ends.append(float(header))
        return Deadline(arrived + min(ends) / 1e3) if ends else NEVER


@dataclass(frozen=True, slots=True)
class Deadline:
    """at: moment on the clock of time.perf_counter(), in seconds."""

    at: float = math.inf

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any]) -> Deadline:
        """What Guard found for this request; without a Guard, a deadline that never passes."""
        return scope.get("state", {}).get("deadline", NEVER)

    def has_passed(self, needed_s: float = 0.0) -> bool:
        """Whether it passes before something is done that takes `needed_s` seconds from now."""
        return time.perf_counter() + needed_s >= self.at


NEVER = Deadline()


class ExpectedTime:
    """How long scoring takes lately, in seconds: what a live history whose store is slow would do to a deadline.

    An exponential average of what was observed, that halves every `half_life_s` while nothing is: after a while without
    scoring, because it was expected to take too long, one request tries again. Not safe to share between threads.
    """

    def __init__(self, weight: float = 0.25, half_life_s: float = 1.0) -> None:
        self._weight, self._half_life = weight, half_life_s
        self._mean = 0.0
        self._observed = time.perf_counter()

    def observe(self, seconds: float) -> None:
        """Scoring took this long."""
        self._mean += self._weight * (seconds - self._mean)
        self._observed = time.perf_counter()

    def seconds(self) -> float:
        """What to expect of the next."""
        return self._mean * 0.5 ** ((time.perf_counter() - self._observed) / self._half_life)


class TokenBucket:
    """Lets `rate` a second pass, and `burst` at once (Turner 1986, "leaky bucket as a meter")."""

    __slots__ = ("_level", "_then", "burst", "rate")

    def __init__(self, rate: float, burst: float = 0.0) -> None:
        self.rate, self.burst = rate, max(burst or rate, 1.0)
        self._level, self._then = self.burst, -math.inf

    def wait_s(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there will be one. now: any clock that goes on."""
        level = min(self.burst, self._level + (now - self._then) * self.rate)
        self._then = now
        if level < 1.0:
            self._level = level
            return (1.0 - level) / self.rate
        self._level = level - 1.0
        return 0.0


class RateLimiter:
    """A bucket for each key, of the key's own rate or else the one of `limits`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[bytes, TokenBucket] = {}

    def wait_s(self, key: ApiKey | None, now: float) -> float:
        """0 where the holder of `key` may pass now, else the seconds until it may. None: whoever comes without keys."""
        rate, burst = self._limits.rate, self._limits.burst
        if key is not None:
            rate, burst = rate if key.rate is None else key.rate, key.burst or (burst if key.rate is None else 0.0)
        if not rate:
            return 0.0
        digest = b"" if key is None else key.digest
        bucket = self._buckets.get(digest)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, max(burst or rate, 1.0)):
            bucket = self._buckets[digest] = TokenBucket(rate, burst)
        return bucket.wait_s(now)
