"""Size and read time of the decision log after a simulated month, before and after its files are merged.

    python -m benchmarks.bench_decisions [--days 30] [--distinct 30] [--out benchmarks/results/decisions.json]
    python -m benchmarks.bench_decisions --table       # only write docs/decisions.md from the JSON

Two replicas log one decision a second through the journals and the publisher's code, a file per minute and replica,
with simulated times. Days are independent, so with `--distinct N` only the last N days are written, and merged; the
days before are copies of their files. Reads are the median of three with the files in the page cache.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import ROOT, row, write_section
from fraud.cli import run_command
from fraud.data.simulation import cards
from fraud.schema import Schema, validate
from fraud.scoring import decided
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.files import publish
from serve_app.decisions.journal import Journal
from serve_app.decisions.lookup import look_up
from serve_app.decisions.maintenance import DecisionFolder
from serve_app.decisions.reader import DecisionReader
from serve_app.decisions.rows import Decision, Encoder

RESULTS = ROOT / "benchmarks/results/decisions.json"
BEGIN = "<!-- measured: python -m benchmarks.bench_decisions --table -->"
REPLICAS, MINUTES, PER_MINUTE = 2, 1440, 60
FIRST_DAY = dt.date(2026, 1, 1)
MEMORY_DAYS = 2  # that a live history reads when the newest snapshot is of the day before yesterday
_KEPT_DAYS = 20


def decisions(day: int, schema: Schema) -> Iterator[Decision]:
    """The decisions of a day, in order of time; one in a hundred is an alert with three reasons."""
    n = MINUTES * PER_MINUTE
    rng = np.random.default_rng(day)
    inputs = validate(cards(n, seed=day), schema).rows[[column.name for column in schema.inputs]].to_dict("records")
    scores = rng.random((n, 4))
    start = int(dt.datetime.combine(FIRST_DAY, dt.time(), dt.UTC).timestamp()) + 86_400 * day
    for i in range(n):
        at = dt.datetime.fromtimestamp(start + i, dt.UTC).replace(tzinfo=None)
        is_fraud = bool(scores[i, 0] > 0.99)
        values = {**inputs[i], "TRANSACTION_ID": f"{day * n + i}", "TX_DATETIME": at}
        yield Decision(
            request_id=rng.bytes(16).hex(),
            time_us=(start + i) * 1_000_000 + int(rng.integers(1_000_000)),
            model_name="fraud-detector",
            version="7",
            sha256="ab" * 32,
            schema_fingerprint=schema.fingerprint,
            threshold=0.99,
            score=float(scores[i, 0]),
            is_fraud=is_fraud,
            scores={"forest_score": scores[i, 1], "autoencoder_score": scores[i, 2], "head_score": scores[i, 3]},
            reasons=[_reason(float(scores[i, k])) for k in range(3)] if is_fraud else (),
            inputs=values,
            key_name="gateway",
        )


def _reason(contribution: float) -> dict[str, Any]:
    return {
        "column": "TX_AMOUNT", "feature": "TX_AMOUNT", "value": 57.1, "typical": 20.0, "contribution": contribution,
        "text": "TX_AMOUNT 57.1 is above the usual 20",
    }  # fmt: skip


def write_day(day: int, schema: Schema, url: str, journals: Path) -> None:
    """Log a day as replicas do: a journal per minute and replica, and a Parquet file of each."""
    encoder, arrived = Encoder(schema), decisions(day, schema)
    for minute in range(MINUTES):
        lines: list[list[bytes]] = [[] for _ in range(REPLICAS)]
        for second in range(PER_MINUTE):
            lines[second % REPLICAS].append(encoder.line(next(arrived)))
        for replica in range(REPLICAS):
            path = journals / f"{minute}.jsonl"
            journal = Journal(path, encoder.header)
            journal.append(lines[replica], len(lines[replica]))
            journal.close()
            publish(path, url, f"host-{4711 + replica}-0a1b2c3d-{day * MINUTES + minute + 1:06d}")
            path.unlink()


def measure(url: str, schema: Schema, days: int, row_id: str) -> dict[str, Any]:
    """Files, bytes (apparent, and on disk in blocks), and read times in seconds."""
    files = [path for path in Path(url).rglob("*") if path.is_file()]
    settings = DecisionSettings(url=url, journal=Path(url) / "_journal")
    last = FIRST_DAY + dt.timedelta(days=days - 1)
    names = [column.name for column in schema.inputs]
    since = last - dt.timedelta(days=MEMORY_DAYS - 2)  # the reader adds a day
    return {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "bytes_on_disk": sum(path.stat().st_blocks * 512 for path in files),
        "look_up_s": median_s(lambda: look_up(settings, row_id, "TRANSACTION_ID", last)),
        "day_s": median_s(lambda: decided.read(url, schema, day=last)),
        "history_s": median_s(lambda: list(DecisionReader(settings, schema, names).read(since))),
    }


def median_s(work: Callable[[], object]) -> float:
    """Median wall time of three calls."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def run(days: int, distinct: int) -> dict[str, Any]:
    """Write the month, measure, merge, measure, delete all but the newest days, measure the size."""
    schema = Schema.load("handbook")
    base = Path(tempfile.mkdtemp(prefix="bench-decisions-"))
    try:
        url, journals = str(base / "decisions"), base / "journals"
        journals.mkdir()
        began = time.perf_counter()
        for day in range(days - distinct, days):
            write_day(day, schema, url, journals)
            sys.stderr.write(f"day {day + 1} of {days}: {time.perf_counter() - began:.0f} s\n")
        row_id = str(days * MINUTES * PER_MINUTE - 1000)
        results: dict[str, Any] = {
            "days": days, "distinct": distinct, "decisions": days * MINUTES * PER_MINUTE, "replicas": REPLICAS,
        }  # fmt: skip
        copies = copy_days(Path(url), days - distinct)
        results["small"] = measure(url, schema, days, row_id)
        for copy in copies:
            shutil.rmtree(copy)
        folder = DecisionFolder(url)
        now = dt.datetime.combine(FIRST_DAY + dt.timedelta(days=days), dt.time(12), dt.UTC)
        began = time.perf_counter()
        folder.merge(now=now)
        results["merge_s_per_day"] = (time.perf_counter() - began) / distinct
        copy_days(Path(url), days - distinct)
        results["merged"] = measure(url, schema, days, row_id)
        settings = DecisionSettings(url=url, journal=journals)
        results["look_up_all_s"] = median_s(lambda: look_up(settings, row_id, "TRANSACTION_ID"))
        folder.delete(folder.older_than(dt.timedelta(days=_KEPT_DAYS), now=now))
        results["pruned"] = {"days": len(folder.days()), "bytes": sum(day.n_bytes for day in folder.days())}
        return results
    finally:
        shutil.rmtree(base, ignore_errors=True)


def copy_days(url: Path, n: int) -> list[Path]:
    """Copy the written days to the first `n` days; return the copies."""
    written = sorted(url.glob("date=*"))
    copies = [url / f"date={FIRST_DAY + dt.timedelta(days=day)}" for day in range(n)]
    for i, copy in enumerate(copies):
        shutil.copytree(written[i % len(written)], copy)
    return copies


def table(results: dict[str, Any]) -> str:
    """The section of docs/decisions.md."""
    small, merged = results["small"], results["merged"]
    lines = [row(["", "a file per minute", "merged"]), "|---|---|---|"]
    for key, title, text in (
        ("files", "files", lambda n: f"{n:,}"),
        ("bytes", "MiB", lambda n: f"{n / 2**20:,.0f}"),
        ("bytes_on_disk", "MiB on disk, in blocks", lambda n: f"{n / 2**20:,.0f}"),
        ("look_up_s", "look up one id in a day, s", lambda s: f"{s:.2f}"),
        ("day_s", "read one day's ids and scores, s", lambda s: f"{s:.2f}"),
        ("history_s", "read two days for the live history, s", lambda s: f"{s:.2f}"),
    ):
        lines.append(row([title, text(small[key]), text(merged[key])]))
    per_decision, pruned = merged["bytes_on_disk"] / results["decisions"], results["pruned"]
    text = (
        f"{results['decisions']:,} decisions in {results['days']} days, {results['replicas']} replicas. "
        f"{per_decision:.0f} bytes a decision after merging, which takes {results['merge_s_per_day']:.1f} s for a day. "
        f"Looking up one id in all merged days takes {results['look_up_all_s']:.2f} s. "
        f"After `prune` the newest {pruned['days']} days have {pruned['bytes'] / 2**20:,.0f} MiB."
    )
    if results["distinct"] < results["days"]:
        text += f" Days written: {results['distinct']}; the others are copies."
    lines += ["", *textwrap.wrap(text, 100)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or only write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_decisions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--days", type=int, default=30, help="days to simulate (default: %(default)s)")
    parser.add_argument("--distinct", type=int, default=30, help="days to write; others are copies (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results as JSON (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="write docs/decisions.md from the JSON, measure nothing")
    arguments = parser.parse_args(argv)
    if not arguments.table:
        results = run(arguments.days, min(arguments.distinct, arguments.days))
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = table(json.loads(arguments.out.read_text(encoding="utf-8")))
    if arguments.out == RESULTS:
        write_section(ROOT / "docs/decisions.md", text, BEGIN)
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
