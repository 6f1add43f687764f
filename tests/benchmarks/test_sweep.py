"""The sweep benchmark: what it reads in a journal, what it leaves running, and the tables that it writes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.detection.protocols import DATA_SETS
from benchmarks.pages import replace_section
from benchmarks.sweep import peers, processes, quality, speed, sweeps, table
from benchmarks.sweep.processes import Run
from fraud.data.simulation import transactions
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.training import fitting, folds
from fraud.training.config import TrainConfig, from_mapping
from tuning.search.fits import ForestFit, NetworkFit
from tuning.search.shared import Task
from tuning.space import reader


def ended(number: int, time: float, objective: float | None, **result: Any) -> dict[str, Any]:
    status = "finished" if objective is not None else "failed"
    values = {"objective": objective, "fits": 1, "epochs": None, "trees": None, "combinations": 10, **result}
    return {
        "event": "ended", "number": number, "time": time, "status": result.get("status", status),
        "worker": "host/1", "result": None if objective is None else values,
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
    sweep = sweeps.read(folder, Run(0.0, 45.0, None, ""))
    assert sweep.summary() == {
        "trials": 4, "stopped": 1, "failed": 1, "epochs": 18, "trees": 350, "combinations": 30, "best_forest": 0.4,
        "best_autoencoder": 0.5, "winner": 0.6, "given": 0.45, "settings": {"forest.max_samples": 256},
        "wall_s": 45.0, "search_s": 30.0,
    }  # fmt: skip
    (folder / "state/sweeps/second").mkdir()
    (folder / "state/sweeps/second/trials.jsonl").touch()
    with pytest.raises(DataError, match="2 sweeps"):
        sweeps.read(folder, Run(0.0, 45.0, None, ""))


def test_a_sweep_starts_from_the_split_alone() -> None:
    for name in DATA_SETS:
        config = from_mapping(TrainConfig, json.loads(json.dumps(sweeps.split_only(name))))
        assert config == dataclasses.replace(TrainConfig(), split=TrainConfig.load(name).split)


def test_the_fast_space_is_a_space() -> None:
    space = reader.read(sweeps.FAST, "fast", TrainConfig())
    assert space.forest_sizes == (25, 50) and space.epochs == 4


def test_a_fit_is_that_of_a_training() -> None:
    schema = Schema.load("transactions")
    rows = validate(transactions(4000, seed=3, fraud_rate=0.04), schema).rows
    small = {"forest": {"n_estimators": 25}, "autoencoder": {"hidden": [4], "epochs": 2, "score": "mse"}}
    config = from_mapping(TrainConfig, {**small, "head": {"use": "never"}})
    precisions = quality.precisions(quality.fit(fitting.prepare(rows, schema, config), config))
    _, expected = fitting.fit_locally(rows, schema, config)
    assert precisions == {
        score: expected.metrics["joined" if score == "label_light" else score]["average_precision"]
        for score in quality.SCORES
    }


@pytest.mark.slow
def test_the_peers_make_the_same_fits() -> None:
    """Their trials are those of a sweep: alternately forests and networks, judged on the validation window."""
    schema = Schema.load("transactions")
    rows = validate(transactions(4000, seed=3, fraud_rate=0.04), schema).rows
    settings = speed.fixed_config("ulb", fast=True)
    config = from_mapping(TrainConfig, json.loads(json.dumps(settings)))
    (window,) = folds.prepare(rows, schema, config)
    matrices = folds.matrices(window, config)
    for search in peers.PEERS.values():
        records = search(matrices, config, 5, 2)
        assert sorted(trial["detector"] for trial in records) == ["autoencoder"] * 2 + ["forest"] * 3
        assert all(0 < trial["objective"] <= 1 and trial["seconds"] > 0 for trial in records)
        assert os.getpid() not in {trial["worker"] for trial in records}
    task = Task(matrices, matrices.x_validation, matrices.labels)
    for detector, fit in (
        ("forest", ForestFit([task], config, [config.forest.n_estimators])),
        ("autoencoder", NetworkFit([task], config, [config.autoencoder.epochs], [{}])),
    ):
        (candidate,) = fit.advance(600.0) or []
        assert peers.fit_and_judge(0, detector, matrices, config)[1] == pytest.approx(candidate.objective, abs=1e-9)


def test_a_sweep_can_search_what_the_peers_search() -> None:
    """And nothing else: every trial does the same work."""
    settings = speed.fixed_config("handbook")
    config = from_mapping(TrainConfig, json.loads(json.dumps(settings)))
    assert config.autoencoder.patience == config.autoencoder.epochs and config.head.use == "never"
    space = reader.read(speed.fixed_space(settings), "fixed", config)
    for detector, searched in peers.SEARCHED.items():
        sampled = {p.name: (p.low, p.high, p.log) for p in space.parameters_of(detector)}
        assert sampled == {f"{detector}.{name}": limits for name, limits in searched.items()}
        lowest = space.configure(config, {name: low for name, (low, _, _) in sampled.items()})
        assert peers.with_settings(config, detector, {name: low for name, (low, _, _) in searched.items()}) == lowest
    assert len(space.thresholds) > 60 and len(space.score_kinds) == len(space.forest_sizes) == 1


def test_a_worker_s_first_trial_is_not_warm() -> None:
    trials = [
        {"detector": detector, "objective": 0.5, "seconds": seconds, "worker": worker, "ended": ended}
        for detector, seconds, worker, ended in [
            ("forest", 9.0, 1, 112.0), ("autoencoder", 8.0, 2, 113.0), ("forest", 3.0, 1, 116.0),
            ("autoencoder", 1.0, 2, 115.0),
        ]
    ]  # fmt: skip
    result = speed.summary(Run(100.0, 20.0, None, ""), {"opened": 103.0, "trials": trials})
    assert (result["before_s"], result["search_s"], result["after_s"]) == (3.0, 13.0, 4.0)
    assert (result["trial_s"], result["work_s"], result["workers"]) == (3.0, 2.0, 2)


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
    markdown = table.quality({"ulb": {"title": "ULB", "figures": {"sweep": figures}, "sweep": summary}})
    assert "| ULB | the sweep's best.yaml | 0.200 ± 0.100 |" in markdown
    assert "| ULB | 40 | 20 | 2 min 10 s | 0.500 | 0.600 |" in markdown
    run = {"epochs": 100, "trees": 1000, "wall_s": 50.0, "best_autoencoder": 0.5, "best_forest": 0.4, "winner": 0.6}
    saved = {**run, "epochs": 60, "best_autoencoder": 0.49}
    asha = table.asha({"ulb": {"title": "ULB", "trials": 40, "seeds": [0], "asha": [saved], "none": [run]}})
    assert "| 40% saved | 0% saved | 0% saved | -0.010 | +0.000 | +0.000 |" in asha


def test_the_table_of_speed_compares_with_optuna_alone() -> None:
    times = {"before_s": 3.0, "search_s": 20.0, "after_s": 1.0, "work_s": 1.5}
    runs = {
        variant: [{"wall_s": wall + change, "trial_s": wall / 20, **times} for change in (-5, 0, 9)]
        for variant, wall in (("optuna", 40.0), ("ours", 60.0))
    }
    data = {
        "title": "ULB", "trials": 40, "at_once": 2, "rows": 9000, "runs": runs,
        "peak_mib": {"optuna": 900, "ours": 1200},
        "fits": {"forest": {"n_estimators": 300}, "autoencoder": {"epochs": 12}},
    }  # fmt: skip
    markdown = table.speed({"ulb": data})
    assert (
        "| a sweep, MLflow off | 60.0 s | 1.50 | 3.0 s | 20.0 s | 1.0 s | 3.00 s | 1.50 | 1.50 s | 1,200 MiB |"
        in markdown
    )


def test_the_page_says_what_the_last_run_measured() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.BEGIN in page
    if not table.RESULTS.exists():
        pytest.skip(f"{table.RESULTS.name} is not measured yet")
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert replace_section(page, table.markdown(results), table.BEGIN) == page, "run python -m benchmarks.sweep --table"
