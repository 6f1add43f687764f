"""Entity history: batch speed of the handbook's 15 features, latency of one transaction, memory per card.

    python -m benchmarks.bench_history [--rows 1000000] [--cards 1000000] [--out benchmarks/results/history.json]

Batch: rows per second and peak memory of `fraud.history.replay`, beside pandas rolling windows as in the handbook's
code (on a subset of customers and terminals). Online: one transaction through history, forest and autoencoder, with
the state in the process, in the node's shared file, or in a redis-server on loopback, which this command starts and
stops. State: bytes per event and per card.
Reads the handbook transactions from FRAUD_SHARED_DATA; without them it uses synthetic cards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import psutil

from fraud.cli import run_command
from fraud.data import tables
from fraud.data.simulation import cards
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.history.definition import FRAUD_RECORD, EntityPlan, plans
from fraud.history.online import OnlineHistory
from fraud.history.replay import replay
from fraud.history.state import HistoryState
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.node import NodeStore
from fraud.history.stores.redis import RedisStore
from fraud.history.stores.store import StateStore
from fraud.schema import Schema
from fraud.schema.columns import History
from fraud.schema.validation import validate
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig

WINDOWS = ("1d", "7d", "30d")
ONLINE_ROWS, N_GROUPS = 20_000, 500


def handbook_schema() -> Schema:
    """The handbook's 15: amount, weekend, night; count and mean amount by customer; count and risk by terminal."""
    schema = Schema.load("handbook")
    columns = tuple(replace(c, calendar=("weekend", "night")) if c.kind == "timestamp" else c for c in schema.columns)
    by_customer = History(entity="CUSTOMER_ID", windows=WINDOWS, value="TX_AMOUNT", statistics=("count", "mean"))
    by_terminal = History(entity="TERMINAL_ID", windows=WINDOWS, statistics=("count", "risk"))
    return replace(schema, columns=columns, history=(by_customer, by_terminal))


def transactions(n: int, schema: Schema) -> tuple[str, pd.DataFrame]:
    """Source name and at most n canonical rows in time order."""
    files = sorted(Settings.from_environment().shared_data.glob("handbook*.parquet"))
    frame = next(tables.iter_frames(str(files[0]), n)) if files else cards(n, seed=3)
    rows = validate(frame, schema).rows.sort_values("TX_DATETIME", kind="stable").reset_index(drop=True)
    return files[0].name if files else "synthetic cards", rows


def _length(window: str) -> pd.Timedelta:
    return pd.Timedelta(days=int(window[:-1]))


def rolling(rows: pd.DataFrame) -> float:
    """Rows per second of the 12 window features computed as in the handbook: a rolling window over each group."""

    def by_customer(group: pd.DataFrame) -> pd.DataFrame:
        amounts = group["TX_AMOUNT"]
        for window in WINDOWS:
            rolled = amounts.rolling(_length(window))
            group[f"count {window}"], group[f"mean {window}"] = rolled.count(), rolled.mean()
        return group

    def by_terminal(group: pd.DataFrame) -> pd.DataFrame:
        frauds = group["TX_FRAUD"]
        late_frauds, late_count = frauds.rolling(_length("7d")).sum(), frauds.rolling(_length("7d")).count()
        for window in WINDOWS:
            longer = frauds.rolling(_length(window) + _length("7d"))
            count = longer.count() - late_count
            group[f"terminal count {window}"], risk = count, (longer.sum() - late_frauds) / count
            group[f"risk {window}"] = risk.fillna(0)
        return group

    # All rows of the chosen customers and terminals, so group lengths match the full data.
    seconds, frame = 0.0, rows.set_index("TX_DATETIME")
    for column, build in (("CUSTOMER_ID", by_customer), ("TERMINAL_ID", by_terminal)):
        chosen = frame[frame[column].isin(frame[column].unique()[:N_GROUPS])]
        begin = time.perf_counter()
        pd.concat([build(group.copy()) for _, group in chosen.groupby(column)])
        seconds += (time.perf_counter() - begin) / len(chosen)
    return 1.0 / seconds


def batch(rows: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    """Rows per second of `replay` and of pandas, and the ratio."""
    replay(rows.head(1000), schema)  # compile
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(3):
        begin = time.perf_counter()
        replay(rows, schema)
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    usual = rolling(rows)
    ours = len(rows) / min(times)
    return {
        "rows": len(rows), "rows_per_s": ours, "extra_peak_mib": (peak - before) / 1024, "pandas_groups": N_GROUPS,
        "pandas_rows_per_s": usual, "ratio": ours / usual, "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


@contextmanager
def redis_server() -> Iterator[str | None]:
    """Start redis-server on loopback without persistence and yield its URL; None if it is not installed."""
    if shutil.which("redis-server") is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(1.0)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


def latencies(engine: Engine, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Latency percentiles of `Engine.score_row`, microseconds."""
    times = np.empty(len(rows))
    for i, row in enumerate(rows):
        begin = time.perf_counter_ns()
        engine.score_row(row)
        times[i] = time.perf_counter_ns() - begin
    return {f"p{q}_us": float(np.percentile(times, q)) / 1e3 for q in (50, 95, 99)}


def exchanges(schema: Schema, store: StateStore, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Latency percentiles of `StateStore.exchange`, microseconds."""
    history, times = OnlineHistory(schema), np.empty(len(rows))
    for i, row in enumerate(rows):
        now = int(np.datetime64(row["TX_DATETIME"], "us").astype(np.int64))
        visits = history.visits(row, now, lambda name, value: float(value))  # type: ignore[arg-type]
        begin = time.perf_counter_ns()
        store.exchange(visits)
        times[i] = time.perf_counter_ns() - begin
    return {f"p{q}_us": float(np.percentile(times, q)) / 1e3 for q in (50, 95, 99)}


def online(rows: pd.DataFrame, schema: Schema, url: str | None) -> dict[str, Any]:
    """Latency of one transaction: history, forest of 100 trees and autoencoder."""
    past, newer = rows.iloc[: -ONLINE_ROWS - 100], rows.tail(ONLINE_ROWS + 100)
    config = TrainConfig(forest=ForestConfig(n_estimators=100), autoencoder=AutoencoderConfig(epochs=2))
    detector, _ = fitting.fit_locally(past.tail(150_000).reset_index(drop=True), schema, config)
    _, states = replay(past, schema)
    detector = replace(detector, history=states)
    times = newer["TX_DATETIME"].dt.to_pydatetime()
    records = [
        record | {"TX_DATETIME": when}
        for record, when in zip(newer.drop(columns="TX_DATETIME").to_dict("records"), times, strict=True)
    ]
    folder = Path(tempfile.mkdtemp(prefix="bench-history-"))
    node = NodeStore(folder, plans(schema))
    begin = time.perf_counter()
    node.seed(states)
    node_seconds, seconds = time.perf_counter() - begin, 0.0
    stores: dict[str, StateStore | None] = {
        "no store": None, "process": MemoryStore(plans(schema), states), "node": node,
    }  # fmt: skip
    if url is not None:
        shared = RedisStore(url, plans(schema), timeout_ms=5000)
        begin = time.perf_counter()
        shared.seed(states)
        seconds = time.perf_counter() - begin
        stores["redis"] = shared
    figures: dict[str, Any] = {}
    for name, store in stores.items():
        engine = Engine(detector, store=store)
        engine.warm_up()
        latencies(engine, records[:100])
        figures[name] = latencies(engine, records[100:])
        if store is not None:
            figures[name] |= {f"store_{q}": value for q, value in exchanges(schema, store, records[100:]).items()}
    node.close()
    shutil.rmtree(folder)
    return {
        **figures,
        "node_seed_s": node_seconds,
        "transactions": ONLINE_ROWS,
        "seeded_entities": sum(len(s.keys) for s in states),
        "seed_s": seconds,
    }


def card_states(plan: EntityPlan, n: int, mean_events: float) -> HistoryState:
    """History state of n cards; event counts are geometric with the given mean."""
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.geometric(1 / mean_events, n), plan.capacity)
    starts = np.concatenate([[0], np.cumsum(counts)])
    events = np.zeros(starts[-1], dtype=plan.record)
    events["time"] = 1_700_000_000_000_000 + np.arange(starts[-1])
    events["id"] = rng.integers(1, 2**32, starts[-1], dtype=np.uint32)
    keys = np.array([f"{i:016d}" for i in range(n)], dtype=object)
    return HistoryState(keys, events, starts, np.empty(0, FRAUD_RECORD), np.zeros(n + 1, dtype=np.int64))


def memory(schema: Schema, n: int, n_redis: int, mean_events: float, url: str | None) -> dict[str, Any]:
    """Bytes of state in the process, in the node's file and in Redis."""
    plan = plans(schema)[0]
    state = card_states(plan, n, mean_events)
    process = psutil.Process()
    before = process.memory_info().rss
    store = MemoryStore([plan], [state])
    used = process.memory_info().rss - before
    figures: dict[str, Any] = {
        "record_bytes": plan.record.itemsize, "cards": n, "events_per_card": len(state.events) / n,
        "process_bytes_per_card": used / n, "process_bytes_per_event": used / len(state.events),
        "process_own_bytes_per_card": store.n_bytes / n,
        "process_overhead_per_card": (used - len(state.events) * plan.record.itemsize) / n,
    }  # fmt: skip
    del store
    with tempfile.TemporaryDirectory() as folder:
        node = NodeStore(Path(folder), [plan])
        begin = time.perf_counter()
        node.seed([state])
        figures |= {"node_seed_s": time.perf_counter() - begin}
        node.close()
        used = (Path(folder) / "data.mdb").stat().st_size
    figures |= {
        "node_bytes_per_card": used / n,
        "node_overhead_per_card": (used - len(state.events) * plan.record.itemsize) / n,
    }
    if url is not None:
        import redis

        state, client = card_states(plan, n_redis, mean_events), redis.Redis.from_url(url)
        client.flushall()
        before = client.info("memory")["used_memory"]
        shared = RedisStore(url, [plan], timeout_ms=5000)
        begin = time.perf_counter()
        shared.seed([state])
        seconds = time.perf_counter() - begin
        used = client.info("memory")["used_memory"] - before
        figures |= {
            "redis_cards": n_redis, "redis_bytes_per_card": used / n_redis,
            "redis_bytes_per_event": used / len(state.events), "redis_seed_s": seconds,
            "redis_overhead_per_card": (used - len(state.events) * plan.record.itemsize) / n_redis,
        }  # fmt: skip
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the batch (default %(default)s)")
    parser.add_argument("--cards", type=int, default=1_000_000, help="cards in the process (default %(default)s)")
    parser.add_argument("--redis-cards", type=int, default=200_000, help="cards in Redis (default %(default)s)")
    parser.add_argument("--events", type=float, default=10.0, help="mean events per card (default %(default)s)")
    parser.add_argument("--out", default="benchmarks/results/history.json", help="results, JSON")
    arguments = parser.parse_args(argv)
    schema = handbook_schema()
    source, rows = transactions(arguments.rows, schema)
    results: dict[str, Any] = {"source": source, "batch": batch(rows, schema)}
    with redis_server() as url:
        results["online"] = online(rows, schema, url)
        del rows
        results["memory"] = memory(schema, arguments.cards, arguments.redis_cards, arguments.events, url)
    b, m = results["batch"], results["memory"]
    print(f"batch, {source}, {b['rows']:,} rows: {b['rows_per_s']:,.0f} rows/s, {b['extra_peak_mib']:,.0f} MiB more")
    print(
        f"pandas rolling, {N_GROUPS} customers and terminals: {b['pandas_rows_per_s']:,.0f} rows/s ({b['ratio']:,.0f}x)"
    )
    for name in ("no store", "process", "node", "redis"):
        if name in results["online"]:
            p = results["online"][name]
            alone = f"   store alone {p['store_p50_us']:,.1f}, {p['store_p99_us']:,.1f}" if "store_p50_us" in p else ""
            print(
                f"one row, {name:<9} p50 {p['p50_us']:>7,.1f} µs   p95 {p['p95_us']:>7,.1f}   p99 {p['p99_us']:>7,.1f}"
                f"{alone}"
            )
    for name in ("process", "node", "redis"):
        if f"{name}_bytes_per_card" in m:
            print(
                f"state, {name:<9} {m[f'{name}_bytes_per_card']:,.0f} bytes per card with {m['events_per_card']:.1f} "
                f"events of {m['record_bytes']} bytes ({m[f'{name}_overhead_per_card']:,.0f} overhead per card)"
            )
    results |= {"cpu": platform.processor(), "python": platform.python_version()}
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
