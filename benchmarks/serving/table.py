"""The tables of docs/serving_speed.md, from the last run's JSON: single transactions, batches, targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.pages import ROOT, write_section

RESULTS = ROOT / "benchmarks/results/serving.json"
PAGE = ROOT / "docs/serving_speed.md"
BEGIN = "<!-- measured: python -m benchmarks.serving --table -->"
OURS = "ours"
MOST_FAILED = 0.001  # share of failed requests above which a server is marked
SINGLE, BATCH = "single {}", "json {}"


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown of all tables and notes."""
    run, measured = results["run"], results["servers"]
    header = (
        f"{run['cpus']} CPUs, Python {run['python']}, median of {run['rounds']} rounds of {run['seconds']} s a load, "
        f"{run['minutes']:.0f} minutes in all. ×: ours, 2 replicas, by that server, median of the rounds' ratios."
    )
    parts = [header, _singles(measured), _batches(measured), _targets(measured)]
    return "\n\n".join(part for part in [*parts, _notes(measured)] if part)


def figure(results: Mapping[str, Any], server: str, case: str, key: str) -> float | None:
    """Median over the rounds; None if not measured."""
    values = [one["cases"][case][key] for one in results.get(server, {}).get("rounds", []) if case in one["cases"]]
    return _median(values)


def ratio(results: Mapping[str, Any], ours: tuple[str, str, str], other: tuple[str, str, str]) -> float | None:
    """Median over the rounds of ours / other within a round; each is (server, case, key)."""
    pairs = zip(*(_rounds(results, *of) for of in (ours, other)), strict=False)
    values = [one / another for one, another in pairs if one is not None and another]
    return _median(values)


def targets(results: Mapping[str, Any]) -> list[tuple[str, float | None, float]]:
    """Targets: (description, measured ratio, minimum)."""

    def faster(case: str, other: str, other_case: str = "") -> float | None:
        return ratio(results, (OURS, case, "rate"), (other, other_case or case, "rate"))

    at_16 = SINGLE.format(16)
    peers = [("MLServer", "mlserver"), ("BentoML", "bentoml"), ("LitServe", "litserve"), ("mlflow serve", "mlflow")]
    return [
        ("single at 16, by the seed style", faster(at_16, "seed"), 20.0),
        ("single at 16, by FastAPI with the same engine, 1 process", faster(at_16, "fastapi"), 1.0),
        ("single at 16, by FastAPI with the same engine, 2 workers", faster(at_16, "fastapi-2"), 1.0),
        ("single at 16, by Ray Serve's defaults", faster(at_16, "serve"), 5.0),
        *((f"single at 16, by {title}", faster(at_16, name), 1.0) for title, name in peers),
        ("the seed style's p50 at 1, by our p99 at 1",
         ratio(results, ("seed", SINGLE.format(1), "p50_ms"), (OURS, SINGLE.format(1), "p99_ms")), 1.0),
        *(
            each
            for at in (1, 16)
            for each in (
                (f"batch as JSON at {at}, by the seed style", faster(BATCH.format(at), "seed"), 10.0),
                (f"batch as Arrow at {at}, by the seed style's JSON",
                 faster(f"arrow {at}", "seed", BATCH.format(at)), 30.0),
            )
        ),
    ]  # fmt: skip


def write(results: Mapping[str, Any]) -> None:
    write_section(PAGE, markdown(results), BEGIN)


def _singles(results: Mapping[str, Any]) -> str:
    header = ["POST /score, one transaction", "req/s at 1", "16", "64", "p50 / p99 / p99.9 ms at 1", "at 16"]
    header += ["CPU µs a request at 16", "CPU % at rest", "MiB (PSS)", "× at 1", "× at 16", "× at 64"]
    rows = []
    for name in results:
        cases = [SINGLE.format(connections) for connections in (1, 16, 64)]
        if figure(results, name, cases[1], "rate") is None:
            continue
        cells = [_title(results, name), *(_number(figure(results, name, case, "rate")) for case in cases)]
        cells += [_latencies(results, name, case) for case in cases[:2]]
        idle = _median([one.get("idle_cpu") for one in results[name]["rounds"]])
        cells += [_number(figure(results, name, cases[1], "cpu_us")), _number(100 * idle if idle is not None else None)]
        cells.append(_number(_memory(results, name)))
        cells += [_times(ratio(results, (OURS, case, "rate"), (name, case, "rate"))) for case in cases]
        rows.append(cells)
    return _table(header, rows)


def _batches(results: Mapping[str, Any]) -> str:
    header = ["1,000 rows a request", "JSON rows/s at 1", "at 16", "p50 / p99 ms at 1", "CPU µs a row", "NDJSON at 1"]
    header += ["Arrow at 1", "at 16", "our JSON ×", "our Arrow by its JSON ×"]
    rows = []
    for name in results:
        one, many = (BATCH.format(connections) for connections in (1, 16))
        if figure(results, name, one, "rate") is None:
            continue
        cells = [_title(results, name), *(_number(figure(results, name, case, "rate")) for case in (one, many))]
        cells += [_latencies(results, name, one, 2), _number(figure(results, name, one, "cpu_us"), 1)]
        cells += [_number(figure(results, name, case, "rate")) for case in ("ndjson 1", "arrow 1", "arrow 16")]
        cells.append(_times(ratio(results, (OURS, one, "rate"), (name, one, "rate"))))
        cells.append(_times(ratio(results, (OURS, "arrow 1", "rate"), (name, one, "rate"))))
        rows.append(cells)
    return _table(header, rows)


def _targets(results: Mapping[str, Any]) -> str:
    rows = [
        [what, _times(measured), f"≥ {least:g}", "yes" if measured >= least else "**no**"]
        for what, measured, least in targets(results)
        if measured is not None
    ]
    return _table(["ours by another's", "measured ×", "target ×", "met"], rows)


def _notes(results: Mapping[str, Any]) -> str:
    """Notes on servers that were not measured and on failed requests."""
    lines = [f"- {one['title']}: {one['error']}" for one in results.values() if "error" in one]
    for one in results.values():
        lines += [f"- {one['title']}, a round: {turn['error']}" for turn in one["rounds"] if "error" in turn]
        for case in dict.fromkeys(case for turn in one["rounds"] for case in turn["cases"]):
            turns = [turn["cases"][case] for turn in one["rounds"] if case in turn["cases"]]
            failed, asked = sum(turn["failed"] for turn in turns), sum(turn["requests"] for turn in turns)
            if failed:
                kinds: dict[str, int] = {}
                for turn in turns:
                    for kind, count in {**turn["statuses"], **turn["socket_errors"]}.items():
                        if kind != "200" and count:
                            kinds[kind] = kinds.get(kind, 0) + count
                counts = ", ".join(f"{count:,} × {kind}" for kind, count in kinds.items())
                lines.append(f"- {one['title']}, {case}: {failed:,} of {asked:,} requests failed ({counts})")
    return "\n".join(lines)


def _rounds(results: Mapping[str, Any], server: str, case: str, key: str) -> list[float | None]:
    return [one["cases"].get(case, {}).get(key) for one in results.get(server, {}).get("rounds", [])]


def _memory(results: Mapping[str, Any], name: str) -> float | None:
    return _median([one["memory"]["pss_mib"] for one in results[name]["rounds"] if "memory" in one])


def _median(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.median(numbers)) if numbers else None


def _title(results: Mapping[str, Any], name: str) -> str:
    one = results[name]
    figures = [figure for turn in one["rounds"] for figure in turn["cases"].values()]
    failed = sum(figure["failed"] for figure in figures) / max(1, sum(figure["requests"] for figure in figures))
    version = f" {one['version']}" if name in ("mlserver", "bentoml", "litserve", "mlflow") else ""
    return one["title"] + version + (" **(failed requests)**" if failed > MOST_FAILED else "")


def _latencies(results: Mapping[str, Any], name: str, case: str, how_many: int = 3) -> str:
    keys = ("p50_ms", "p99_ms", "p999_ms")[:how_many]
    values = [figure(results, name, case, key) for key in keys]
    return " / ".join("" if value is None else f"{value:.3g}" for value in values)


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
