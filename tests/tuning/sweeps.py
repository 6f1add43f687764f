"""A sweep's journal without the sweep, for what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuning.record.journal import Journal

BEGAN = 1_700_000_000.0
REQUEST = {
    "id": "cards-1",
    "created": BEGAN,
    "data": "data/cards.csv",
    "fingerprint": "ab" * 32,
    "schema": "cards",
    "config": {"seed": 7, "forest": {"n_estimators": 100, "max_features": 1.0}, "autoencoder": {"hidden": [16, 8]}},
    "space": "forest:\n  max_samples: {choice: [64, 256]}\n",
    "trials": 40,
    "detector": "both",
    "seed": 7,
    "objectives": ["average_precision"],
    "objective_name": "average_precision",
    "time_budget_s": None,
}


def new_journal(root: Path, sweep_id: str = "cards-1") -> Journal:
    """An empty journal with an order."""
    folder = root / "sweeps" / sweep_id
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.write_request({**REQUEST, "id": sweep_id})
    return journal


def detector_of(number: int) -> str:
    """Detectors take turns."""
    return "forest" if number % 2 else "autoencoder"


def events_of(number: int, status: str = "finished", rungs: int = 3) -> list[dict[str, Any]]:
    """A whole trial: started, its rungs (of three epochs, or 25 trees), ended. All its times differ."""
    detector, at = detector_of(number), BEGAN + 100 * number
    params: dict[str, Any] = {"features.scaling": "robust"}
    params |= {"forest.max_samples": 64} if detector == "forest" else {"autoencoder.lr": 0.001 * number}
    events: list[dict[str, Any]] = [
        {"event": "started", "number": number, "detector": detector, "params": params, "time": at, "worker": "n/1"}
    ]
    for rung in range(1, rungs + 1):
        epochs = [
            {
                "epoch": epoch,
                "train_error": 1 / epoch,
                "validation_error": 2 / epoch,
                "seconds": 1.0,
                "time": at + epoch,
            }
            for epoch in range(3 * rung - 2, 3 * rung + 1)
        ]
        is_forest = detector == "forest"
        events.append(
            {
                "event": "rung",
                "number": number,
                "step": 25 * rung if is_forest else 3 * rung,
                "time": at + 3 * rung,
                "objective": None if rung == 1 else 0.1 * rung,
                "epochs": [] if is_forest else epochs,
                "worker": "n/1",
            }
        )
    result = {
        "objective": number / 100,
        "scoring_cost": 1000.0 + number,
        "seconds": 12.5,
        "fits": 1,
        "epochs": 9 if detector == "autoencoder" else None,
        "trees": 75 if detector == "forest" else None,
        "candidates": [
            {
                "settings": {"forest.n_estimators": 75} if is_forest else {"autoencoder.epochs": 9},
                "objective": number / 100,
                "by_fold": [number / 100],
                "scoring_cost": 1000.0 + number,
            }
        ],
        "best": 0,
        "thresholds": {
            "combinations": 60,
            "seconds": 0.01,
            "best": {"policy": "f_beta", "settings": {}, "judged": 0.5},
        },
        "combinations": 180,
        "memory_mib": 250.0,
    }
    reasons = {"finished": "all epochs", "stopped": "the scheduler stopped it at epoch 9", "failed": "NaN loss"}
    events.append(
        {
            "event": "ended",
            "number": number,
            "status": status,
            "reason": reasons[status],
            "time": at + 50,
            "result": None if status == "failed" else result,
            "worker": "n/1",
        }
    )
    return events


def status_of(number: int) -> str:
    """How the trials of these tests end: every fifth is stopped, every seventh fails."""
    return "failed" if number % 7 == 0 else "stopped" if number % 5 == 0 else "finished"
