"""Valid and invalid requests that schemathesis generates from the OpenAPI document, and its response checks."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from serve_app.openapi import STREAMS_KEY

MODES = ("positive", "negative")
_MOST_FAILURES = 50
_MILLISECONDS = re.compile(r"-?\d{1,9}(\.\d{1,9})?")


@dataclass
class Tally:
    """Counts of a run. requests: by "METHOD path"; statuses: by code; failures: {"check: operation": example}."""

    requests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    longest_ms: float = 0.0
    longest: str = ""

    @property
    def n(self) -> int:
        """Number of requests."""
        return sum(self.requests.values())

    def fail(self, what: str, example: str) -> None:
        """Record a failure; keeps the first example of each kind."""
        if len(self.failures) < _MOST_FAILURES:
            self.failures.setdefault(what, example[:2000])

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Time one request."""
        began = time.perf_counter()
        yield
        took = (time.perf_counter() - began) * 1e3
        if took > self.longest_ms:
            self.longest_ms, self.longest = took, what


class Cases:
    """Sends generated requests and counts the outcomes in `tally`.

    schema: loaded by schemathesis from the OpenAPI document. key: API key. after: called after every request. call:
    further arguments of schemathesis' `case.call`.
    """

    def __init__(self, schema: Any, key: str, *, after: Callable[[], None] | None = None, **call: Any) -> None:
        self.tally = Tally()
        for path in schema.raw_schema["paths"].values():
            for operation in path.values():
                if streams := operation.get(STREAMS_KEY):
                    operation["requestBody"]["content"] |= streams
                    operation["responses"]["200"]["content"] |= streams
        self._schema, self._key, self._after, self._call = schema, key, after, call

    def register_bodies(self, bodies: Mapping[str, SearchStrategy[bytes]]) -> None:
        """Register strategies for non-JSON bodies and for times with schemathesis."""
        from schemathesis.openapi import format, media_type

        format("date-time", _times())
        for name, strategy in bodies.items():
            media_type(name, strategy)

    def run(self, n: int, *, start: int = 0) -> Tally:
        """Send at least `n` requests: boundary cases, then drawn ones. start: seed."""
        operations = [result.ok() for result in self._schema.get_all_operations()]
        for operation in operations:
            self._send_boundaries(operation)
        posts = [operation for operation in operations if operation.method.lower() == "post"]
        while self.tally.n < n:
            share = max(20, (n - self.tally.n) // (len(MODES) * len(posts)))
            for operation in posts:
                for mode in MODES:
                    start += 1
                    self._send_drawn(operation, mode, share, start)
        return self.tally

    def _send_boundaries(self, operation: Any) -> None:
        """Send schemathesis' boundary values, wrong methods, missing headers and missing content types."""
        from schemathesis.generation import GenerationMode

        config = self._schema.config.generation_for(operation=operation)
        modes = [GenerationMode(mode) for mode in MODES]
        for case in self._schema.iter_coverage_cases(operation, generation_modes=modes, generation_config=config):
            self._send(case)

    def _send_drawn(self, operation: Any, mode: str, n: int, start: int) -> None:
        from schemathesis.generation import GenerationMode

        @seed(start)
        @settings(
            max_examples=n,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
        def send(case: Any) -> None:
            self._send(case)

        send()

    def _send(self, case: Any) -> None:
        from schemathesis.core.failures import FailureGroup

        tally, what = self.tally, f"{case.method.upper()} {case.path}"
        tally.requests[what] += 1
        try:
            with tally.timed(what):
                answer = case.call(headers={"X-API-Key": self._key}, **self._call)
            tally.statuses[str(answer.status_code)] += 1
            case.validate_response(answer, excluded_checks=[_check("ignored_auth")])
        except FailureGroup as group:
            for failure in group.exceptions:
                if not _is_beyond_schema(type(failure).__name__, case, answer):
                    tally.fail(
                        f"{type(failure).__name__}: {what}", f"{failure}\n{_shown(case)}\n{answer.content[:500]!r}"
                    )
        except OSError as error:  # also the base of requests' exceptions: no answer, or a broken one
            tally.statuses["none"] += 1
            tally.fail(f"{type(error).__name__}: {what}", f"{error}\n{_shown(case)}")
        if self._after is not None:
            self._after()


def _is_beyond_schema(check: str, case: Any, answer: Any) -> bool:
    """Whether a check demands more than the OpenAPI document can express.

    A batch is accepted whatever its rows are; the answer has a verdict per row. NDJSON and Arrow bodies have no schema.
    """
    if check == "AcceptedNegativeData" and _is_right(case):
        return True
    if check not in ("AcceptedNegativeData", "RejectedPositiveData") or "batch" not in case.path:
        return False
    if case.media_type != "application/json":
        return True
    return check == "AcceptedNegativeData" and (answer.json()["rejected"] > 0 or case.body == [])


def _is_right(case: Any) -> bool:
    """Whether a request that schemathesis classifies as invalid is valid by the OpenAPI document.

    A mutated text may still match its pattern; an added parameter is ignored; a changed key is restored by `_send`.
    """
    from jsonschema import Draft202012Validator

    flags = [(case.query or {}).get(name, "true") for name in ("learn", "reasons")]
    deadline = (case.headers or {}).get("X-Deadline-Ms", "50")
    if not all(str(flag).lower() in ("true", "false") for flag in flags) or not _MILLISECONDS.fullmatch(deadline):
        return False
    if "BODY" not in {location.name for location, part in case.meta.components.items() if part.mode.is_negative}:
        return True
    shapes = case.operation.schema.raw_schema.get("components", {}).get("schemas", {})
    transaction = Draft202012Validator(shapes.get("Transaction", False))
    rows = case.body if "batch" in case.path and isinstance(case.body, list) else [case.body]
    return case.media_type == "application/json" and all(map(transaction.is_valid, rows))


def _check(name: str) -> Any:
    """A schemathesis check by name, to exclude. `ignored_auth` triples the requests; benchmarks.fuzz.keys covers it."""
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()
    return CHECKS.get_one(name)


def _times() -> SearchStrategy[str]:
    """ISO times within the accepted years, with and without a zone."""
    zones = st.sampled_from(["", "Z", "+05:30", "-0800"])
    times = st.datetimes(dt.datetime(1901, 1, 1), dt.datetime(2198, 1, 1))
    return st.builds(lambda time, zone: f"{time.isoformat()}{zone}", times, zones)


def _shown(case: Any) -> str:
    return f"{case.query!r} {case.headers!r} {case.media_type} {case.body!r}"
