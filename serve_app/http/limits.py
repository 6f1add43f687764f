"""Rate limits per key, and request deadlines."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fraud.settings.serving import RequestLimits
from serve_app.auth import ApiKey
from serve_app.request.problems import Rejected, problem

DEADLINE_HEADER = "X-Deadline-Ms"
_MILLISECONDS = re.compile(rb"-?\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When scoring must have begun. at: time.perf_counter() seconds."""

    at: float = math.inf

    @classmethod
    def of_request(cls, limits: RequestLimits, arrived: float, header: bytes | None) -> Deadline:
        """The deadline of a request that arrived at `arrived`. The header can only shorten the configured one.

        Raises Rejected (422) if the header is not a number of milliseconds.
        """
        ends = [limits.deadline_ms] if limits.deadline_ms else []
        if header is not None:
            if not _MILLISECONDS.fullmatch(header):
                fault = "the value is not a number of milliseconds"
                remedy = "send the header once, with a number like 50"
                raise Rejected(422, problem("deadline", fault, remedy, field=DEADLINE_HEADER, where="header"))
            ends.append(float(header))
        return cls(arrived + min(ends) / 1e3) if ends else NEVER

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any]) -> Deadline:
        """The deadline that Guard set, or NEVER without a Guard."""
        return scope.get("state", {}).get("deadline", NEVER)

    def has_passed(self, needed_s: float = 0.0) -> bool:
        """Whether it passes within `needed_s` seconds from now."""
        return time.perf_counter() + needed_s >= self.at


NEVER = Deadline()


class ExpectedTime:
    """The expected duration of scoring, in seconds. A slow history store would make requests miss their deadlines.

    An exponential moving average that halves every `half_life_s` without an observation, so that after a phase of
    fallbacks one request tries scoring again. Not thread-safe.
    """

    def __init__(self, weight: float = 0.25, half_life_s: float = 1.0) -> None:
        self._weight, self._half_life = weight, half_life_s
        self._mean = 0.0
        self._observed = time.perf_counter()

    def observe(self, seconds: float) -> None:
        """Add a measured duration."""
        self._mean += self._weight * (seconds - self._mean)
        self._observed = time.perf_counter()

    def seconds(self) -> float:
        """The expected duration of the next call."""
        return self._mean * 0.5 ** ((time.perf_counter() - self._observed) / self._half_life)


class TokenBucket:
    """Allows `rate` requests per second and bursts of `burst` (Turner 1986, "leaky bucket as a meter")."""

    __slots__ = ("_level", "_then", "burst", "rate")

    def __init__(self, rate: float, burst: float = 0.0) -> None:
        self.rate, self.burst = rate, max(burst or rate, 1.0)
        self._level, self._then = self.burst, -math.inf

    def wait_s(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until the next one. now: any monotonic clock."""
        level = min(self.burst, self._level + (now - self._then) * self.rate)
        self._then = now
        if level < 1.0:
            self._level = level
            return (1.0 - level) / self.rate
        self._level = level - 1.0
        return 0.0


class RateLimiter:
    """One bucket per key, with the key's own rate or else that of `limits`."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._buckets: dict[bytes, TokenBucket] = {}

    def wait_s(self, key: ApiKey | None, now: float) -> float:
        """0 if a request with `key` may pass now, else the seconds to wait. None: the service has no keys."""
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
