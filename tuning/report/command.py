"""`python -m tuning.report`: draw a sweep's page and pictures from its journal, at its end or while it runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fraud.cli import check_outdir
from fraud.data import tables
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings
from tuning.order import BEST, PLOTS
from tuning.order import REPORT as PAGE
from tuning.record.journal import ORDER, Journal
from tuning.record.results import Results, objective_of
from tuning.report import plots, run_plots, threshold_plot
from tuning.report.importance import Importances, importances
from tuning.report.page import page
from tuning.report.verdict import headline

logger = logging.getLogger(__name__)


def write(journal: Journal, outdir: Path) -> Path:
    """Write `outdir`/sweep_report.html and `outdir`/plots/*.png; returns the page's path.

    Reads the journal only, so the sweep may be running. Where a picture cannot be drawn yet, an older one of that name
    is deleted and the page says why. Raises ConfigError when the order is missing or damaged.
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
            shares[detector] = importances(own, results.order["seed"])
        except DataError as error:
            missing.append(f"{detector}: {error}")
    return shares, "; ".join(missing)


def find(root: Path, sweep_id: str | None) -> Journal:
    """The journal of a sweep, by default the newest; takes no lock. Raises ConfigError that lists the sweeps."""
    orders = sorted(root.glob(f"*/{ORDER}"), key=lambda path: path.stat().st_mtime)
    known = [path.parent.name for path in orders]
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
        description="Draw a sweep again from its journal: one HTML page and its pictures. It reads only, so it may be "
        "called while the sweep runs, after a kill, or years later; nothing is fitted.",
        epilog="examples:\n"
        "  python -m tuning.report --outdir artifacts/sweep\n"
        "  python -m tuning.report --sweep handbook-0712-1530 --outdir artifacts/sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep", metavar="ID", help="which one, as --resume takes it (default: the newest)")
    parser.add_argument("--outdir", required=True, help=f"folder for {PAGE} and {PLOTS}/")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 0."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    journal = find(settings.state / "sweeps", arguments.sweep)
    outdir = check_outdir(settings.locate(arguments.outdir), {PAGE, BEST})
    path = write(journal, outdir)
    sys.stdout.write(f"{headline(Results.read(journal))}\nreport: {path}\n")
    return 0
