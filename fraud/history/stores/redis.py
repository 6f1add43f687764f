"""State store in Redis, shared by replicas on several machines. See docs/history.md on how to run it safely.

Per entity: a LIST of records sorted by time, key `NAMESPACE:PLAN:e:ENTITY`, and a ZSET of frauds by time, key
`NAMESPACE:PLAN:f:ENTITY`. PLAN is EntityPlan.fingerprint, so a new model version with the same plan continues the live
history. Both expire when idle; named values (`NAMESPACE:v:NAME`) do not. A request is one script call and one round
trip.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from fraud.errors import ConfigError, StoreError
from fraud.history.definition import DAY, EntityPlan
from fraud.history.state import HistoryState
from fraud.history.stores import redis_scripts
from fraud.history.stores.records import NEVER, time_of
from fraud.history.stores.store import StoredRecords, Visit

if TYPE_CHECKING:
    import redis

logger = logging.getLogger(__name__)

# After a failure, requests fail at once for this long.
_PAUSE_SECONDS = 1.0
# Background work has a longer timeout, and runs in batches that keep Redis busy for milliseconds only.
_LONG_SECONDS, _SEED_ENTITIES, _SEED_BYTES, _VISITS = 30.0, 1_000, 1_000_000, 1_000
_BEAT, _NEWEST = "beat", "newest"
T = TypeVar("T")


class RedisStore:
    """A live history shared by replicas. Thread-safe. Connects on first use.

    url: redis://, rediss:// (TLS) or unix://, including the password. namespace: key prefix, one per model.
    timeout_ms: of a request and of connecting. Raises ConfigError if the URL is invalid.
    """

    def __init__(
        self, url: str, plans: Sequence[EntityPlan], *, namespace: str = "fraud", timeout_ms: float = 100.0
    ) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._errors = redis.RedisError
        self._missing_script = redis.exceptions.NoScriptError
        self._refused = (redis.exceptions.NoPermissionError, redis.exceptions.ResponseError)
        try:
            parts = urlsplit(url)
            self._address = f"{parts.scheme}://{parts.hostname or parts.path}:{parts.port or 6379}"  # no password in it
            self._connect = lambda seconds: redis.Redis.from_url(
                url, socket_timeout=seconds, socket_connect_timeout=min(seconds, 5.0),
                # Retry once if a restart of Redis closed the connection; never after a timeout.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )  # fmt: skip
            self._client: redis.Redis = self._connect(timeout_ms / 1e3)
        except ValueError:
            raise ConfigError("FRAUD_HISTORY_URL is not a Redis URL; write redis://:PASSWORD@HOST:6379/0") from None
        self._plans, self._namespace = list(plans), namespace
        self._prefixes = [f"{namespace}:{plan.fingerprint}:" for plan in plans]
        self._ttls = [round((plan.memory + DAY) / 1e6) for plan in plans]
        self._shas: dict[str, str] = {}
        self._background: redis.Redis = self._connect(_LONG_SECONDS)
        self._token, self._leases = secrets.token_hex(8), set[str]()
        self._newest, self._beat, self._evicted = NEVER, 0, -1
        self._maintaining = threading.Lock()
        self._closed_until = 0.0
        self._is_failing = False

    def exchange(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateStore."""
        arguments: list[Any] = []
        for plan, _, record in visits:
            arguments += (record, self._plans[plan].store_capacity, self._ttls[plan])
        remembered = self._remembered(visits, arguments)
        if visits:
            self._newest = max(self._newest, time_of(visits[0].record))
        return remembered

    def peek(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateReader."""
        return self._remembered(visits, [])

    def take_back(self, visits: Sequence[Visit]) -> None:
        """See StateStore."""
        pipeline = self._client.pipeline(transaction=False)
        for plan, key, record in visits:
            pipeline.lrem(self._events(plan, key), -1, record)  # type: ignore[arg-type]
        self._try(pipeline.execute)

    def learn_fraud(self, visits: Sequence[Visit], *, is_fraud: bool) -> None:
        """See StateStore."""
        client = self._client if len(visits) < 10 else self._background
        for start in range(0, len(visits), _VISITS):
            pipeline = client.pipeline(transaction=False)
            for plan, key, record in visits[start : start + _VISITS]:
                name = self._frauds(plan, key)
                if is_fraud:
                    when, most = time_of(record), 4 * self._plans[plan].store_capacity
                    pipeline.zadd(name, {record: when})
                    pipeline.zremrangebyscore(name, "-inf", when - 2 * self._plans[plan].memory)
                    pipeline.zremrangebyrank(name, 0, -most - 1)
                    pipeline.expire(name, self._ttls[plan])
                else:
                    pipeline.zrem(name, record)
            self._try(pipeline.execute)

    def seed(self, states: Sequence[HistoryState], only: Collection[int] | None = None) -> int:
        """See LiveStore."""
        changed = 0
        for plan, state in enumerate(states):
            if only is None or plan in only:
                for rows in self._portions(plan, state):
                    changed += sum(self._enter(plan, state, rows, with_events=True))
        newest = [state.last_time for state in states if state.last_time is not None]
        self._newest = max([self._newest, *newest])
        self._keep_newest()
        return changed

    def enter_frauds(self, states: Sequence[HistoryState]) -> int:
        """See LiveStore."""
        return sum(
            sum(self._enter(plan, state, rows, with_events=False))
            for plan, state in enumerate(states)
            for rows in self._portions(plan, state)
        )

    @property
    def newest(self) -> int | None:
        """See LiveStore."""
        newest = max(self._newest, int(self.get(_NEWEST) or NEVER))
        return None if newest == NEVER else newest

    def get(self, name: str) -> bytes | None:
        """See LiveStore."""
        value: bytes | None = self._try(lambda: self._background.get(self._value(name)))  # type: ignore[assignment]
        return value

    def put(self, name: str, value: bytes | None) -> None:
        """See LiveStore."""
        key = self._value(name)
        self._try(lambda: self._background.delete(key) if value is None else self._background.set(key, value))

    def lease(self, name: str, seconds: float) -> bool:
        """See LiveStore."""
        is_holder = self._run(self._background, redis_scripts.LEASE, [self._value(f"lease {name}")],
                         [self._token, round(seconds * 1e3)])  # fmt: skip
        if is_holder:
            self._leases.add(name)
        return bool(is_holder)

    def release(self, name: str) -> None:
        """See LiveStore."""
        self._leases.discard(name)
        self._run(self._background, redis_scripts.RELEASE, [self._value(f"lease {name}")], [self._token])

    def check_eviction(self) -> str | None:
        """Refuse a Redis that may evict keys: it would lose cards silently.

        Returns a warning if the policy cannot be read. Raises ConfigError if Redis may evict, StoreError if it does not
        answer.
        """
        try:
            about = self._try(lambda: self._background.info("memory"))
            limit, policy = int(about["maxmemory"]), str(about["maxmemory_policy"])
        except (KeyError, ValueError):
            return self._unknown_policy()
        except StoreError as error:
            if isinstance(error.__cause__, self._refused):
                self._closed_until = 0.0
                return self._unknown_policy()
            raise
        if limit > 0 and policy != "noeviction":
            raise ConfigError(
                f"Redis at {self._address} has maxmemory-policy {policy} with maxmemory {limit:,}: when full, it drops "
                "cards, and their next transactions are scored without history. Set `maxmemory-policy noeviction` "
                "(CONFIG SET maxmemory-policy noeviction, and in redis.conf), then start again"
            )
        return None

    def maintain(self) -> list[str]:
        """See LiveStore: reports evicted entities, and a Redis with older data (a restored or promoted copy)."""
        with self._maintaining:
            losses = []
            self._keep_newest()
            key, seen = self._value(_BEAT), self._beat
            beat = int(self._run(self._background, redis_scripts.BEAT, [key], [seen]))
            if beat < seen:
                losses.append("went back in time" if beat else "was emptied")
            self._beat = max(beat, seen) + 1
            try:
                evicted = int(self._try(lambda: self._background.info("stats"))["evicted_keys"])
            except (StoreError, KeyError, ValueError):
                self._closed_until = 0.0
                return losses
            if 0 <= self._evicted < evicted:
                losses.append(f"evicted {evicted - self._evicted:,} entities (set maxmemory-policy noeviction)")
            self._evicted = evicted
            return losses

    def erase(self, plan: int, key: str) -> bool:
        """See LiveStore."""
        names = [self._events(plan, key), self._frauds(plan, key)]
        return bool(self._try(lambda: self._background.delete(*names)))

    def ping(self) -> None:
        """Raise StoreError unless Redis answers."""
        self._try(self._client.ping)

    def close(self) -> None:
        """Release the leases and close the connections."""
        with suppress(StoreError):  # an unreleased lease expires
            for name in list(self._leases):
                self.release(name)
        self._client.close()
        self._background.close()

    def _portions(self, plan: int, state: HistoryState) -> Iterator[range]:
        """Split the entities of a state into batches of bounded size, so that other requests do not wait long."""
        width = self._plans[plan].record.itemsize
        ends, start, n = np.cumsum(np.diff(state.starts) * width), 0, len(state.keys)
        while start < n:
            done = int(ends[start - 1]) if start else 0
            by_size = int(np.searchsorted(ends, done + _SEED_BYTES, side="right"))
            stop = min(n, max(start + 1, min(start + _SEED_ENTITIES, by_size)))
            yield range(start, stop)
            start = stop

    def _enter(self, plan: int, state: HistoryState, rows: range, *, with_events: bool) -> list[int]:
        """Add missing records. Returns per entity whether it changed; without events, its number of new frauds."""
        width = self._plans[plan].record.itemsize
        names: list[bytes] = []
        capacity = self._plans[plan].store_capacity
        arguments: list[Any] = [width, capacity, self._ttls[plan], 4 * capacity, int(with_events)]
        for row in rows:
            frauds = state.frauds[state.fraud_starts[row] : state.fraud_starts[row + 1]].tobytes()
            events = state.events[state.starts[row] : state.starts[row + 1]].tobytes() if with_events else b""
            if frauds or events:
                names += [self._events(plan, str(state.keys[row])), self._frauds(plan, str(state.keys[row]))]
                arguments += [events, frauds]
        changes: list[int] = self._run(self._background, redis_scripts.ENTER, names, arguments) if names else []
        return changes

    def _keep_newest(self) -> None:
        """Exchange the time of the newest event with the other processes."""
        newest = self._run(self._background, redis_scripts.LARGEST, [self._value(_NEWEST)], [self._newest])
        self._newest = max(self._newest, int(newest))

    def _unknown_policy(self) -> str:
        return (
            f"maxmemory-policy of Redis at {self._address} cannot be read (this user may not run INFO): "
            "make sure that it is noeviction, or Redis drops cards silently"
        )

    def _value(self, name: str) -> str:
        return f"{self._namespace}:v:{name}"

    def _events(self, plan: int, key: str) -> bytes:
        return f"{self._prefixes[plan]}e:{key}".encode(errors="surrogatepass")

    def _frauds(self, plan: int, key: str) -> bytes:
        return f"{self._prefixes[plan]}f:{key}".encode(errors="surrogatepass")

    def _remembered(self, visits: Sequence[Visit], arguments: Sequence[Any]) -> list[StoredRecords]:
        if not visits:
            return []
        keys = [name for plan, key, _ in visits for name in (self._events(plan, key), self._frauds(plan, key))]
        blobs = self._run(self._client, redis_scripts.EXCHANGE, keys, arguments)
        return [StoredRecords(blobs[i], blobs[i + 1]) for i in range(0, len(blobs), 2)]

    def _run(self, client: redis.Redis, script: str, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        def call() -> Any:
            try:
                return client.evalsha(self._shas[script], len(keys), *keys, *arguments)
            except (KeyError, self._missing_script):  # the first call, or Redis was restarted
                self._shas[script] = client.script_load(script)
                return client.evalsha(self._shas[script], len(keys), *keys, *arguments)

        return self._try(call)

    def _try(self, call: Callable[[], T]) -> T:
        """Call Redis. A failure raises StoreError, stops calls for `_PAUSE_SECONDS` and is logged once an outage."""
        if time.monotonic() < self._closed_until:
            raise StoreError(f"Redis at {self._address} failed a moment ago")
        try:
            result = call()
        except self._errors as error:
            self._closed_until = time.monotonic() + _PAUSE_SECONDS
            message = (
                f"Redis at {self._address} failed ({type(error).__name__}: {str(error)[:120]}); check that it runs"
            )
            if not self._is_failing:
                logger.warning("%s. Until it answers, rows are scored with the model's own history", message)
            self._is_failing = True
            raise StoreError(message) from error
        if self._is_failing:
            logger.info("Redis at %s answers again", self._address)
            self._is_failing = False
        return result
