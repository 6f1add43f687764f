"""The tables of docs/serving_faults.md, from the JSON of the last run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import ROOT, row, write_section

RESULTS = ROOT / "benchmarks/results/serving_faults.json"
PAGE = ROOT / "docs/serving_faults.md"
BEGIN = "<!-- measured: python -m benchmarks.serving_faults --table -->"


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown of every measured part."""
    parts = {"changes": changes, "kills": kills, "shadowing": shadowing, "scaling": scaling, "soak": soak}
    return "\n\n".join(table(results[name]) for name, table in parts.items() if name in results)


def changes(results: Mapping[str, Any]) -> str:
    """Failures and latency during changes of model, threshold and replicas."""
    runs = {name: run for name, run in results.items() if isinstance(run, Mapping)}
    changed = [run for name, run in runs.items() if name != "calm"]
    requests, failed = (sum(run[key] for run in changed) for key in ("requests", "failed"))
    lines = [
        f"Changes under {results['rate']:,.0f} requests a second: {failed:,} of {requests:,} failed.",
        "",
        row(["meanwhile", "until both replicas followed", "requests", "failed", "p50", "p99", "worst p99 of 10 s"]),
        "|" + "---|" * 7,
    ]
    for name, run in runs.items():
        took = f"{run['seconds']:.1f} s" if "seconds" in run else ""
        cells = [took, f"{run['requests']:,}", f"{run['failed']:,}", *_latencies(run)]
        lines.append(row(["nothing" if name == "calm" else name, *cells]))
    return "\n".join(lines)


def kills(results: Mapping[str, Any]) -> str:
    """Failures and recovery after SIGKILL."""
    lines = [
        f"SIGKILL under {results['rate']:,.0f} requests a second over 16 kept connections, and a caller that connects "
        "anew each time. Failed: cut, or not 200.",
        "",
        row(["killed", "times", "requests", "failed", "share", "new connections failed", "longest without an answer",
              "whole again after"]),
        "|" + "---|" * 8,
    ]  # fmt: skip
    for name, run in ((name, run) for name, run in results.items() if isinstance(run, Mapping)):
        took = ", ".join(f"{seconds:.0f}" for seconds in run["recovered_s"])
        anew = f"{run['new_connections_failed']:,} of {run['new_connections']:,}"
        cells = [str(run["kills"]), f"{run['requests']:,}", f"{run['failed']:,}", f"{run['failed_share']:.4%}", anew]
        lines.append(row([name, *cells, f"{run['longest_gap_s'] * 1000:,.0f} ms", f"{took} s"]))
    return "\n".join(lines)


def shadowing(results: Mapping[str, Any]) -> str:
    """Cost of the shadow, and answers with a faulty challenger."""
    outcomes = results["outcomes"]
    lines = [
        f"Shadow at half the peak rate, {results['rate']:,.0f} requests a second, {results['off']['rounds']} rounds "
        f"each in turn: throughput {-results['throughput_cost']:+.1%}, CPU a request {results['cpu_cost']:+.1%}. "
        f"Of its transactions {_format(outcomes)}.",
        "",
        row(["challenger", "requests", "failed", "requests/s", "p50", "p99", "CPU a request", "outcomes"]),
        "|" + "---|" * 8,
    ]
    runs = {"none": results["off"], "scores along": results["on"]}
    runs |= {f"does {name}": run for name, run in results["faults"].items()}
    for name, run in runs.items():
        cpu = f"{run['cpu_us']:,.0f} µs" if "cpu_us" in run else ""
        cells = [f"{run['requests']:,}", f"{run['failed']:,}", f"{run['rate']:,.0f}", *_latencies(run)[:2], cpu]
        lines.append(row([name, *cells, _format(run.get("outcomes", {}))]))
    return "\n".join(lines)


def scaling(results: Mapping[str, Any]) -> str:
    """Load of one replica, and autoscaling."""
    lines = [row(["callers of one replica", "requests/s", "p50", "p99", "failed"]), "|" + "---|" * 5]
    for callers, run in results["ladder"].items():
        lines.append(row([callers, f"{run['rate']:,.0f}", *_latencies(run)[:2], f"{run['failed']:,}"]))
    up, down = results["up"], results["down"]
    times = [results["up_s"], results["down_s"]]
    took = ["not in the time after" if seconds is None else f"{seconds:.0f} s after" for seconds in times]
    lines += [
        "",
        f"Scaled to {results['target']:.0%} of a processor a replica: 1 to 3 replicas {took[0]} the load began, "
        f"{up['failed']:,} of {up['requests']:,} failed; back to 1 {took[1]} it ended, {down['failed']:,} of "
        f"{down['requests']:,} failed.",
    ]
    return "\n".join(lines)


def soak(results: Mapping[str, Any]) -> str:
    """Memory, failures and decisions of the soak."""
    first, last = results["samples"][0], results["samples"][-1]
    lines = [
        f"{results['minutes']:g} minutes at {results['rate']:,.0f} requests a second: {results['failed']:,} of "
        f"{results['requests']:,} failed; {results['decisions']:,} decisions in the Parquet for "
        f"{results['answered_200']:,} answers with 200, {results['journals_left']} journals left.",
        "",
        row(["resident memory", "at the start", "at the end", "slope after warming up"]),
        "|" + "---|" * 4,
    ]
    for name, slope in results["slope_mib_per_hour"].items():
        lines.append(row([name, f"{first[name]:,.0f} MiB", f"{last[name]:,.0f} MiB", f"{slope:+.1f} MiB/h"]))
    return "\n".join(lines)


def write(results: Mapping[str, Any]) -> None:
    write_section(PAGE, markdown(results), BEGIN)


def _latencies(run: Mapping[str, Any]) -> list[str]:
    keys = ("p50_ms", "p99_ms", "worst_p99_ms")
    return ["" if run.get(key) is None else f"{run[key]:.1f} ms" for key in keys]


def _format(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in outcomes.items() if count)
