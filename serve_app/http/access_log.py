"""The access log: one JSON object per request, as the message of logger "serve_app.access". Never logs request data.

Logs a sample of the requests and every response of 400 and above. 401 and 429 are limited to ten lines per second, so
that callers without a key cannot fill the disk.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fraud.settings.serving import AccessLogSettings
from serve_app.http.limits import TokenBucket

logger = logging.getLogger("serve_app.access")

_BURSTING = frozenset({401, 429})
_LINES_A_SECOND, _LINES_AT_ONCE = 10.0, 50.0


class AnsweredRequest(NamedTuple):
    """A request to log. path: known, or "other"; received, sent: bytes of the bodies; version: of the model."""

    request_id: str
    method: str
    path: str
    status: int
    seconds: float
    received: int
    sent: int
    key_name: str
    version: str | None = None


class AccessLog:
    """Writes the log. sample: share of the requests, 0 to 1; version: returns the current model version."""

    def __init__(self, sample: float = 0.01, version: Callable[[], str] | None = None) -> None:
        self._sample = sample
        self._version = version
        self._bucket = TokenBucket(_LINES_A_SECOND, _LINES_AT_ONCE)
        self._n_left_out = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], version: Callable[[], str] | None = None) -> AccessLog:
        """Read the setting. Raises ConfigError if it is not between 0 and 1."""
        return cls(AccessLogSettings.from_environment(environment).sample, version)

    def should_log(self, status: int) -> bool:
        """Whether to log a request. Call once per request, after the response."""
        if status in _BURSTING:
            if self._bucket.wait_s(time.perf_counter()):
                self._n_left_out += 1
                return False
            return True
        return status >= 400 or random.random() < self._sample

    def write(self, request: AnsweredRequest) -> None:
        """Log a request."""
        now = time.time()
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "request_id": request.request_id,
            "method": request.method,
            "path": request.path,
            "status": request.status,
            "ms": round(request.seconds * 1e3, 3),
            "bytes_in": request.received,
            "bytes_out": request.sent,
            "key_name": request.key_name,
            "model_version": self._version() if request.version is None and self._version else request.version,
        }
        if self._n_left_out:
            line["left_out"], self._n_left_out = self._n_left_out, 0
        logger.info("%s", json.dumps(line))
