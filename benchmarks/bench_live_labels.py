"""Label lag in a live history: time from ingestion to use, and the cost to scoring.

    python -m benchmarks.bench_live_labels [--seconds 60] [--rate 1000] [--out benchmarks/results/live_labels.json]

One process works like a replica: it scores transactions at full speed, logs the decisions and follows the labels.
Another process ingests labels of those transactions, one file per second, in every other interval of 5 s. Finally
100,000 labels are ingested at once.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from ctypes import c_int64
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
from fraud.history.label_feed import Applied
from fraud.labels.store import LabelStore
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from serve_app.decisions.log import DecisionLog
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.keeper import HistoryKeeper
from serve_app.model.decided import decision_of
from serve_app.model.state import ServedModel, load_model

STRETCH_S, MARGIN = 5.0, 2_000
N_CUSTOMERS, N_TERMINALS = 5_000, 1_000


class Lags:
    """Metrics sink of the history keeper: collects label lags."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.applied = self.unmatched = 0

    def observe_labels(self, applied: Applied) -> None:
        self.lags += applied.lags
        self.applied += applied.applied
        self.unmatched = applied.unmatched


def ingest(labels: str, decided: Any, is_flowing: Any, rate: int) -> None:
    """Write one file of `rate` labels per second for recent transactions while `is_flowing` is 1; stop at -1."""
    store, rng, n = LabelStore(labels), np.random.default_rng(1), 0
    while is_flowing.value >= 0:
        began = time.monotonic()
        if is_flowing.value == 1 and decided.value > MARGIN + rate:
            newest = decided.value - MARGIN
            ids = rng.choice(np.arange(max(0, newest - 60_000), newest), rate, replace=False)
            write_labels(store, [f"t{i}" for i in ids], f"second-{n}")
            n += 1
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))


def write_labels(store: LabelStore, ids: Sequence[str], name: str) -> None:
    """Write labels to the store without the duplicate check of `labels ingest`."""
    now = np.datetime64(dt.datetime.now(dt.UTC).replace(tzinfo=None), "us")
    frame = pd.DataFrame({"id": ids, "is_fraud": True, "known_at": now, "source": "analyst", "ingested_at": now})
    tables.write_parquet(frame, f"{store.url}/{name}.parquet")


class Traffic:
    """Scores transactions one by one, updates the history and logs each decision."""

    def __init__(self, model: ServedModel, log: DecisionLog) -> None:
        self._model, self._log, self.n = model, log, 0
        rng = np.random.default_rng(0)
        self._customers = rng.integers(0, N_CUSTOMERS, 100_000).astype(str).tolist()
        self._terminals = rng.integers(0, N_TERMINALS, 100_000).astype(str).tolist()
        self._amounts = rng.gamma(2.0, 30.0, 100_000).tolist()

    def run(self, seconds: float, decided: Any) -> tuple[float, float]:
        """Score for `seconds`; return transactions per second and per CPU second of this thread."""
        first, began, cpu = self.n, time.perf_counter(), time.thread_time()
        while (took := time.perf_counter() - began) < seconds:
            for _ in range(100):
                i = self.n % 100_000
                row: dict[str, object] = {
                    "TRANSACTION_ID": f"t{self.n}", "TX_DATETIME": dt.datetime.now(dt.UTC).replace(tzinfo=None),
                    "CUSTOMER_ID": self._customers[i], "TERMINAL_ID": self._terminals[i],
                    "TX_AMOUNT": self._amounts[i],
                }  # fmt: skip
                answer = self._model.answer(row)
                self._log.put(decision_of(self._log, self._model, row, answer))
                self.n += 1
            decided.value = self.n
        return (self.n - first) / took, (self.n - first) / (time.thread_time() - cpu)


def measure(folder: Path, seconds: float, rate: int, url: str) -> dict[str, Any]:
    schema = Schema.load("handbook")
    config = TrainConfig(forest=ForestConfig(n_estimators=50), autoencoder=AutoencoderConfig(epochs=1))
    detector, _ = fitting.fit_locally(validate(cards(20_000, seed=1), schema).rows, schema, config)
    bundle.save(folder / "bundle", replace(detector, threshold=replace(detector.threshold, value=0.999)))
    settings = Settings.from_environment({"FRAUD_STATE": str(folder), "FRAUD_HISTORY_URL": url})
    history_context = HistoryContext.from_environment(settings, {"FRAUD_DECISIONS_QUEUE": "1000000"})
    model = load_model(settings, folder=str(folder / "bundle"), context=history_context)
    log, lags = DecisionLog(history_context.decisions, schema), Lags()
    keeper = HistoryKeeper(lambda: [model.history], metrics=lags)
    context = multiprocessing.get_context("spawn")
    decided, is_flowing = context.Value(c_int64, 0), context.Value(c_int64, 0)
    writer = context.Process(target=ingest, args=(history_context.labels.url, decided, is_flowing, rate))
    writer.start()
    keeper.start()
    traffic = Traffic(model, log)
    traffic.run(STRETCH_S, decided)
    rates: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    follower = [child for child in psutil.Process().children() if "serve_app.history.label_process" in child.cmdline()]
    cpu, began_all = sum(sum(each.cpu_times()[:2]) for each in follower), time.monotonic()
    for _ in range(round(seconds / STRETCH_S)):
        for flowing in (1, 0):
            is_flowing.value = flowing
            rates[flowing].append(traffic.run(STRETCH_S, decided))
            time.sleep(0.5 if not flowing else 2.0)  # labels of one interval are applied before the next starts
    cpu = sum(sum(each.cpu_times()[:2]) for each in follower) - cpu
    share = cpu / (time.monotonic() - began_all)
    without, with_labels = np.array(rates[0]), np.array(rates[1])
    is_flowing.value = -1
    writer.join()
    time.sleep(3)
    results = {
        "labels": lags.applied, "rate": rate, "seconds": seconds, "unmatched": lags.unmatched,
        "lag_p50_s": float(np.percentile(lags.lags, 50)), "lag_p99_s": float(np.percentile(lags.lags, 99)),
        "lag_max_s": max(lags.lags),
        "scored_per_s_without": float(np.median(without[:, 0])),
        "scored_per_s_with": float(np.median(with_labels[:, 0])),
        "ratio": float(np.median(with_labels[:, 0] / without[:, 0])),
        "scored_per_cpu_s_without": float(np.median(without[:, 1])),
        "scored_per_cpu_s_with": float(np.median(with_labels[:, 1])),
        "cpu_ratio": float(np.median(with_labels[:, 1] / without[:, 1])),
        "follower_cpus": share, "load": os.getloadavg()[0],
    }  # fmt: skip
    lags.lags, before = [], lags.applied
    many = min(100_000, traffic.n)
    write_labels(history_context.labels, [f"t{traffic.n - 1 - i}" for i in range(many)], "many")
    began = time.monotonic()
    while lags.applied < before + many and time.monotonic() - began < 120:
        time.sleep(0.1)
    results |= {"many_labels": many, "many_s": max(lags.lags, default=float("nan"))}
    keeper.stop()
    log.close()
    assert model.history is not None
    model.history.close()
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the figures, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds with labels; the same again without (default 60)"
    )
    parser.add_argument("--rate", type=int, default=1_000, help="labels per second (default %(default)s)")
    parser.add_argument("--url", default="node", help="FRAUD_HISTORY_URL (default %(default)s)")
    parser.add_argument("--out", default="benchmarks/results/live_labels.json", help="results, JSON")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments.seconds, arguments.rate, arguments.url)
    lags = ", ".join(f"{name} {results[f'lag_{name}_s']:.2f} s" for name in ("p50", "p99", "max"))
    print(
        f"{results['labels']:,} labels, {results['rate']:,} a second: applied after {lags}; "
        f"{results['unmatched']} unmatched"
    )
    print(
        f"scored per second: {results['scored_per_s_without']:,.0f} without labels, "
        f"{results['scored_per_s_with']:,.0f} with ({results['ratio']:.3f}); "
        f"per CPU second: {results['scored_per_cpu_s_without']:,.0f}, {results['scored_per_cpu_s_with']:,.0f} "
        f"({results['cpu_ratio']:.3f}); load {results['load']:.1f}"
    )
    print(f"the label process uses {results['follower_cpus']:.3f} CPUs")
    print(f"{results['many_labels']:,} labels at once: {results['many_s']:.1f} s")
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
