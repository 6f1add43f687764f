"""The sweep's page and pictures: drawn from a journal in every state that a sweep can leave it in."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

from fraud.config import TrainConfig
from tuning.journal import Journal

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CREATED = 1_790_000_000.0
SPACE = "forest: {n_estimators: {choice: [50, 100, 200, 300]}}\nautoencoder: {epochs: 27}\n"
ALL = {
    "best_so_far", "learning_curves", "importance", "pareto", "threshold_heatmap", "timeline",
    "parallel_coordinates_forest", "parallel_coordinates_autoencoder",
}  # fmt: skip


AGAIN = {
    "features.scaling": "robust", "forest.max_samples": 256, "forest.max_features": 0.7, "forest.bootstrap": True,
}  # fmt: skip


class Sweep:
    """Writes a journal as a driver and its trials do."""

    def __init__(self, root: Path, sweep_id: str = "handbook-0712", **order: Any) -> None:
        (root / sweep_id).mkdir(parents=True)
        self.journal = Journal(root / sweep_id)
        self.random = random.Random(3)
        self.journal.write_order(
            {
                "id": sweep_id, "created": CREATED, "data": "data/handbook.parquet", "fingerprint": "ab" * 16,
                "schema": "handbook", "config": TrainConfig().to_dict(), "space": SPACE, "trials": 40,
                "detector": "both", "seed": 7, "objectives": ["average_precision"],
                "objective_name": "average_precision", "folds": 1, "scheduler": "asha", "cpus_per_trial": 0.5,
                "gpus_per_trial": 0, "max_concurrent": 4, "time_budget_s": None, **order,
            }
        )  # fmt: skip
        self.event("opened", CREATED)

    def event(self, kind: str, time: float, **fields: Any) -> None:
        self.journal.append({"event": kind, "time": time, **fields})

    def forest(self, number: int, start: float, worker: str = "10.0.0.1/101", **params: Any) -> float:
        """A forest that ran to its end; returns when."""
        settings = {
            "features.scaling": self.random.choice(["robust", "standard"]),
            "forest.max_samples": self.random.choice([128, 256, 512, 1024]),
            "forest.max_features": self.random.uniform(0.3, 1.0),
            "forest.bootstrap": self.random.choice([True, False]),
        } | params
        self.event("started", start, number=number, detector="forest", params=settings)
        base = 0.3 + 0.12 * math.log2(settings["forest.max_samples"] / 128) / 3 + 0.1 * settings["forest.max_features"]
        candidates, end = [], start
        for place, trees in enumerate((50, 100, 200, 300)):
            end = start + 0.02 * trees
            value = base + 0.01 * place + self.random.gauss(0, 0.006)
            candidates.append(
                {"settings": {"forest.n_estimators": trees}, "objective": value, "by_fold": [value],
                 "scoring_cost": 8.5 * trees}
            )  # fmt: skip
            self.event("rung", end, number=number, step=trees, objective=value, epochs=[], worker=worker)
        best = max(range(4), key=lambda i: candidates[i]["objective"])
        self.end(number, end, worker, candidates, best, trees=300)
        return end

    def autoencoder(
        self, number: int, start: float, epochs: int = 27, worker: str = "10.0.0.1/102", labels: bool = True,
        **params: Any,
    ) -> float:  # fmt: skip
        """An autoencoder, stopped early when it runs fewer than 27 epochs; returns when it ended."""
        width = self.random.choice([16, 24, 32])
        settings = {
            "features.scaling": self.random.choice(["robust", "standard"]),
            "autoencoder.hidden": [width, width // 2],
            "autoencoder.activation": self.random.choice(["relu", "tanh", "elu"]),
            "autoencoder.lr": 10 ** self.random.uniform(-4, -2),
            "autoencoder.noise": self.random.uniform(0, 0.3),
            "autoencoder.batch_size": self.random.choice([128, 256, 512]),
        } | params
        self.event("started", start, number=number, detector="autoencoder", params=settings)
        top = 0.56 - 0.07 * abs(math.log10(settings["autoencoder.lr"]) + 2.7) - 0.2 * settings["autoencoder.noise"]
        end, done = start, 0
        for step in [rung for rung in (1, 3, 9, 27) if rung <= epochs]:
            reported = []
            for epoch in range(done + 1, step + 1):
                end, error = end + 0.6, 0.9 * math.exp(-epoch / 6) + 0.2 + self.random.random() / 50
                reported.append(
                    {"epoch": epoch, "train_error": error * 0.9, "validation_error": error, "seconds": 0.6, "time": end}
                )
            done = step
            value = top * (1 - math.exp(-step / 3)) + self.random.gauss(0, 0.004) if labels else None
            self.event("rung", end, number=number, step=step, objective=value, epochs=reported, worker=worker)
        value = top * (1 - math.exp(-done / 3)) if labels else 0.8
        candidates = [
            {"settings": {"autoencoder.epochs": done, "autoencoder.score": score}, "objective": value + gain,
             "by_fold": [value + gain], "scoring_cost": 2.0 * 15 * width + 4 * width * width / 2 + extra}
            for score, gain, extra in (("mse", -0.06, 0), ("whitened_latent", 0.0, 60), ("density", 0.015, 400))
        ]  # fmt: skip
        self.end(number, end, worker, candidates, 2, epochs=done, status="finished" if done == 27 else "stopped")
        return end

    def end(
        self, number: int, time: float, worker: str, candidates: list[dict[str, Any]], best: int,
        epochs: int | None = None, trees: int | None = None, status: str = "finished",
    ) -> None:  # fmt: skip
        reason = "ran to its end" if status == "finished" else f"ASHA: not in the best third at epoch {epochs}"
        result = {
            "objective": candidates[best]["objective"], "scoring_cost": candidates[best]["scoring_cost"],
            "seconds": 7.5, "fits": 1, "epochs": epochs, "trees": trees, "candidates": candidates, "best": best,
            "thresholds": None, "combinations": 480 * len(candidates), "memory_mib": 412.0,
        }  # fmt: skip
        self.event("ended", time, number=number, status=status, reason=reason, result=result, worker=worker)

    def fail(self, number: int, start: float, reason: str, detector: str = "autoencoder", **params: Any) -> None:
        self.event("started", start, number=number, detector=detector, params=params or {"autoencoder.lr": 0.5})
        self.event("ended", start + 2, number=number, status="failed", reason=reason, result=None, worker="10.0.0.1/1")

    def winner(self, **changes: Any) -> None:
        points = [
            {"policy": policy, "setting": setting, "contamination": share, "alert_rate": 0.004, "precision": 0.61,
             "recall": 0.58, "value": 0.83, "judged": 0.6 - 0.04 * abs(math.log2(weight)) - (0.1 if share == 0.001 else 0)}
            for share in (None, 0.001, 0.005, 0.01, 0.02)
            for policy, setting, weight in (
                [("f_beta", {"beta": 0.25 * 16 ** (i / 19)}, 0.25 * 16 ** (i / 19)) for i in range(20)]
                + [("precision_at_least", {"precision": p / 10}, p / 4) for p in range(1, 10)]
                + [("best_f1", {}, 1.01)]
                + [("cost", {"cost_false_positive": 5.0, "cost_false_negative": c}, c / 60) for c in (50.0, 100.0, 200.0)]
            )
        ]  # fmt: skip
        best = max(range(len(points)), key=lambda i: points[i]["judged"])
        grid = {"points": points, "judge": "F1", "note": "", "best": best, "seconds": 0.04}
        pairs = [
            {"forest": 1 + 2 * i, "autoencoder": 2 + 2 * i, "weight": 0.4, "objective": 0.613 - 0.01 * i}
            for i in range(6)
        ]
        chosen = {**pairs[0], "settings": {"autoencoder.lr": 0.0021, "forest.n_estimators": 200}}
        found = {
            "pairs": pairs, "winner": chosen, "baseline": {"objective": 0.541, "what": "the configuration given"},
            "grid": grid, **changes,
        }  # fmt: skip
        (self.journal.path / "winner.json").write_text(json.dumps(found))


def full(root: Path) -> Sweep:
    """40 trials of both detectors on four workers; the driver was killed in the middle and went on an hour later."""
    sweep = Sweep(root)
    free = [CREATED + 14 + 0.3 * i for i in range(4)]
    for number in range(1, 41):
        slot = free.index(min(free))
        worker = f"10.0.0.1/{4100 + slot + (7 if number > 20 else 0)}"
        if number == 17:
            sweep.fail(number, free[slot], "out of memory: 2,310 MiB of 2,048; lower autoencoder.batch_size")
            free[slot] += 2
        elif number == 20:
            sweep.event("started", free[slot], number=20, detector="forest", params=dict(AGAIN))
            sweep.event("rung", free[slot] + 2, number=20, step=50, objective=0.31, epochs=[], worker=worker)
            free = [max(free) + 3600 + i for i in range(4)]
            sweep.event("opened", min(free) - 5)
            free[slot] = sweep.forest(20, free[slot], worker, **AGAIN)
        elif number % 2:
            free[slot] = sweep.forest(number, free[slot], worker) + 0.2
        else:
            epochs = 27 if number in (2, 12, 24, 36) else random.Random(number).choice([1, 3, 9])
            free[slot] = sweep.autoencoder(number, free[slot], epochs, worker) + 0.2
    sweep.event("closed", max(free))
    sweep.winner()
    return sweep
