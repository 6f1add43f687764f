"""One JSON object for a request, as the message of logger "serve_app.access"; never what was sent in it.

A share of the requests is logged. Answers of 400 and above always are, but of 401 and 429 ten a second: callers without
a key must not fill the disk.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from fraud.settings.serving import AccessLogSettings
from serve_app.http.limits import TokenBucket

logger = logging.getLogger("serve_app.access")

_BURSTING = frozenset({401, 429})
_LINES_A_SECOND, _LINES_AT_ONCE = 10.0, 50.0


class AccessLog:
    """Writes the log. sample: share of the requests, 0 to 1; version: says which model serves now."""

    def __init__(self, sample: float = 0.01, version: Callable[[], str] | None = None) -> None:
        self._sample = sample
        self._version = version
        self._bucket = TokenBucket(_LINES_A_SECOND, _LINES_AT_ONCE)
        self._n_left_out = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], version: Callable[[], str] | None = None) -> AccessLog:
        """Read the setting. Raises ConfigError where it is no share."""
        return cls(AccessLogSettings.from_environment(environment).sample, version)

    def wants(self, status: int) -> bool:
        """Whether to log this request; asked once, when it was answered."""
        if status in _BURSTING:
            if self._bucket.wait_s(time.perf_counter()):
                self._n_left_out += 1
                return False
            return True
        return status >= 400 or random.random() < self._sample

    def note(
        self,
        *,
        request_id: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        received: int,
        sent: int,
        key_name: str,
        version: str | None = None,
    ) -> None:
        """Log a request. path: known, or "other"; received, sent: bytes of the bodies; version: of the model
        that answered, where that is known."""
        now = time.time()
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "request_id": request_id,
            "method": method,
            "path": path,
            "status": status,
            "ms": round(seconds * 1e3, 3),
            "bytes_in": received,
            "bytes_out": sent,
            "key_name": key_name,
            "model_version": version if version is not None else self._version() if self._version else None,
        }
        if self._n_left_out:
            line["left_out"], self._n_left_out = self._n_left_out, 0
        logger.info("%s", json.dumps(line))
