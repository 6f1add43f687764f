"""Rounds: start, check, load and stop every server, one after another.

Servers are restarted for each round, not left running: an idle Ray uses CPU, a suspended one misses heartbeats, and
eleven servers do not fit into memory. The order of the servers rotates between rounds.
"""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import environments, load, servers
from benchmarks.serving.processes import Processes, cpu_between
from benchmarks.serving.protocols import Protocol
from benchmarks.serving.sandbox import Sandbox
from benchmarks.serving.servers import Server
from benchmarks.serving.workload import BATCH_ROWS, Workload, cache
from deploy.processes import free_port
from fraud.errors import DataError
from fraud.settings import Settings

FIRST_PORT = 21_000
START_TIMEOUT_S = 180.0
TOLERANCE = 1e-4  # of a score; some servers round the scores in their JSON
CHECKED_ROWS = 20
PARTS = ("single", "batch", "memory")
_CONNECTIONS = {"single": (1, 16, 64), "batch": (1, 16)}
_NAMES = {"single": ("single",), "batch": ("json", "ndjson", "arrow")}

Log = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One load. protocol: "single" or a batch format; connections: number of concurrent callers."""

    protocol: str
    connections: int

    @property
    def name(self) -> str:
        """Key in the results."""
        return f"{self.protocol} {self.connections}"

    @property
    def rows(self) -> int:
        """Rows per request."""
        return 1 if self.protocol == "single" else BATCH_ROWS


def cases(server: Server, parts: Sequence[str]) -> Iterator[Case]:
    """Cases of the parts that a server supports."""
    for part, connections in _CONNECTIONS.items():
        for name in _NAMES[part] if part in parts else ():
            if name in server.protocols:
                yield from (Case(name, count) for count in connections)


def run(
    names: Sequence[str], workload: Workload, settings: Settings, *, parts: Sequence[str], rounds: int, seconds: float,
    log: Log,
) -> dict[str, Any]:  # fmt: skip
    """Measure all servers. Returns {server: {title, version, rounds, error?}}; a round: {cases: {name: figures}, ...}.

    A failed round has an error and no cases. A server that fails its first two rounds is skipped in the others.
    """
    results: dict[str, Any] = {}
    programs: dict[str, Path] = {}
    for name in names:
        server = servers.SERVERS[name]
        results[name] = {"title": server.title, "rounds": []}
        try:
            programs[name] = environments.folder_of_programs(settings, server.peer)
            results[name]["version"] = environments.version_of(programs[name], server.package)
        except DataError as error:
            log(f"{name}: not installed: {error}")
            results[name]["error"] = f"not installed: {error}"
    for number in range(rounds):
        turned = [*programs][number % max(1, len(programs)) :] + [*programs][: number % max(1, len(programs))]
        for name in turned:
            turns = results[name]["rounds"]
            if len(turns) > 1 and all("error" in turn for turn in turns):
                continue
            try:
                result = one_round(servers.SERVERS[name], programs[name], workload, settings, parts, seconds)
            except DataError as error:
                log(f"round {number + 1}/{rounds} {name}: {error}")
                turns.append({"error": _short(str(error)), "cases": {}})
                continue
            turns.append(result)
            figures = ", ".join(f"{case} {figure['rate']:,.0f}" for case, figure in result["cases"].items())
            spent_on = f"{result['start_seconds']:.0f} s to start, {result['stop_seconds']:.0f} s to stop"
            log(f"round {number + 1}/{rounds} {name} ({spent_on}): {figures}")
    for one in results.values():
        if one["rounds"] and all("error" in turn for turn in one["rounds"]):
            one["error"], one["rounds"] = one["rounds"][-1]["error"], []
    return results


def _short(error: str) -> str:
    """First line of the error without details, and the last log line, which has the cause."""
    first, *others = error.splitlines()
    return f"{first.split(':')[0]}: {others[-1].strip()}" if others else first


def one_round(
    server: Server, programs: Path, workload: Workload, settings: Settings, parts: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Start, check, load and stop one server. Raises DataError if any of it fails."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        processes = Processes(Path(scratch, "server.log"))
        try:
            kernels = cache(settings) / "kernels"
            port = free_port(FIRST_PORT)
            environment = servers.environment(workload, programs, kernels)
            sandbox = Sandbox(processes, workload, programs, Path(scratch), port, environment)
            began = time.monotonic()
            headers = server.launch(sandbox) or {}
            url = f"http://127.0.0.1:{port}"
            _wait(url, server, headers, processes, workload)
            started = time.monotonic() - began
            _check(url, server, headers, workload)
            result: dict[str, Any] = {"start_seconds": started, "idle_cpu": _idle(processes), "cases": {}}
            warm: set[str] = set()
            for case in cases(server, parts):
                bodies = _bodies(server.protocols[case.protocol], case, workload)
                if case.protocol != "single" and "memory" in parts and "memory" not in result:
                    result["memory"] = asdict(processes.memory())
                if case.protocol not in warm:
                    warm.add(case.protocol)
                    _drive(url, server, case, bodies, headers, 1)
                before = processes.cpu_seconds()
                driven = _drive(url, server, case, bodies, headers, seconds)
                cpu = cpu_between(before, processes.cpu_seconds())
                result["cases"][case.name] = _figures(driven, cpu, case)
            if "memory" in parts:
                result["memory_after_batches" if "memory" in result else "memory"] = asdict(processes.memory())
        finally:
            ended = time.monotonic()
            processes.stop()
        result["stop_seconds"] = time.monotonic() - ended
        return result


def _idle(processes: Processes) -> float:
    """CPU use of the idle server, CPUs; the CPU time per request includes it."""
    before, began = processes.cpu_seconds(), time.monotonic()
    time.sleep(1)
    return cpu_between(before, processes.cpu_seconds()) / (time.monotonic() - began)


def _figures(driven: load.Load, cpu: float, case: Case) -> dict[str, Any]:
    answered = driven.requests * case.rows
    return {
        "rate": driven.rate * case.rows,
        "cpu_us": cpu / answered * 1e6 if answered else None,
        **{name: getattr(driven, name) for name in ("requests", "seconds")},
        **{name: getattr(driven, name) if answered else None for name in ("p50_ms", "p99_ms", "p999_ms")},
        "failed": driven.failed,
        "statuses": driven.statuses,
        "socket_errors": driven.socket_errors,
    }


def _bodies(protocol: Protocol, case: Case, workload: Workload) -> list[bytes]:
    if case.protocol == "single":
        return [protocol.encode([row]) for row in workload.singles]
    return [protocol.encode(rows) for rows in workload.batches]


def _drive(
    url: str, server: Server, case: Case, bodies: Sequence[bytes], headers: Mapping[str, str], seconds: float
) -> load.Load:
    protocol = server.protocols[case.protocol]
    return load.drive(
        url + protocol.path, bodies, connections=case.connections, seconds=seconds, headers=headers,
        content_type=protocol.content_type,
    )  # fmt: skip


def _wait(url: str, server: Server, headers: Mapping[str, str], processes: Processes, workload: Workload) -> None:
    """Wait until one transaction is scored. Raises DataError with the end of the log after START_TIMEOUT_S."""
    protocol, began = server.protocols["single"], time.monotonic()
    body, reason = protocol.encode(workload.singles[:1]), "no answer"
    while time.monotonic() - began < START_TIMEOUT_S:
        processes.check()
        try:
            protocol.scores(ask(url, protocol, headers, body))
            return
        except (OSError, ValueError, KeyError) as error:
            reason = str(error)
        time.sleep(0.1)
    raise DataError(f"no score after {START_TIMEOUT_S:.0f} s ({reason}): {processes.last_lines()}")


def ask(url: str, protocol: Protocol, headers: Mapping[str, str], body: bytes) -> bytes:
    """POST one body; returns the answer. Raises OSError unless the status is 200."""
    request = urllib.request.Request(
        url + protocol.path, data=body, headers={"Content-Type": protocol.content_type, **headers}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=20) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise OSError(f"{error}: {error.read()[:300]!r}") from None


def _check(url: str, server: Server, headers: Mapping[str, str], workload: Workload) -> None:
    """Check the scores: equal to the engine's, or, from another model, higher for frauds. Raises DataError."""
    for name, protocol in server.protocols.items():
        if name == "single":
            rows, expected = workload.singles[:CHECKED_ROWS], workload.scores[:CHECKED_ROWS]
            bodies, is_fraud = [protocol.encode([row]) for row in rows], None
        else:
            first = len(workload.singles)
            expected, is_fraud = (all_[first : first + BATCH_ROWS] for all_ in (workload.scores, workload.is_fraud))
            bodies = [protocol.encode(workload.batches[0])]
        scores = np.concatenate([protocol.scores(ask(url, protocol, headers, body)) for body in bodies])
        if len(scores) != len(expected) or not np.isfinite(scores).all():
            raise DataError(f"{server.title} returned {len(scores)} scores for {len(expected)} rows, or NaN ({name})")
        apart = np.abs(scores - expected).max()
        if server.has_our_engine and apart > TOLERANCE:
            raise DataError(f"{server.title}: scores differ from the engine's by up to {apart:.2g} ({name})")
        if not server.has_our_engine and is_fraud is not None and scores[is_fraud].mean() <= scores[~is_fraud].mean():
            raise DataError(f"{server.title}: frauds do not score higher than other rows")
