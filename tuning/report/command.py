"""`python -m tuning.report`: draw a sweep's page and pictures from its journal, at its end or while it runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fraud.cli import check_outdir, examples, next_step
from fraud.data import tables
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings
from tuning.record.journal import REQUEST, Journal
from tuning.record.results import Results, objective_of
from tuning.report import plots, run_plots, threshold_plot
from tuning.report.importance import Importances, importances
from tuning.report.page import page
from tuning.report.verdict import headline
from tuning.request import BEST, PLOTS, resume_command, training_command
from tuning.request import REPORT as PAGE

logger = logging.getLogger(__name__)


def write(journal: Journal, outdir: Path) -> Path:
    """Write `outdir`/sweep_report.html and `outdir`/plots/*.png; returns the page's path.

    Reads only the journal, so the sweep may be running. If a picture cannot be drawn yet, its old file is deleted and
    the page says why. Raises ConfigError when the request is missing or damaged.
    """
    results = Results.read(journal)
    shares, missing = _importances(results)
    folder = outdir / PLOTS
    grid = (results.winner or {}).get("grid")
    draw: dict[str, Callable[[Path], object]] = {
        "best_so_far": lambda path: plots.best_so_far(results, path),
        "learning_curves": lambda path: run_plots.learning_curves(results, path),
        "importance": lambda path: plots.importance(shares, path),
        "pareto": lambda path: plots.pareto(results, path),
        "threshold_heatmap": lambda path: threshold_plot.threshold_heatmap(grid, path),
        "timeline": lambda path: run_plots.timeline(results, path),
    }
    for detector in results.detectors:
        draw[f"parallel_coordinates_{detector}"] = _parallel(
            results, detector, list(shares[detector].shares) if detector in shares else []
        )
    drawn: dict[str, Path | str] = {}
    for name, one in draw.items():
        path = folder / f"{name}.png"
        try:
            one(path)
            drawn[name] = path
        except DataError as error:
            path.unlink(missing_ok=True)
            drawn[name] = str(error)
    if not shares and missing:
        drawn["importance"] = missing
    target = outdir / PAGE
    tables.write_text(page(results, drawn, shares, missing, outdir / BEST), str(target))
    return target


def _parallel(results: Results, detector: str, important: Sequence[str]) -> Callable[[Path], object]:
    return lambda path: plots.parallel_coordinates(results, detector, path, important)


def _importances(results: Results) -> tuple[dict[str, Importances], str]:
    """(importances by detector, why other detectors have none)."""
    shares, missing = {}, []
    for detector in results.detectors:
        own = [(trial.params, objective_of(trial)) for trial in results.sampled(detector)]
        try:
            shares[detector] = importances(own, results.request["seed"])
        except DataError as error:
            missing.append(f"{detector}: {error}")
    return shares, "; ".join(missing)


def find(root: Path, sweep_id: str | None) -> Journal:
    """The journal of a sweep, by default the newest; takes no lock. Raises ConfigError that lists the sweeps."""
    requests = sorted(root.glob(f"*/{REQUEST}"), key=lambda path: path.stat().st_mtime)
    known = [path.parent.name for path in requests]
    if not known:
        raise ConfigError(f"there is no sweep in {root}: start one with python -m tuning.sweep, or set FRAUD_STATE")
    if sweep_id is None:
        return Journal(root / known[-1])
    if sweep_id not in known:
        raise ConfigError(f"no sweep {sweep_id!r} in {root}: the newest are {', '.join(known[-5:])}")
    return Journal(root / sweep_id)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tuning.report",
        description="Write a sweep's report from its journal: one HTML page and its pictures. Works while the sweep "
        "runs and after a kill; fits nothing.",
        **examples(
            "python -m tuning.report --outdir artifacts/sweep",
            "python -m tuning.report --sweep handbook-0712-1530 --outdir artifacts/sweep",
        ),
    )
    parser.add_argument("--sweep", metavar="ID", help="the sweep's id (default: the newest)")
    parser.add_argument("--outdir", required=True, help=f"folder for {PAGE} and {PLOTS}/")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 0."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    journal = find(settings.state / "sweeps", arguments.sweep)
    outdir = check_outdir(settings.locate(arguments.outdir), {PAGE, BEST})
    path = write(journal, outdir)
    results, best = Results.read(journal), outdir / BEST
    sys.stdout.write(f"{headline(results)}\nreport: {path}\n")
    command = training_command(results.request, best) if best.exists() else resume_command(results.sweep_id)
    sys.stdout.write(next_step(command))
    return 0
