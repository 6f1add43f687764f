"""Speed of a sweep: the same fits by it, by Optuna with joblib and by scikit-learn, each in a new process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.detection.protocols import DataSet
from benchmarks.sweep import processes, sweeps
from benchmarks.sweep.peers import SEARCHED
from benchmarks.sweep.processes import ROOT, Run
from fraud.errors import DataError
from fraud.training.config import TrainConfig

OURS, OURS_TRACKED, OPTUNA, USUAL, SKLEARN = "ours", "ours_mlflow", "optuna", "optuna_usual", "sklearn"
VARIANTS = (OPTUNA, OURS, OURS_TRACKED, USUAL, SKLEARN)
AT_ONCE = 2
# Memory does not grow with the trials, and sampling it uses CPU.
WATCHED_TRIALS = 8
# Longest window of the handbook's features.
DAYS_OF_HISTORY = 30


def measure(
    data_set: DataSet, folder: Path, scratch: Path, *, trials: int, rounds: int, fast: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Run every variant `rounds` times in rotating order, after a short round for memory. Returns JSON-ready results.

    Keys: title, trials, at_once, rows (of the input file), fits (settings shared by all), runs {variant: [summary per
    round]}, peak_mib {variant: MiB}.
    """
    source, rows = sample(data_set, folder, scratch)
    config = fixed_config(data_set.name, fast=fast)
    space = fixed_space(config)
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    peaks: dict[str, float] = {}
    for turn in range(rounds + 1):
        for index in range(len(VARIANTS)):
            variant = VARIANTS[(index + turn) % len(VARIANTS)]
            run_folder = scratch / f"{variant}-{turn}"
            n_trials = trials if turn else min(trials, WATCHED_TRIALS)
            order = source, data_set.name, config, run_folder, n_trials, turn == 0
            is_peer = variant not in (OURS, OURS_TRACKED)
            ran, result = _peer(variant, *order) if is_peer else _ours(space, variant == OURS_TRACKED, order)
            if len(result["trials"]) != n_trials:
                raise DataError(
                    f"{variant} ended {len(result['trials'])} of {n_trials} trials: the runs are not comparable"
                )
            figures = summary(ran, result)
            log(f"{variant}, round {turn}{' (watched)' if turn == 0 else ''}: {figures}")
            if turn:
                runs[variant].append(figures)
            else:
                peaks[variant] = round(ran.peak_mib or 0.0, 1)
    fits = {name: config[name] for name in SEARCHED}
    return {
        "title": data_set.title, "trials": trials, "at_once": AT_ONCE, "rows": rows, "fits": fits, "runs": runs,
        "peak_mib": peaks,
    }  # fmt: skip


def sample(data_set: DataSet, folder: Path, scratch: Path) -> tuple[str, int]:
    """Write the rows that the configured windows and their history need; returns path and number of rows."""
    frame = pd.read_parquet(sweeps.source_of(data_set, folder))
    start, timestamp = TrainConfig.load(data_set.name).split.train_start, data_set.schema.timestamp
    if start is not None and timestamp is not None:
        since = pd.Timestamp(start) - pd.Timedelta(days=DAYS_OF_HISTORY)
        frame = frame[frame[timestamp.name] >= since]
    path = scratch / "sample.parquet"
    frame.to_parquet(path)
    return str(path), len(frame)


def fixed_config(name: str, *, fast: bool = False) -> dict[str, Any]:
    """Configuration with the shipped sizes, no early stopping and no head, so that all fits cost the same."""
    shipped = TrainConfig.load(name)
    trees, network = shipped.forest, shipped.autoencoder
    epochs = 3 if fast else network.epochs
    return {
        **sweeps.split_only(name),
        "head": {"use": "never"},
        "forest": {"n_estimators": 25 if fast else trees.n_estimators, "max_samples": trees.max_samples},
        "autoencoder": {
            "hidden": list(network.hidden), "noise": network.noise, "batch_size": network.batch_size, "epochs": epochs,
            "patience": epochs, "score": "whitened_latent",
        },
    }  # fmt: skip


def fixed_space(config: Mapping[str, Any]) -> str:
    """Space of our sweep, YAML: the settings that the peers search, and the thresholds of the default space."""
    default = yaml.safe_load((ROOT / "tuning/spaces/default.yaml").read_text(encoding="utf-8"))
    searched = {
        detector: {
            name: {"log" if is_log else "uniform": [low, high]} for name, (low, high, is_log) in settings.items()
        }
        for detector, settings in SEARCHED.items()
    }
    searched["forest"] |= {"n_estimators": config["forest"]["n_estimators"]}
    searched["autoencoder"] |= {name: config["autoencoder"][name] for name in ("epochs", "patience", "score")}
    return yaml.safe_dump({**searched, "threshold": default["threshold"]})


def summary(ran: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """Times of a run, JSON-ready, seconds.

    wall_s: until our process ends; for a peer until it has its result, before joblib stops its workers. before_s: until
    the first trial is submitted. after_s: from the end of the last trial. trial_s: mean time between trial ends in one
    worker, so without each worker's first. work_s: mean time of fit and evaluation of the same trials.
    """
    by_worker: dict[Any, list[Mapping[str, Any]]] = {}
    for trial in sorted(result["trials"], key=lambda trial: trial["ended"]):
        by_worker.setdefault(trial["worker"], []).append(trial)
    gaps = [float(gap) for trials in by_worker.values() for gap in np.diff([trial["ended"] for trial in trials])]
    warm = [float(trial["seconds"]) for trials in by_worker.values() for trial in trials[1:]]
    last = max(trial["ended"] for trial in result["trials"])
    ready = result.get("ready", ran.began + ran.seconds)
    times = {
        "wall_s": ready - ran.began,
        "before_s": result["opened"] - ran.began,
        "search_s": last - result["opened"],
        "after_s": ready - last,
        "trial_s": float(np.mean(gaps)) if gaps else None,
        "work_s": float(np.mean(warm)) if warm else None,
    }
    best = {
        f"best_{detector}": max(trial["objective"] for trial in result["trials"] if trial["detector"] == detector)
        for detector in SEARCHED
    }
    rounded = {name: None if value is None else round(value, 4) for name, value in (times | best).items()}
    return {**rounded, "workers": len(by_worker)}


def _ours(
    space: str, track: bool, order: tuple[str, str, Mapping[str, Any], Path, int, bool]
) -> tuple[Run, dict[str, Any]]:
    source, schema, config, folder, trials, watch = order
    options = ("--trials", str(trials), "--scheduler", "none", "--max-concurrent", str(AT_ONCE))
    sweep = sweeps.run(source, schema, config, folder, *options, space=space, watch=watch, track=track)
    opened = next(event["time"] for event in sweep.events if event["event"] == "opened")
    records = [
        {
            "detector": trial["detector"], "objective": trial["result"]["objective"],
            "seconds": trial["result"]["seconds"], "worker": trial["worker"], "ended": trial["time"],
        }
        for detector in SEARCHED
        for trial in sweep.of(detector)
    ]  # fmt: skip
    return sweep.ran, {"opened": opened, "trials": records}


def _peer(
    peer: str, source: str, schema: str, config: Mapping[str, Any], folder: Path, trials: int, watch: bool
) -> tuple[Run, dict[str, Any]]:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    command: Sequence[str] = [
        "benchmarks.sweep.peers", peer, "--data", source, "--schema", schema, "--config", str(folder / "config.yaml"),
        "--trials", str(trials), "--at-once", str(AT_ONCE), "--out", str(folder / "trials.json"),
    ]  # fmt: skip
    ran = processes.run(command, folder / "peer.log", {"FRAUD_STATE": str(folder / "state")}, watch=watch)
    return ran, json.loads((folder / "trials.json").read_text())
