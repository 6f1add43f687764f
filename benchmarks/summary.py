"""Write the two tables of the README from the JSON of the last runs: `python -m benchmarks.summary`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.detection.measure import OURS
from benchmarks.pages import ROOT, row, write_section
from benchmarks.serving import table as serving

PAGE = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results"
BEGIN = "<!-- measured: python -m benchmarks.summary -->"
BEGIN_WEEKS = "<!-- measured: python -m benchmarks.summary (weeks) -->"
BOOSTING, PYOD = "HistGradientBoosting", "PyOD"
TITLES = {"ulb": "ULB", "handbook": "handbook", "sparkov": "Sparkov"}
# Rows of the production table: data set, title, key in the results.
WEEKS = (
    ("handbook", "handbook: daily batch, and live row by row", "live"),
    ("handbook", "handbook: live, without new labels", "live, never told"),
    ("sparkov", "Sparkov: daily batch, and live row by row", "live"),
)


def results(name: str) -> Any:
    """Results of the last run of one benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def peers() -> str:
    """Markdown table: our figures, the best peer of the same run, and the ratio."""
    lines = [row(["measured", "ours", "peer", "peer's figure", "ratio"]), "|" + "---|" * 5]
    for key, data_set in results("detection").items():
        precision = {who: _mean(figures) for who, figures in data_set["figures"].items()}
        for name, what, prefix in (("joined", "with labels", BOOSTING), ("label_light", "few labels", PYOD)):
            best = max((who for who in precision if who.startswith(prefix)), key=lambda who: precision[who])
            ours, theirs = precision[OURS[name]], precision[best]
            title = f"average precision, {TITLES[key]}, {what}"
            cells = [title, f"{ours:.3f}", best.split(",")[0], f"{theirs:.3f}", f"{ours / theirs:.2f}×"]
            lines.append(row(cells))
    engine = {case["case"]: case for case in results("engine")["table"]}
    for name, unit, digits in (("1 row", 1, 0), ("100,000 rows", 1000, 0)):
        case = engine[name]
        usual, ours = case["usual_us"] / 1000, case["engine_us"] / unit
        cells = [f"engine, {name}", f"{ours:.{digits}f} {'µs' if unit == 1 else 'ms'}", "scikit-learn + torch"]
        lines.append(row([*cells, f"{usual:.3g} ms", _times(case["ratio"])]))
    servers, case = results("serving")["servers"], serving.SINGLE.format(16)
    ours = serving.figure(servers, serving.OURS, case, "rate")
    for server, title in (
        ("fastapi", "FastAPI, our engine, 1 process"),
        ("fastapi-2", "FastAPI, our engine, 2 workers"),
        ("serve", "Ray Serve's defaults"),
    ):
        theirs = serving.figure(servers, server, case, "rate")
        ratio = serving.ratio(servers, (serving.OURS, case, "rate"), (server, case, "rate"))
        cells = ["`/score` requests/s, 16 callers", f"{ours:,.0f}", title, f"{theirs:,.0f}", _times(ratio or 0.0)]
        lines.append(row(cells))
    return "\n".join(lines)


def weeks() -> str:
    """Markdown table: average precision in each of the eight weeks after training."""
    sets = results("production")["sets"]
    lines = [row(["average precision in week", *map(str, range(1, 9))]), "|" + "---|" * 9]
    for data_set, title, key in WEEKS:
        lines.append(row([title, *(f"{week[key]:.3f}" for week in sets[data_set]["weeks"])]))
    return "\n".join(lines)


def main() -> int:
    write_section(PAGE, peers(), BEGIN)
    write_section(PAGE, weeks(), BEGIN_WEEKS)
    return 0


def _mean(figures: Mapping[str, Any]) -> float:
    """Average precision: mean over the windows, then over the seeds."""
    return float(np.mean([np.mean(windows) for windows in figures["average_precision"]]))


def _times(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"


if __name__ == "__main__":
    sys.exit(main())
