"""Run one sweep in a new process with its own folders, and read its journal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.detection.protocols import DataSet
from benchmarks.sweep import processes
from benchmarks.sweep.processes import Run
from fraud.errors import DataError
from fraud.training.config import TrainConfig

BEST = "best.yaml"
# Space of a smoke test.
FAST = """
forest: {n_estimators: {choice: [25, 50]}, max_features: {uniform: [0.5, 1]}}
autoencoder:
  {hidden: [8], lr: {log: [1e-3, 5e-3]}, batch_size: 1024, epochs: 4, score: {choice: [whitened, mse]}}
"""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep. ran: its process; events: of the journal; winner: winner.json; best: path of best.yaml."""

    ran: Run
    events: Sequence[Mapping[str, Any]]
    winner: Mapping[str, Any]
    best: Path

    @property
    def ended(self) -> dict[int, dict[str, Any]]:
        """The last `ended` event of every trial, with its detector, by number."""
        detectors = {event["number"]: event["detector"] for event in self.events if event["event"] == "started"}
        return {
            event["number"]: {**event, "detector": detectors[event["number"]]}
            for event in self.events
            if event["event"] == "ended"
        }

    @property
    def search_seconds(self) -> float:
        """Seconds from the submission of the first trial to the end of the last."""
        opened = next(event["time"] for event in self.events if event["event"] == "opened")
        return float(max(event["time"] for event in self.ended.values()) - opened)

    def of(self, detector: str) -> list[dict[str, Any]]:
        """Trials of a detector with a result."""
        return [trial for trial in self.ended.values() if trial["detector"] == detector and trial["result"]]

    def best_objective(self, detector: str) -> float | None:
        """Best validation objective of a detector's trials; None without a result."""
        return max((float(trial["result"]["objective"]) for trial in self.of(detector)), default=None)

    def summary(self) -> dict[str, Any]:
        """Counts, objectives and times, JSON-ready. Objectives are average precision on the validation window."""
        trials = self.ended.values()
        unpaired = max(filter(None, map(self.best_objective, ("forest", "autoencoder"))), default=None)
        winner = self.winner["winner"]
        return {
            "trials": len(trials),
            "stopped": sum(trial["status"] == "stopped" for trial in trials),
            "failed": sum(trial["status"] == "failed" for trial in trials),
            "epochs": sum(trial["result"]["epochs"] * trial["result"]["fits"] for trial in self.of("autoencoder")),
            "trees": sum(trial["result"]["trees"] * trial["result"]["fits"] for trial in self.of("forest")),
            "combinations": sum(trial["result"]["combinations"] for trial in trials if trial["result"]),
            "best_forest": self.best_objective("forest"),
            "best_autoencoder": self.best_objective("autoencoder"),
            "winner": winner.get("objective", unpaired),
            "given": (self.winner.get("baseline") or {}).get("objective"),
            "settings": winner["settings"],
            "wall_s": round(self.ran.seconds, 2),
            "search_s": round(self.search_seconds, 2),
        }


def run(
    source: str, schema: str, config: Mapping[str, Any], folder: Path, *options: str, space: str | None = None,
    watch: bool = False, track: bool = False,
) -> Sweep:  # fmt: skip
    """Run `python -m tuning.sweep` on a data file; it writes only below `folder`.

    config: content of the YAML. space: YAML text, None for the default. track: use MLflow, on SQLite.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    command = ["tuning.sweep", "--data", source, "--schema", schema, "--config", str(folder / "config.yaml")]
    command += ["--outdir", str(folder / "out"), *options]
    if space is not None:
        (folder / "space.yaml").write_text(space)
        command += ["--space", str(folder / "space.yaml")]
    command += [] if track else ["--no-mlflow"]
    ran = processes.run(command, folder / "sweep.log", {"FRAUD_STATE": str(folder / "state")}, watch=watch)
    return read(folder, ran)


def read(folder: Path, ran: Run) -> Sweep:
    """Read the sweep below `folder`. Raises DataError unless there is exactly one."""
    journals = list((folder / "state/sweeps").glob("*/trials.jsonl"))
    if len(journals) != 1:
        raise DataError(f"{len(journals)} sweeps in {folder} instead of one")
    events = [json.loads(line) for line in journals[0].read_text().splitlines()]
    winner = json.loads(journals[0].with_name("winner.json").read_text())
    return Sweep(ran, events, winner, folder / "out" / BEST)


def source_of(data_set: DataSet, folder: Path) -> str:
    """Path of a published file. Raises DataError if it is missing."""
    path = (folder / data_set.file).absolute()
    if not path.exists():
        raise DataError(f"{path} is missing: set FRAUD_SHARED_DATA to the folder with the published data sets")
    return str(path)


def split_only(name: str) -> dict[str, Any]:
    """Configuration with only the shipped split: what a user has before a sweep."""
    split = TrainConfig.load(name).to_dict()["split"]
    return {"split": {key: value for key, value in split.items() if value is not None}}
