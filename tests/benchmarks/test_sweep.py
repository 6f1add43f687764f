"""The sweep benchmark: what it reads in a journal, what it leaves running, and the tables that it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.detection.protocols import DATA_SETS
from benchmarks.detection.table import replaced
from benchmarks.sweep import processes, quality, sweeps, table
from benchmarks.sweep.processes import Ran
from fraud import fitting
from fraud.config import TrainConfig, from_mapping
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.simulate import transactions
from fraud.validation import validate
from tuning.space import Space


def ended(number: int, time: float, objective: float | None, **result: Any) -> dict[str, Any]:
    status = "finished" if objective is not None else "failed"
    told = {"objective": objective, "fits": 1, "epochs": None, "trees": None, "combinations": 10, **result}
    return {
        "event": "ended", "number": number, "time": time, "status": result.get("status", status),
        "worker": "host/1", "result": None if objective is None else told,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a sweep of four trials leaves: two forests, one of them stopped, a network, and one that failed."""
    journal = tmp_path / "state/sweeps/made-up"
    journal.mkdir(parents=True)
    detectors = ["forest", "autoencoder", "forest", "autoencoder"]
    events: list[dict[str, Any]] = [{"event": "opened", "time": 100.0}]
    events += [
        {"event": "started", "number": number, "detector": detector, "params": {}, "time": 100.0}
        for number, detector in enumerate(detectors, 1)
    ]
    events += [
        ended(1, 110.0, 0.4, trees=300), ended(2, 130.0, 0.5, epochs=9, fits=2),
        ended(3, 112.0, 0.3, trees=50, status="stopped"), ended(4, 120.0, None), {"event": "closed", "time": 140.0},
    ]  # fmt: skip
    (journal / "trials.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    winner = {"winner": {"objective": 0.6, "settings": {"forest.max_samples": 256}}, "baseline": {"objective": 0.45}}
    (journal / "winner.json").write_text(json.dumps(winner))
    return tmp_path


def test_a_journal_is_summed_up(folder: Path) -> None:
    found = sweeps.read(folder, Ran(45.0, None, ""))
    assert found.summary() == {
        "trials": 4, "stopped": 1, "failed": 1, "epochs": 18, "trees": 350, "combinations": 30, "best_forest": 0.4,
        "best_autoencoder": 0.5, "winner": 0.6, "given": 0.45, "settings": {"forest.max_samples": 256},
        "wall_s": 45.0, "search_s": 30.0,
    }  # fmt: skip
    (folder / "state/sweeps/second").mkdir()
    (folder / "state/sweeps/second/trials.jsonl").touch()
    with pytest.raises(DataError, match="2 sweeps"):
        sweeps.read(folder, Ran(45.0, None, ""))


def test_a_sweep_starts_from_the_split_alone() -> None:
    for name in DATA_SETS:
        config = from_mapping(TrainConfig, json.loads(json.dumps(sweeps.split_only(name))))
        assert config == dataclasses.replace(TrainConfig(), split=TrainConfig.load(name).split)


def test_the_fast_space_is_a_space() -> None:
    space = Space.read(sweeps.FAST, "fast", TrainConfig())
    assert space.forest_sizes == (25, 50) and space.epochs == 4


def test_a_fit_is_that_of_a_training() -> None:
    schema = Schema.load("transactions")
    rows = validate(transactions(4000, seed=3, fraud_rate=0.04), schema).rows
    small = {"forest": {"n_estimators": 25}, "autoencoder": {"hidden": [4], "epochs": 2, "score": "mse"}}
    config = from_mapping(TrainConfig, {**small, "head": {"use": "never"}})
    found = quality.precisions(quality.fit(fitting.prepare(rows, schema, config), config))
    _, expected = fitting.fit_locally(rows, schema, config)
    assert found == {
        score: expected.metrics["joined" if score == "label_light" else score]["average_precision"]
        for score in quality.SCORES
    }


def test_a_command_is_measured_and_leaves_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; x = bytearray(80 << 20); time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(2)\n"
    )
    (tmp_path / "orphaning.py").write_text(program)
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    ran = processes.run(["orphaning"], tmp_path / "log", {}, watch=True)
    assert ran.seconds > 1.9 and ran.peak_mib is not None and ran.peak_mib > 80
    child = int(ran.output)
    # Where nobody takes care of orphans, a dead one stays listed.
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    (tmp_path / "failing.py").write_text("import sys; sys.exit('no such luck')")
    with pytest.raises(DataError, match="failing ended with 1: no such luck"):
        processes.run(["failing"], tmp_path / "log", {})


def test_the_tables_say_what_was_measured() -> None:
    summary = {"trials": 40, "stopped": 20, "wall_s": 130.0, "given": 0.5, "winner": 0.6}
    figures = {score: [0.1, 0.3] for score in quality.SCORES}
    found = table.quality({"ulb": {"title": "ULB", "figures": {"sweep": figures}, "sweep": summary}})
    assert "| ULB | the sweep's best.yaml | 0.200 ± 0.100 |" in found
    assert "| ULB | 40 | 20 | 2 min 10 s | 0.500 | 0.600 |" in found
    run = {"epochs": 100, "trees": 1000, "wall_s": 50.0, "best_autoencoder": 0.5, "best_forest": 0.4, "winner": 0.6}
    saved = {**run, "epochs": 60, "best_autoencoder": 0.49}
    told = table.asha({"ulb": {"title": "ULB", "trials": 40, "seeds": [0], "asha": [saved], "none": [run]}})
    assert "| 40% saved | 0% saved | 0% saved | -0.010 | +0.000 | +0.000 |" in told


def test_the_page_says_what_the_last_run_measured() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.BEGIN in page
    if not table.RESULTS.exists():
        pytest.skip(f"{table.RESULTS.name} is not measured yet")
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert replaced(page, table.full(results), table.BEGIN) == page, "run python -m benchmarks.sweep --table"
