"""Real processes, really killed: a dead worker and a dead driver cost a training one epoch each at most."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fraud.data import simulation, tables
from fraud.detectors import forest
from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping

pytestmark = [pytest.mark.ray, pytest.mark.drill]

EPOCHS = 40
ROOT = Path(__file__).parents[3]
SETTINGS = {
    "forest": {"n_estimators": 10},
    "autoencoder": {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8},
    "head": {"use": "never"},  # fitted after the last epoch, and nothing here looks at it
}
PATIENCE_SECONDS = 900  # for a loaded machine; nothing here asserts a time


@contextmanager
def driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command; what it started is gone afterwards."""
    command = [sys.executable, "-m", "ray_jobs.train", "--data", "data.csv", "--outdir", "artifacts"]
    command += ["--config", "config.yaml"]
    environment = {**os.environ, "FRAUD_ROOT": str(folder)}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=subprocess.PIPE, text=True)
    children: dict[int, psutil.Process] = {}
    try:
        process.family = lambda: remember(process, children)  # type: ignore[attr-defined]
        yield process
    finally:
        remember(process, children)
        if process.poll() is None:
            process.kill()
        process.wait()
        _, left = psutil.wait_procs(list(children.values()), timeout=30)
        for child in left:
            child.kill()


def remember(process: subprocess.Popen[str], children: dict[int, psutil.Process]) -> list[psutil.Process]:
    """Everything that descends from the driver; kept, as orphans can no longer be found from it."""
    if process.poll() is None:
        children |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
    return list(children.values())


def wait_for(what: str, is_true: Callable[[], object], process: subprocess.Popen[str], folder: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert process.poll() is None, f"the driver ended while waiting for {what}: {(folder / 'log.txt').read_text()}"
        assert time.monotonic() < end, f"no {what}: {(folder / 'log.txt').read_text()}"
        time.sleep(0.02)


def reported(state: Path) -> list[int]:
    """Epochs reported so far, in order, repeated ones repeatedly."""
    lines = [
        json.loads(line)
        for file in sorted(state.glob("training/training-*/attempt-*/epochs.jsonl"))
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [line["epoch"] for line in lines if "epoch" in line]


def lose_last_report(state: Path) -> None:
    """As if the driver had been killed after the last epoch's checkpoint and before its report."""
    file = max(state.glob("training/training-*/attempt-*/epochs.jsonl"))
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    file.write_text("".join(lines[:-1]))


def runs(settings: Settings) -> list[tuple[str, str]]:
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    return [(run.info.run_id, run.info.status) for run in client.search_runs([experiment.experiment_id])]


def test_killed_worker_then_killed_driver_lose_an_epoch_each_at_most(tmp_path: Path, isolated_state: Path):
    schema, settings = Schema.load("transactions"), Settings.from_environment()
    tables.write_csv(simulation.transactions(4000, seed=5, fraud_rate=0.03), str(tmp_path / "data.csv"))
    tables.write_text(json.dumps(SETTINGS), str(tmp_path / "config.yaml"))

    with driver(tmp_path) as process:
        wait_for("two epochs", lambda: len(reported(isolated_state)) >= 2, process, tmp_path)
        workers = [p for p in process.family() if any("RayTrainWorker" in part for part in p.cmdline())]  # type: ignore[attr-defined]
        assert len(workers) == 1
        workers[0].kill()
        before = reported(isolated_state)[-1]
        wait_for(
            "epochs after the worker's death", lambda: reported(isolated_state)[-1] >= before + 3, process, tmp_path
        )
        process.family()  # type: ignore[attr-defined]
        process.kill()
        process.wait()
    first = reported(isolated_state)
    assert first[-1] < EPOCHS, "the driver was killed too late for this test to say anything"
    assert len(first) - len(set(first)) <= 1, "a killed worker costs one epoch at most"
    assert "worker 0 failed, resuming from the last checkpoint" in (tmp_path / "log.txt").read_text()
    lose_last_report(isolated_state)
    ((run_id, status),) = runs(settings)
    assert status == "RUNNING" and not (tmp_path / "artifacts" / "bundle").exists()

    with driver(tmp_path) as process:
        text, _ = process.communicate(timeout=PATIENCE_SECONDS)
        log = (tmp_path / "log.txt").read_text()
        assert process.returncode == 0, log
    resumed = int(re.findall(r"resuming training-\w+ from epoch (\d+)", log)[0])
    second = [int(number) for number in re.findall(r"epoch (\d+)/", log)]
    assert second == list(range(resumed + 1, EPOCHS + 1))
    assert second[0] >= first[-1], "a killed driver costs one epoch at most"
    assert "version 1 as champion" in text

    assert runs(settings) == [(run_id, "FINISHED")]
    content = json.loads((tmp_path / "artifacts" / "metrics.json").read_text())
    bundle.load(tmp_path / "artifacts" / "bundle", expected_sha256=content["bundle_sha256"])
    steps = logged_epochs(settings, run_id)
    assert sorted(set(steps)) == list(range(1, EPOCHS + 1)) and len(steps) <= EPOCHS + 2
    assert not list(isolated_state.glob("training/training-*/"))

    errors = [epoch["validation_error"] for epoch in content["epochs"]]
    assert errors == pytest.approx(undisturbed(tmp_path / "data.csv", schema), rel=1e-4)


def logged_epochs(settings: Settings, run_id: str) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    return [metric.step for metric in client.get_metric_history(run_id, "autoencoder_validation_error")]


def undisturbed(path: Path, schema: Schema) -> list[float]:
    """Validation errors of the same training when nobody kills it."""
    config = from_mapping(TrainConfig, SETTINGS)
    prepared = fitting.prepare(tables.load(str(path), schema).rows, schema, config)
    x_fit = fitting.trim(prepared, forest.fit(prepared.x_fit, config.forest, config.seed), config)
    _, epochs = fitting.fit_autoencoder(x_fit, prepared.x_validation, config)
    return [epoch.validation_error for epoch in epochs]
