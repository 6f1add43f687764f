"""The state store in Redis, for several replicas and across restarts. See docs/history.md on how to run it safely.

Of each entity a LIST of records in the order of their arrival, and a ZSET of frauds by time, in keys named
`NAMESPACE:PLAN:e:ENTITY` and `NAMESPACE:PLAN:f:ENTITY`, where PLAN is EntityPlan.fingerprint: a new model version that
remembers the same goes on with the live history. Both expire when idle. A request is one script call, one round trip.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from fraud.errors import ConfigError, StoreError
from fraud.history.definition import DAY, EntityPlan
from fraud.history.state import HistoryState
from fraud.history.stores.store import Remembered, Visit

if TYPE_CHECKING:
    import redis

logger = logging.getLogger(__name__)

# After a failure no request tries, and waits, for this long.
_PAUSE_SECONDS = 1.0
_SEED_SECONDS, _SEED_ENTITIES, _SEED_BYTES = 30.0, 1_000, 1_000_000
T = TypeVar("T")

# KEYS: events and frauds of each visit. ARGV: of each its record, most events to keep, seconds to live; none to read.
# The records come back as one string: the client would take a microsecond for each element of a list.
_EXCHANGE = """
local out = {}
for i = 1, #KEYS / 2 do
    local events = KEYS[2 * i - 1]
    out[2 * i - 1] = table.concat(redis.call('LRANGE', events, 0, -1))
    out[2 * i] = table.concat(redis.call('ZRANGE', KEYS[2 * i], 0, -1))
    if #ARGV > 0 then
        local kept = tonumber(ARGV[3 * i - 1])
        if redis.call('RPUSH', events, ARGV[3 * i - 2]) > kept then redis.call('LTRIM', events, -kept, -1) end
        redis.call('EXPIRE', events, ARGV[3 * i])
    end
end
return out
"""
# KEYS: progress, then lists. ARGV: progress expected, progress to set, bytes a record, seconds to live, then the
# records of each list, oldest first, to put before what is there. Does nothing if another replica got further.
_SEED = """
local progress = redis.call('GET', KEYS[1]) or '0'
if progress ~= ARGV[1] then return {0, progress} end
local width = tonumber(ARGV[3])
for i = 2, #KEYS do
    local records, part = ARGV[i + 3], {}
    for place = #records - width + 1, 1, -width do
        part[#part + 1] = string.sub(records, place, place + width - 1)
        if #part == 1000 or place == 1 then
            redis.call('LPUSH', KEYS[i], unpack(part))
            part = {}
        end
    end
    redis.call('EXPIRE', KEYS[i], ARGV[4])
end
redis.call('SET', KEYS[1], ARGV[2])
return {1, ARGV[2]}
"""


class RedisStore:
    """A live history that replicas share. Safe to share between threads.

    url: redis://, rediss:// (TLS) or unix://, with the password in it; namespace: whose history it is, so that two
    models do not mix; timeout_ms: longest wait for an answer, and for a connection.
    Raises ConfigError if the URL is none. Connects when it is first used.
    """

    def __init__(
        self, url: str, plans: Sequence[EntityPlan], *, namespace: str = "fraud", timeout_ms: float = 100.0
    ) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._errors = redis.RedisError
        self._missing_script = redis.exceptions.NoScriptError
        try:
            parts = urlsplit(url)
            self._place = f"{parts.scheme}://{parts.hostname or parts.path}:{parts.port or 6379}"  # no password in it
            self._connect = lambda seconds: redis.Redis.from_url(
                url, socket_timeout=seconds, socket_connect_timeout=min(seconds, 5.0),
                # A connection that a restart of Redis has closed is worth one try more, a late answer is not.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )  # fmt: skip
            self._client: redis.Redis = self._connect(timeout_ms / 1e3)
        except ValueError:
            raise ConfigError("FRAUD_HISTORY_URL is not a Redis URL; write redis://:PASSWORD@HOST:6379/0") from None
        self._plans = list(plans)
        self._prefixes = [f"{namespace}:{plan.fingerprint}:" for plan in plans]
        self._lives = [round((plan.memory + DAY) / 1e6) for plan in plans]
        self._shas: dict[str, str] = {}
        self._closed_until = 0.0
        self._is_failing = False

    def exchange(self, visits: Sequence[Visit]) -> list[Remembered]:
        """See StateStore."""
        arguments: list[Any] = []
        for plan, _, record in visits:
            arguments += (record, self._plans[plan].kept, self._lives[plan])
        return self._remembered(visits, arguments)

    def peek(self, visits: Sequence[Visit]) -> list[Remembered]:
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
        if not visits:
            return
        pipeline = self._client.pipeline(transaction=False)
        for plan, key, record in visits:
            name = self._frauds(plan, key)
            if is_fraud:
                when, most = int.from_bytes(record[:8], "little", signed=True), 4 * self._plans[plan].kept
                pipeline.zadd(name, {record: when})
                pipeline.zremrangebyscore(name, "-inf", when - 2 * self._plans[plan].memory)
                pipeline.zremrangebyrank(name, 0, -most - 1)
                pipeline.expire(name, self._lives[plan])
            else:
                pipeline.zrem(name, record)
        self._try(pipeline.execute)

    def seed(self, states: Sequence[HistoryState]) -> int:
        """Enter a model's own history where no replica has done so yet; return how many entities this call entered.

        Replicas that start together share the work; a replica that dies leaves the rest to the others. Raises
        StoreError.
        """
        with self._connect(_SEED_SECONDS) as client:
            return sum(self._seed(client, plan, state) for plan, state in enumerate(states))

    def ping(self) -> None:
        """Raise StoreError unless Redis answers."""
        self._try(self._client.ping)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _seed(self, client: redis.Redis, plan: int, state: HistoryState) -> int:
        marker, width = self._prefixes[plan] + "seeded", self._plans[plan].record.itemsize
        events, n, entered = state.events.tobytes(), len(state.keys), 0
        # Chunks of bounded size, so that other requests to Redis do not wait long.
        sizes = (state.starts[1:] - state.starts[:-1]) * width
        ends = np.cumsum(sizes)
        progress = self._try(lambda: client.get(marker)) or b"0"
        while progress != b"done":
            start = int(progress)
            if start > n:  # by a larger model's history; this one has nothing to add
                _, progress = self._run(client, _SEED, [marker], [progress, b"done", width, 0])
                continue
            done = int(ends[start - 1]) if start else 0
            stop = max(
                min(start + _SEED_ENTITIES, int(np.searchsorted(ends, done + _SEED_BYTES, side="right"))), start + 1
            )
            stop = min(stop, n)
            pipeline = self._client.pipeline(transaction=False)
            for row in range(start, stop):
                name = self._frauds(plan, str(state.keys[row]))
                frauds = state.frauds[state.fraud_starts[row] : state.fraud_starts[row + 1]]
                if len(frauds):
                    pipeline.zadd(name, {fraud.tobytes(): int(fraud["time"]) for fraud in frauds})
                    pipeline.expire(name, self._lives[plan])
            self._try(pipeline.execute)
            rows = [row for row in range(start, stop) if sizes[row]]
            keys = [self._events(plan, str(state.keys[row])) for row in rows]
            blobs = [events[state.starts[row] * width : state.starts[row + 1] * width] for row in rows]
            after = b"done" if stop == n else str(stop).encode()
            is_ours, progress = self._run(
                client, _SEED, [marker, *keys], [progress, after, width, self._lives[plan], *blobs]
            )
            entered += (stop - start) * is_ours
        return entered

    def _events(self, plan: int, key: str) -> bytes:
        return f"{self._prefixes[plan]}e:{key}".encode(errors="surrogatepass")

    def _frauds(self, plan: int, key: str) -> bytes:
        return f"{self._prefixes[plan]}f:{key}".encode(errors="surrogatepass")

    def _remembered(self, visits: Sequence[Visit], arguments: Sequence[Any]) -> list[Remembered]:
        if not visits:
            return []
        keys = [name for plan, key, _ in visits for name in (self._events(plan, key), self._frauds(plan, key))]
        found = self._run(self._client, _EXCHANGE, keys, arguments)
        return [Remembered(found[i], found[i + 1]) for i in range(0, len(found), 2)]

    def _run(self, client: redis.Redis, script: str, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        def call() -> Any:
            try:
                return client.evalsha(self._shas[script], len(keys), *keys, *arguments)
            except (KeyError, self._missing_script):  # the first call, or Redis was restarted
                self._shas[script] = client.script_load(script)
                return client.evalsha(self._shas[script], len(keys), *keys, *arguments)

        return self._try(call)

    def _try(self, call: Callable[[], T]) -> T:
        """Call Redis; a failure is a StoreError, and closes the way for a moment. Said in the log once an outage."""
        if time.monotonic() < self._closed_until:
            raise StoreError(f"Redis at {self._place} failed a moment ago")
        try:
            found = call()
        except self._errors as error:
            self._closed_until = time.monotonic() + _PAUSE_SECONDS
            said = f"Redis at {self._place} failed ({type(error).__name__}: {str(error)[:120]}); check that it runs"
            if not self._is_failing:
                logger.warning("%s. Until it answers, rows are scored with the model's own history", said)
            self._is_failing = True
            raise StoreError(said) from error
        if self._is_failing:
            logger.info("Redis at %s answers again", self._place)
            self._is_failing = False
        return found
