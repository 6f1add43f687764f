"""Drift report on large files: time, memory, and agreement of the sampled verdict with the verdict on all rows.

    python -m benchmarks.bench_drift                # a million rows per file, 20 cases: about 8 minutes
    python -m benchmarks.bench_drift --rows 60000 --cases 4 --out FILE.json
    python -m benchmarks.bench_drift --table        # rewrite the table in docs/drift.md

The command runs twice: once timed, once with its memory sampled (proportional set size of all its processes). Then
seeded pairs of files (four weeks and one day) are compared by `monitoring.drift.comparison.compare`, with its default
sample and on all rows. Half of the pairs have no drift; each other pair has one moderate drift.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import concurrent.futures
import json
import multiprocessing
import resource
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.pages import ROOT, row, write_section
from benchmarks.sweep import processes
from fraud.cli import run_command
from fraud.data import tables
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.settings import TELEMETRY_OFF
from monitoring.drift.comparison import compare

RESULTS = ROOT / "benchmarks/results/drift.json"
PAGE = ROOT / "docs/drift.md"
BEGIN = "<!-- measured: python -m benchmarks.bench_drift --table -->"
ROWS, CASES = 1_000_000, 20
NUMBERS, CATEGORIES, FLAGS = 22, 4, 4
START = np.datetime64("2026-01-01", "us")
SCHEMA = Schema.from_dict(
    {
        "name": "wide",
        "columns": [
            {"name": "time", "kind": "timestamp"},
            *({"name": f"number{i}", "kind": "numeric", "nullable": True} for i in range(NUMBERS)),
            *({"name": f"category{i}", "kind": "categorical", "nullable": True} for i in range(CATEGORIES)),
            *({"name": f"flag{i}", "kind": "boolean"} for i in range(FLAGS)),
        ],
    }
)
COLUMNS = NUMBERS + CATEGORIES + FLAGS


def rows_of(n: int, seed: int, days: float = 28.0) -> pd.DataFrame:
    """Rows of `SCHEMA` without drift: normal, lognormal and rounded numbers; categories with 4 to 500 levels."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "time": START + np.sort(rng.integers(0, int(days * 86_400), n)) * np.timedelta64(1_000_000, "us")
    }
    for i in range(NUMBERS):
        values = rng.normal(size=n)
        columns[f"number{i}"] = (values, np.exp(3 + values), np.round(20 + 5 * values))[i % 3]
    for i in range(CATEGORIES):
        levels = np.array([f"level {j}" for j in range(4 * 5**i)])
        share = 1 / np.arange(1, len(levels) + 1)
        columns[f"category{i}"] = levels[np.searchsorted(np.cumsum(share / share.sum())[:-1], rng.random(n))]
    for i in range(FLAGS):
        columns[f"flag{i}"] = (rng.random(n) < 0.1 * (i + 1)).astype(float)
    return pd.DataFrame(columns)


def _where(frame: pd.DataFrame, column: str, share: float, value: Any, rng: np.random.Generator) -> pd.DataFrame:
    return frame.assign(**{column: frame[column].mask(rng.random(len(frame)) < share, value)})


Change = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
CHANGES: dict[str, Change] = {
    "a number 0.65 sd higher": lambda f, rng: f.assign(number0=f["number0"] + 0.65),
    "three numbers 0.4 sd higher": lambda f, rng: f.assign(
        number3=f["number3"] + 0.4, number4=f["number4"] * np.exp(0.4), number5=f["number5"] + 2
    ),
    "a number spread 1.7 times as wide": lambda f, rng: f.assign(number6=f["number6"] * 1.7),
    "amounts 80 % higher": lambda f, rng: f.assign(number1=f["number1"] * 1.8),
    "3 % of a column missing": lambda f, rng: _where(f, "number9", 0.03, np.nan, rng),
    "9 % of a column missing": lambda f, rng: _where(f, "number10", 0.09, np.nan, rng),
    "a fifth of the rows moved to another level": lambda f, rng: _where(f, "category0", 0.2, "level 3", rng),
    "a new level in 8 % of the rows": lambda f, rng: _where(f, "category1", 0.08, "never seen", rng),
    "a flag on 2.5 times as often": lambda f, rng: _where(f, "flag0", 0.17, 1.0, rng),
    "2 % of the rows refused": lambda f, rng: _where(
        f.assign(flag1=f["flag1"].astype(object)), "flag1", 0.02, "?", rng
    ).astype({"flag1": "str"}),
}


def case(name: str, seed: int, n: int, reference: str, folder: str) -> dict[str, Any]:
    """Compare one pair of files on the default sample and on all rows. name: key of `CHANGES`, "" for no drift."""
    frame = rows_of(n, seed, days=1.0)
    if name:
        frame = CHANGES[name](frame, np.random.default_rng([seed, 1]))
    path = f"{folder}/current-{seed}.parquet"
    tables.write_parquet(frame, path)
    del frame
    sampled = compare(reference, path, SCHEMA).document
    everything = compare(reference, path, SCHEMA, sample=max(n, 1_000)).document
    Path(path).unlink()
    levels = [{c["column"]: c["level"] for c in result["columns"]} for result in (sampled, everything)]
    return {
        "case": name or "no drift", "seed": seed, "sampled": sampled["verdict"], "all_rows": everything["verdict"],
        "columns": len(levels[0]), "columns_alike": sum(levels[0][c] == levels[1][c] for c in levels[0]),
        "reason": everything["reason"],
    }  # fmt: skip


def agreement(n: int, cases: int, folder: Path, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the cases, two at a time; the first half has no drift."""
    reference = str(folder / "reference.parquet")
    quiet = cases // 2
    names = [""] * quiet + [list(CHANGES)[i % len(CHANGES)] for i in range(cases - quiet)]
    # Spawn, not fork: the parent runs Arrow threads.
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(case, name, 100 + i, n, reference, str(folder)) for i, name in enumerate(names)]
        results = []
        for done in waiting:
            results.append(done.result())
            result = results[-1]
            alike = f"{result['columns_alike']} of {result['columns']} columns alike"
            log(f"{result['case']}: {result['sampled']} by the sample, {result['all_rows']} by all rows ({alike})")
    return results


def command(n: int, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of `python -m monitoring.drift` on files of n rows, including the HTML report."""
    reference, current, schema = (folder / name for name in ("reference.parquet", "current.parquet", "wide.yaml"))
    tables.write_parquet(rows_of(n, 2, days=1.0), str(current))
    schema.write_text(SCHEMA.to_yaml())
    arguments = ["monitoring.drift", "--ref", str(reference), "--cur", str(current), "--schema", str(schema)]
    arguments += ["--out", str(folder / "report.html")]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    timed = processes.run(arguments, folder / "log", TELEMETRY_OFF)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    watched = processes.run(arguments, folder / "log", TELEMETRY_OFF, watch=True)
    current.unlink()
    return {"seconds": timed.seconds, "peak_mib": watched.peak_mib or 0.0, "cpu_s": cpu}


def measure(n: int, cases: int, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Run all measurements in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="bench-drift-"))
    try:
        tables.write_parquet(rows_of(n, 1), str(folder / "reference.parquet"))
        ran = command(n, folder)
        log(f"the command: {ran['seconds']:.1f} s, {ran['peak_mib']:,.0f} MiB")
        cases_compared = agreement(n, cases, folder, log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"rows": n, "columns": COLUMNS, "sample": 50_000, **ran, "cases": cases_compared}


def table(results: Mapping[str, Any]) -> str:
    """The table of docs/drift.md."""
    cases = results["cases"]
    alike = sum(c["sampled"] == c["all_rows"] for c in cases)
    columns = sum(c["columns_alike"] for c in cases), sum(c["columns"] for c in cases)
    quiet = [c for c in cases if c["case"] == "no drift"]
    moved = [c for c in cases if c["case"] != "no drift"]
    by_sample = f"verdict of {results['sample']:,} sampled rows as of all rows"
    lines = [
        row([f"{results['rows']:,} rows × {results['columns']} columns on both sides", "measured", "asked for"]),
        row(["---"] * 3),
        row(["the whole command, pages included", f"{results['seconds']:.0f} s", "60 s"]),
        row(["of that, CPU", f"{results['cpu_s']:.0f} s", ""]),
        row(["peak memory, all its processes", f"{results['peak_mib']:,.0f} MiB", "2 GB"]),
        row([by_sample, f"{alike} of {len(cases)} cases", "19 of 20"]),
        row(["level of each column as of all rows", f"{columns[0]} of {columns[1]}", ""]),
        row(["called ok without drift", f"{sum(c['sampled'] == 'ok' for c in quiet)} of {len(quiet)}", ""]),
        row(["not called ok with drift", f"{sum(c['sampled'] != 'ok' for c in moved)} of {len(moved)}", ""]),
        "",
        row(["case", "by the sample", "by all rows", "columns alike"]),
        row(["---"] * 4),
        *(row([c["case"], c["sampled"], c["all_rows"], f"{c['columns_alike']} of {c['columns']}"]) for c in moved),
    ]  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="rows per file (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=CASES, help="pairs of files (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="do not measure; write the table in docs/drift.md")
    parser.add_argument("--out", default=str(RESULTS), help="results, JSON")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if arguments.table:
        if not out.exists():
            raise DataError(f"{out} is missing: run python -m benchmarks.bench_drift first")
        results = json.loads(out.read_text())
        write_section(PAGE, table(results), BEGIN)
    else:
        results = measure(arguments.rows, arguments.cases, lambda text: print(text, flush=True))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
