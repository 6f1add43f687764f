"""A sweep small enough for a test: its space, its base configuration, its data, and how it is ordered."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fraud.data import simulation
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.settings import Settings
from fraud.training import folds
from fraud.training.config import TrainConfig, from_mapping
from fraud.training.fitting import Fold
from tuning import sweep
from tuning.record.journal import Journal
from tuning.space import reader
from tuning.space.definition import Space

SCHEMA = Schema.load("transactions")
SETTINGS = {
    "seed": 3,
    "forest": {"n_estimators": 30},
    "autoencoder": {"hidden": [6, 3], "epochs": 3, "batch_size": 256, "patience": 9},
    "head": {"iterations": 30},
}
BASE = from_mapping(TrainConfig, SETTINGS)
SPACE = """
features:
  clip: {choice: [5, 10]}
forest:
  n_estimators: {choice: [25, 50]}
  max_samples: {choice: [64, 128, 256]}
  max_features: {uniform: [0.5, 1.0]}
autoencoder:
  hidden: {choice: [[8, 4], [6, 3]]}
  lr: {log: [1e-3, 1e-2]}
  batch_size: 256
  epochs: 4
  score: {choice: [whitened, mse]}
forest_weight: {grid: [0, 1, 5]}
threshold:
  judge: {policy: best_f1}
  contamination: {choice: [null, 0.05]}
  policies:
    f_beta:
      beta: {log: [0.25, 4], steps: 10}
    alert_budget:
      budget: {log: [0.005, 0.1], steps: 10}
    precision_at_least:
      precision: {uniform: [0.2, 0.9], steps: 10}
"""
THRESHOLDS = 60  # combinations of the space


def space(text: str = SPACE, base: TrainConfig = BASE) -> Space:
    return reader.read(text, "space.yaml", base)


def rows(n: int = 3000, *, with_labels: bool = True) -> pd.DataFrame:
    frame = simulation.transactions(n, seed=5, fraud_rate=0.03)
    return validate(frame if with_labels else frame.drop(columns="is_fraud"), SCHEMA).rows


def windows(n: int = 3000, *, n_folds: int = 1, with_labels: bool = True, base: TrainConfig = BASE) -> list[Fold]:
    return folds.prepare(rows(n, with_labels=with_labels), SCHEMA, base, n_folds)


@dataclass(frozen=True)
class Workspace:
    """A user's folder with data, configuration and space, and the state that sweeps leave."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, n: int = 3000) -> Workspace:
        frame = simulation.transactions(n, seed=5, fraud_rate=0.03)
        frame.to_csv(folder / "data.csv", index=False)
        frame.drop(columns="is_fraud").to_csv(folder / "unlabelled.csv", index=False)
        (folder / "config.yaml").write_text(json.dumps(SETTINGS))
        (folder / "space.yaml").write_text(SPACE)
        return cls(folder)

    @property
    def settings(self) -> Settings:
        return Settings.from_environment({"FRAUD_ROOT": str(self.folder), "FRAUD_STATE": str(self.folder / "state")})

    def command(
        self, *more: str, data: str = "data.csv", space: str = "space.yaml", outdir: str = "sweep"
    ) -> list[str]:
        return ["--data", data, "--config", "config.yaml", "--space", space, "--outdir", outdir, *more]

    def run(self, argv: list[str]) -> str:
        """Run a sweep in this process; what the command prints."""
        text = sweep.sweep(sweep.read_command(argv, self.settings), self.settings)
        return text

    def journals(self) -> list[Journal]:
        """Journals of all sweeps, oldest first."""
        requests = sorted(self.settings.state.glob("sweeps/*/sweep.json"), key=lambda path: path.stat().st_mtime)
        return [Journal(path.parent) for path in requests]


def main_of(argv: list[str]) -> tuple[int, str]:
    """The command's exit code and what it prints; the environment says where."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        return sweep.main(argv), printed.getvalue()
