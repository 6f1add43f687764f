"""Bad input against /score: schemathesis, hypothesis and a list of attacks against the replica's app.

    python -m benchmarks.fuzz                          # under uvicorn, 5,000 generated cases per schema
    python -m benchmarks.fuzz --ingress                # through Ray Serve and HAProxy
    python -m benchmarks.fuzz --cases 300 --fast       # smoke test; writes nothing
    python -m benchmarks.fuzz --table                  # rewrite the table in docs/bad_input.md

The server runs in production mode with a key, in its own processes; their memory is sampled. Exit status 1: an
answer was wrong; it is printed and written to the JSON. Needs schemathesis (the dev extra).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz import attacks, bodies, keys, table
from benchmarks.fuzz.cases import Cases, Tally
from benchmarks.fuzz.server import Target, serving
from fraud.cli import run_command
from fraud.errors import DataError

PORT = 23000
SCHEMAS = ("transactions", "handbook")
_EVERY = 20  # requests between two memory samples

Log = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks, write the JSON, print the table."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the finally blocks clean up
    out = Path(arguments.out)
    if arguments.table and not out.exists():
        raise DataError(f"{out} is missing: run python -m benchmarks.fuzz first")
    results = json.loads(out.read_text()) if out.exists() and not arguments.fast else {}
    failed = 0
    for schema in [] if arguments.table else arguments.schema:
        scratch = Path(tempfile.mkdtemp(prefix="fz-"))
        try:
            result = _run(schema, scratch, arguments)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        failed += sum(len(part["failures"]) for part in result["parts"].values())
        results[f"{result['server']} {schema}"] = result
        if not arguments.fast:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1) + "\n")
    print(table.markdown(results))
    if arguments.table:
        table.write(results)
    return 1 if failed else 0


def _run(schema: str, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve a model of this schema and attack it; returns one entry of the results."""

    def log(text: str) -> None:
        print(text, flush=True)

    log(f"fitting a model of schema {schema} ...")
    bundle = fit(schema, scratch / "bundle")
    if arguments.ingress:
        from benchmarks.fuzz.ingress import serving_behind_haproxy

        with serving_behind_haproxy(bundle, scratch, arguments.port, log) as target:
            result = attack(target, arguments.cases, arguments.seed, log)
    else:
        with serving(bundle, scratch / "state", arguments.port, scratch / "log") as target:
            result = attack(target, arguments.cases, arguments.seed, log)
    return {"server": "Serve with HAProxy" if arguments.ingress else "uvicorn", "schema": schema, **result}


def fit(schema: str, folder: Path) -> Path:
    """Train a small model on simulated data and write its bundle."""
    from fraud.data import simulation
    from fraud.schema import Schema, validate
    from fraud.scoring import bundle
    from fraud.training import fitting
    from fraud.training.config import TrainConfig, from_mapping

    draw = {"transactions": simulation.transactions, "handbook": simulation.cards}[schema]
    shape = Schema.load(schema)
    config = from_mapping(TrainConfig, {"forest": {"n_estimators": 50}, "autoencoder": {"epochs": 2}})
    detector, evaluation = fitting.fit_locally(validate(draw(4000, seed=1), shape).rows, shape, config)
    bundle.save(folder, detector, metrics=evaluation.metrics, windows=[])
    return folder


def attack(target: Target, n: int, start: int, log: Log) -> dict[str, Any]:
    """Run all attacks on one server. n: generated cases; start: seed. Raises DataError if it dies or stops scoring."""
    import requests
    import schemathesis

    headers = {"X-API-Key": target.key}
    schema = schemathesis.openapi.from_url(f"{target.url}/openapi.json", headers=headers)
    body = schema.raw_schema["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    example, memory = body["example"], _Memory(target)
    parts: dict[str, Any] = {}

    def record(name: str, tally: Tally) -> None:
        parts[name] = {
            "requests": tally.n, "statuses": dict(tally.statuses), "longest_ms": tally.longest_ms,
            "longest": tally.longest, "failures": tally.failures,
        }  # fmt: skip
        log(f"  {table.PARTS[name]}: {tally.n:,} requests, longest {tally.longest_ms:,.0f} ms ({tally.longest})")
        for failure, shown in tally.failures.items():
            log(f"  FAILED {failure}\n    {shown[:1500]}")

    log(f"attacking {target.url}")
    with requests.Session() as session:
        session.trust_env = False
        cases = Cases(schema, target.key, after=memory.sample, session=session)
        cases.register_bodies({bodies.NDJSON: bodies.lines(example), bodies.ARROW: bodies.streams(example)})
        record("cases", cases.run(n, start=start))
    tally = Tally()
    bodies.run(target, example, n, tally, start=start, after=memory.sample)
    record("bodies", tally)
    rss = memory.summary()
    tally = Tally()
    for outcome in [*attacks.run(target, example), attacks.slow_loris(target, example)]:
        tally.requests[outcome.name] += len(outcome.statuses) or 1
        tally.statuses.update(map(str, outcome.statuses or ("closed",)))
        if outcome.seconds * 1e3 > tally.longest_ms:
            tally.longest_ms, tally.longest = outcome.seconds * 1e3, outcome.name
        if outcome.wrong:
            tally.fail(outcome.name, outcome.wrong)
    record("attacks", tally)
    record("keys", keys.run(target))
    code, answer = target.ask("/score", body=json.dumps(example).encode())
    if code != 200 or not 0 <= json.loads(answer)["score"] <= 1:
        raise DataError(f"the server no longer scores: {code} {answer[:200]!r}")
    rss["after_mib"] = target.rss_mib()
    log(f"  the server still scores; memory {rss['before_mib']:.0f} to {rss['after_mib']:.0f} MiB")
    return {"parts": parts, "rss": rss, "requests": parts["cases"]["requests"] + parts["bodies"]["requests"]}


class _Memory:
    """Samples the server's memory every _EVERY requests."""

    def __init__(self, target: Target) -> None:
        self._target, self._n = target, 0
        self._before = target.rss_mib()
        self._seen: list[tuple[int, float]] = []

    def sample(self) -> None:
        """Call after every request."""
        self._n += 1
        if self._n % _EVERY == 0:
            self._seen.append((self._n, self._target.rss_mib()))

    def summary(self) -> dict[str, float]:
        """Memory at the start, MiB, and growth per request over the second half of the requests, KiB."""
        half = np.array(self._seen[len(self._seen) // 2 :])
        slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0]) if len(half) > 1 else 0.0
        return {"before_mib": self._before, "kib_a_request": slope * 1024}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", type=int, default=5000, help="generated requests of each kind per schema (default %(default)s)")
    add(
        "--schema",
        nargs="+",
        choices=SCHEMAS,
        default=list(SCHEMAS),
        help="schemas of the served models (default: both)",
    )
    add(
        "--ingress",
        action="store_true",
        help="attack through Ray Serve and HAProxy (default: uvicorn, configured as Serve does)",
    )
    add("--seed", type=int, default=0, help="seed of the generated requests (default %(default)s)")
    add("--port", type=int, default=PORT, help="port of the server (default %(default)s)")
    add("--fast", action="store_true", help="write no results")
    add("--table", action="store_true", help="do not attack; write the table in docs/bad_input.md from --out")
    add("--out", default=str(table.RESULTS), help="results, JSON")
    return parser


if __name__ == "__main__":
    run_command(main, uses_stack=False)
