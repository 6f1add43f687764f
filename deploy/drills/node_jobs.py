"""Kill one of two nodes during a job. The results must equal those of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from deploy.drills.cluster import host_processes, wait_until
from deploy.drills.hosts import DrillError, Host
from deploy.drills.ray_nodes import Nodes

DAY, GROUP, FILES = "2026-01-31", 60_000, 32  # GROUP: rows per file, one unit of work
IN_ONE_PROCESS = 100_000_000  # --rows-on-ray


def score(nodes: Nodes) -> dict[str, Any]:
    """Score a day on both nodes and kill the worker node halfway. Raises DrillError if the output is incomplete."""
    nodes.restart_worker()
    _write_rows(nodes)
    _end(nodes, _scored(nodes, "undisturbed", IN_ONE_PROCESS), "undisturbed")
    result: dict[str, Any] = {"rows": FILES * GROUP}
    out = nodes.folder / "killed"
    began = time.monotonic()
    driver = _scored(nodes, "killed", 0)
    _until(nodes, driver, "killed", lambda: _scorers(nodes.worker) and _staged(out) >= FILES // 4)
    result["actors"] = [len(_scorers(host)) for host in nodes.hosts.hosts]
    nodes.kill(nodes.worker)
    at, result["parts_at_kill"] = time.monotonic(), _staged(out)
    if not result["parts_at_kill"] < FILES:
        raise DrillError("the scoring ended before the kill")
    _end(nodes, driver, "killed")
    result["seconds"] = round(time.monotonic() - began, 1)
    result["after_kill_s"] = round(time.monotonic() - at, 1)
    manifest = json.loads((out / f"date={DAY}" / "_manifest.json").read_text())
    result["rows_scored"] = manifest["rows"]["scored"]
    result["is_equal"] = _content(out) == _content(nodes.folder / "undisturbed")
    if not result["is_equal"] or result["rows_scored"] != result["rows"]:
        raise DrillError(f"the day differs from that of an undisturbed run: {result}")
    return result


SPACE = """
forest:
  n_estimators: {choice: [25, 50]}
  max_samples: {choice: [64, 128, 256]}
autoencoder:
  hidden: {choice: [[8, 4], [6, 3]]}
  lr: {log: [1e-3, 1e-2]}
  batch_size: 8
  epochs: 24
"""
SETTINGS = {
    "forest": {"n_estimators": 30},
    "autoencoder": {"hidden": [6, 3], "epochs": 24, "batch_size": 8, "patience": 99},
    "head": {"use": "never"},
}
TRIALS = 4


def sweep(nodes: Nodes) -> dict[str, Any]:
    """Run a sweep with one trial per node at a time and kill the worker node during a trial. Raises DrillError."""
    from fraud.data.simulation import transactions

    nodes.restart_worker()
    transactions(6000, seed=5, fraud_rate=0.03).to_csv(nodes.folder / "sweep.csv", index=False)
    (nodes.folder / "config.yaml").write_text(json.dumps(SETTINGS))
    (nodes.folder / "space.yaml").write_text(SPACE)
    began = time.monotonic()
    driver = nodes.run_driver(
        "python", "-m", "tuning.sweep", "--data", "sweep.csv", "--config", "config.yaml", "--space", "space.yaml",
        "--outdir", "sweep", "--trials", str(TRIALS), "--scheduler", "none", "--no-mlflow", "--cpus-per-trial", "2",
        log=nodes.hosts.folder / "sweep.log",
    )  # fmt: skip

    def events_of(kind: str) -> list[dict[str, Any]]:
        files = nodes.folder.glob("var/sweeps/*/trials.jsonl")
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in events if line["event"] == kind]

    def under_way(host: Host) -> set[int]:
        ended = {line["number"] for line in events_of("ended")}
        rungs = [line for line in events_of("rung") if str(line.get("worker", "")).startswith(f"{host.name}/")]
        return {line["number"] for line in rungs} - ended

    _until(nodes, driver, "sweep", lambda: under_way(nodes.worker))
    running = under_way(nodes.worker)
    result: dict[str, Any] = {
        "trials": TRIALS,
        "ended_at_kill": len(events_of("ended")),
        "killed_trials": sorted(running),
    }
    nodes.kill(nodes.worker)
    at = time.monotonic()
    _end(nodes, driver, "sweep")
    result["after_kill_s"] = round(time.monotonic() - at, 1)
    result["seconds"] = round(time.monotonic() - began, 1)
    ended = events_of("ended")
    result["ended"] = sorted(line["number"] for line in ended)
    result["failed"] = [line["number"] for line in ended if line.get("status") not in ("finished", "stopped")]
    result["best_is_there"] = (nodes.folder / "sweep" / "best.yaml").exists()
    if result["ended"] != list(range(1, TRIALS + 1)) or result["failed"] or not result["best_is_there"]:
        raise DrillError(f"the sweep is incomplete: {result}; {_log_tail(nodes, 'sweep')}")
    return result


def _write_rows(nodes: Nodes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fraud.data.simulation import transactions

    rows = nodes.folder / "rows"
    rows.mkdir()
    save_bundle(nodes.folder / "bundle")
    table = pa.Table.from_pandas(transactions(GROUP, seed=2), preserve_index=False)
    for i in range(FILES):
        pq.write_table(table, rows / f"{i:02}.parquet")


def save_bundle(folder: Path) -> None:
    """Save a small model of the default schema."""
    from fraud.data import simulation
    from fraud.schema import Schema, validate
    from fraud.scoring import bundle
    from fraud.training import fitting
    from fraud.training.config import TrainConfig, from_mapping

    if folder.exists():
        return
    schema = Schema.load("transactions")
    config = from_mapping(
        TrainConfig, {"forest": {"n_estimators": 200}, "autoencoder": {"epochs": 1}, "head": {"use": "never"}}
    )
    rows = validate(simulation.transactions(3000, seed=1), schema).rows
    bundle.save(folder, fitting.fit_locally(rows, schema, config)[0])


def _scored(nodes: Nodes, name: str, rows_on_ray: int) -> subprocess.Popen[bytes]:
    return nodes.run_driver(
        "python", "-m", "ray_jobs.score", "--data", "rows", "--out", name, "--date", DAY, "--model", "bundle",
        "--no-reasons", "--rows-on-ray", str(rows_on_ray), log=nodes.hosts.folder / f"{name}.log",
    )  # fmt: skip


def _staged(out: Path) -> int:
    return len(list(out.glob("_staging/*/part/*/part-*.parquet")))


def _content(out: Path) -> dict[str, str]:
    parts = sorted((out / f"date={DAY}").glob("part-*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}


def _scorers(host: Host) -> list[psutil.Process]:
    return [process for process in host_processes(host) if "MapBatches(Scorer)" in _title(process)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _until(nodes: Nodes, driver: subprocess.Popen[bytes], name: str, is_true: Any) -> None:
    """Poll `is_true`. Raises DrillError with the end of the driver's log if the driver ends first."""

    def is_there() -> bool:
        if is_true():
            return True
        if driver.poll() is not None:
            raise DrillError(f"the driver ended too early: {_log_tail(nodes, name)}")
        return False

    wait_until(is_there, f"progress of {name}", pause_s=0.05)


def _end(nodes: Nodes, driver: subprocess.Popen[bytes], name: str) -> None:
    wait_until(lambda: driver.poll() is not None, f"end of {name}")
    if driver.returncode:
        raise DrillError(f"{name} ended with {driver.returncode}: {_log_tail(nodes, name)}")


def _log_tail(nodes: Nodes, name: str) -> str:
    return (nodes.hosts.folder / f"{name}.log").read_text(errors="replace")[-3000:]
