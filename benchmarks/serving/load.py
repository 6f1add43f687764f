"""Load an HTTP server with wrk, which uses little CPU and so leaves the machine to the server."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from fraud.errors import DataError

TIMEOUT_S = 20
CONNECTIONS_A_THREAD = 32
_SUMMARY = "SUMMARY "
# wrk runs this script in every thread, and setup() and done() in its main thread. wrk delays each connection, so the
# connections of a thread share one schedule; after a pause of the server they catch up.
_SCRIPT = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } moment; int clock_gettime(int, moment *);")
local moment = ffi.new("moment")
local function now()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.s) * 1000 + tonumber(moment.ns) / 1e6
end
wrk.method = "POST"
local threads = {}
function setup(thread)
  thread:set("first", #threads * @APART@ + @FIRST@)
  table.insert(threads, thread)
end
function init(args)
  requests, statuses = {}, {}
  local file = assert(io.open("@BODIES@", "rb"))
  for length in file:lines() do
    table.insert(requests, wrk.format(nil, nil, nil, file:read(tonumber(length))))
  end
  file:close()
  position, turn = first % #requests, 0
end
function request()
  position = position % #requests + 1
  return requests[position]
end
function response(status, headers, body)
  local name = tostring(status)
  statuses[name] = (statuses[name] or 0) + 1
end
if @EVERY_MS@ > 0 then
  function delay()
    local at = now()
    if turn == 0 then turn = at end
    turn = turn + @EVERY_MS@
    return math.max(0, turn - at)
  end
end
function done(summary, latency, requests)
  local counted = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do counted[status] = (counted[status] or 0) + count end
  end
  local parts = {}
  for status, count in pairs(counted) do table.insert(parts, string.format('"%s": %d', status, count)) end
  local errors = summary.errors
  io.write(string.format(
    '@SUMMARY@{"requests": %d, "us": %d, "p50": %d, "p99": %d, "p999": %d, "statuses": {%s}, ' ..
    '"errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    table.concat(parts, ", "), errors.connect, errors.read, errors.write, errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """Result of a load.

    requests: answers of any status. seconds: duration. rate: answers per second. p50_ms, p99_ms, p999_ms: latency, NaN
    without answers; wrk corrects for coordinated omission. statuses: answers by HTTP status. socket_errors: counts of
    connect, read, write, timeout (TIMEOUT_S).
    """

    requests: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    statuses: dict[str, int] = field(default_factory=dict)
    socket_errors: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of answers other than 200 and of requests without an answer."""
        others = sum(count for status, count in self.statuses.items() if status != "200")
        return others + sum(self.socket_errors.values())


def drive(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] = MappingProxyType({}),
    content_type: str = "application/json",
    rate: float | None = None,
) -> Load:
    """POST `bodies` to `url` over keep-alive connections for `seconds` (rounded, at least 1), round robin.

    rate: requests per second, evenly spaced; None: each connection sends as soon as it is answered. wrk uses one thread
    for up to 32 connections, else two. Raises DataError if wrk is missing or nothing listens.
    """
    if not bodies:
        raise DataError("no bodies to send: give at least one")
    wrk = shutil.which("wrk")
    if wrk is None:
        raise DataError("wrk, the load generator, is not installed: apt-get install wrk")
    threads = 1 if connections <= CONNECTIONS_A_THREAD else 2
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        _write_bodies(Path(folder, "bodies"), bodies)
        values = {
            "BODIES": Path(folder, "bodies"),
            "FIRST": random.randrange(len(bodies)),
            "APART": len(bodies) // threads,
            "EVERY_MS": 1000 * threads / rate if rate else 0,
            "SUMMARY": _SUMMARY,
        }
        script = _SCRIPT
        for name, value in values.items():
            script = script.replace(f"@{name}@", str(value))
        Path(folder, "load.lua").write_text(script)
        command = [wrk, "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
        command += ["--timeout", f"{TIMEOUT_S}s", "-s", str(Path(folder, "load.lua"))]
        for name, content in {"Content-Type": content_type, **headers}.items():
            command += ["-H", f"{name}: {content}"]
        done = subprocess.run([*command, url], capture_output=True, text=True, errors="replace")
    summaries = [line for line in done.stdout.splitlines() if line.startswith(_SUMMARY)]
    if done.returncode or not summaries:
        raise DataError(f"wrk ended with {done.returncode} on {url}: {(done.stderr or done.stdout).strip()[-500:]}")
    return _load(json.loads(summaries[0].removeprefix(_SUMMARY)))


def _write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    """Write each body after a line with its length."""
    with path.open("wb") as file:
        for body in bodies:
            file.write(b"%d\n%s" % (len(body), body))


def _load(summary: Mapping[str, object]) -> Load:
    def count(value: object) -> int:
        assert isinstance(value, int)
        return value

    def counts(value: object) -> dict[str, int]:
        assert isinstance(value, dict)
        return dict(sorted(value.items()))

    requests, seconds = count(summary["requests"]), count(summary["us"]) / 1e6
    p50, p99, p999 = (count(summary[key]) / 1000 if requests else math.nan for key in ("p50", "p99", "p999"))
    return Load(
        requests, seconds, requests / seconds, p50, p99, p999, counts(summary["statuses"]), counts(summary["errors"])
    )
