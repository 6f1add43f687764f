"""The tables of docs/sweeps.md, from the JSON of the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.detection.table import spread
from benchmarks.pages import ROOT, row, write_section
from benchmarks.sweep.asha import SCHEDULERS
from benchmarks.sweep.quality import SCORES

RESULTS = ROOT / "benchmarks/results/sweep.json"
PAGE = ROOT / "docs/sweeps.md"
BEGIN = "<!-- measured: python -m benchmarks.sweep --table -->"
CONFIGURATIONS = {
    "default": "default settings",
    "sweep": "the sweep's best.yaml",
    "shipped": "the shipped configuration, tuned by hand",
}
_COLUMNS = {
    "forest": "forest",
    "autoencoder": "autoencoder",
    "label_light": "both joined, label-light",
    "joined": "joined with the head",
}
SEARCHES = {
    "ours": "a sweep, MLflow off",
    "ours_mlflow": "a sweep, every trial in MLflow",
    "optuna": "Optuna alone, joblib's workers, our fits",
    "optuna_usual": "the same with fits as usually written",
    "sklearn": "scikit-learn's RandomizedSearchCV, our fits",
}
REFERENCE = "optuna"
_SCHEDULERS = {"asha": "asha", "none": "none: every trial to its end"}


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown of every measured part."""
    parts = {"quality": quality, "asha": asha, "speed": speed}
    return "\n\n".join(table(results[name]) for name, table in parts.items() if name in results)


def quality(results: Mapping[str, Any]) -> str:
    """Average precision of each configuration on the test window of every data set."""
    lines = [
        "Average precision on the test window, which no sweep reads; mean ± standard deviation over the seeds of the "
        "fits.",
        "",
        row(["data", "configuration", *_COLUMNS.values()]),
        "|" + "---|" * (2 + len(_COLUMNS)),
    ]
    for data in results.values():
        for who, figures in data["figures"].items():
            cells = [spread([[value] for value in figures[score]]) for score in SCORES]
            lines.append(row([data["title"], CONFIGURATIONS[who], *cells]))
    lines += ["", row(["data", "trials", "stopped early", "wall", "validation: given", "validation: chosen"])]
    lines.append("|" + "---|" * 6)
    for data in results.values():
        summary = data["sweep"]
        cells = [str(summary["trials"]), str(summary["stopped"]), _minutes(summary["wall_s"])]
        lines.append(row([data["title"], *cells, _three(summary["given"]), _three(summary["winner"])]))
    return "\n".join(lines)


def asha(results: Mapping[str, Any]) -> str:
    """Work and result with and without early stopping, means over the seeds of the sweeps."""
    lines = [
        "The same sweeps with and without early stopping; average precision on the validation window, mean over the "
        "sweeps' seeds.",
        "",
        row(["data", "scheduler", "epochs", "trees", "wall", "best autoencoder", "best forest", "winner"]),
        "|" + "---|" * 8,
    ]
    for data in results.values():
        title = f"{data['title']}, {data['trials']} trials, seeds {', '.join(map(str, data['seeds']))}"
        for scheduler in SCHEDULERS:
            runs = data[scheduler]
            cells = [f"{mean(runs, key):,.0f}" for key in ("epochs", "trees")] + [_minutes(mean(runs, "wall_s"))]
            cells += [_three(mean(runs, key)) for key in ("best_autoencoder", "best_forest", "winner")]
            lines.append(row([title, _SCHEDULERS[scheduler], *cells]))
        saved = {key: 1 - mean(data["asha"], key) / mean(data["none"], key) for key in ("epochs", "trees", "wall_s")}
        lost = {
            key: mean(data["asha"], key) - mean(data["none"], key)
            for key in ("best_autoencoder", "best_forest", "winner")
        }
        cells = [f"{share:.0%} saved" for share in saved.values()] + [f"{change:+.3f}" for change in lost.values()]
        lines.append(row([title, "asha against none", *cells]))
    return "\n".join(lines)


def speed(results: Mapping[str, Any]) -> str:
    """Times of the same fits by each search, medians over the rounds."""
    lines = []
    for data in results.values():
        trees, network = data["fits"]["forest"]["n_estimators"], data["fits"]["autoencoder"]
        lines += [
            f"{data['title']}, {data['rows']:,} rows: {data['trials']} equal fits, half forests of {trees} trees, half "
            f"autoencoders of {network['epochs']} epochs, {data['at_once']} at once, each search in a fresh process; "
            f"median of {len(data['runs'][REFERENCE])} rounds. A further trial: time between two ends in one worker, "
            "so without its first. Memory: all processes of the search, shared pages counted once, in a shorter run.",
            "",
            row(["search", "wall", "against Optuna", "start and data", "trials", "after the last", "a further trial",
                  "against Optuna", "fit and judgement alone", "peak memory"]),
            "|" + "---|" * 10,
        ]  # fmt: skip
        reference = data["runs"][REFERENCE]
        for variant, runs in data["runs"].items():
            cells = [SEARCHES[variant], f"{median(runs, 'wall_s'):.1f} s"]
            cells.append(f"{median(runs, 'wall_s') / median(reference, 'wall_s'):.2f}")
            cells += [f"{median(runs, key):.1f} s" for key in ("before_s", "search_s", "after_s")]
            cells.append(f"{median(runs, 'trial_s'):.2f} s")
            cells.append(f"{median(runs, 'trial_s') / median(reference, 'trial_s'):.2f}")
            cells += [f"{median(runs, 'work_s'):.2f} s", f"{data['peak_mib'][variant]:,.0f} MiB"]
            lines.append(row(cells))
    return "\n".join(lines)


def write(results: Mapping[str, Any]) -> None:
    write_section(PAGE, markdown(results), BEGIN)


def mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.median([run[key] for run in runs]))


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
