"""Run each stage as a user does, on a Ray of one CPU and of two, at two sizes, for fixed and per-row cost."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.sweep.processes import ROOT
from deploy.processes import free_port
from fraud.errors import DataError

START_SECONDS = 60.0
Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command at two sizes.

    command: module and arguments; `{rows}` is the input file, `{out}` the output folder. rows: the two sizes. kind: of
    ray_jobs.generate. is_parallel: uses Ray's CPUs; other stages run in one process.
    """

    name: str
    command: tuple[str, ...]
    rows: tuple[int, int]
    kind: str = "transactions"
    is_parallel: bool = True
    workers_flag: str = ""


# No early stopping, so that the cost per row is the same at both sizes.
_FIT = ("--set", "autoencoder.epochs=10", "--set", "autoencoder.patience=10", "--set", "head.use=never")
STAGES = (
    Stage("score", ("ray_jobs.score", "--input", "{rows}", "--output", "{out}", "--model", "{model}", "--rows-on-ray",
          "0", "--date", "2026-01-31", "--force"), (2_000_000, 10_000_000)),
    Stage("history features", ("ray_jobs.features", "--data", "{rows}", "--schema", "handbook", "--out", "{out}",
          "--history-partitions", "4"), (200_000, 1_000_000), "cards"),
    Stage("train, 10 epochs", ("ray_jobs.train", "--data", "{rows}", "--outdir", "{out}", "--no-register", *_FIT),
          (50_000, 400_000), workers_flag="--workers"),
    Stage("sweep, a trial", ("tuning.sweep", "--data", "{rows}", "--detector", "forest", "--trials", "{trials}",
          "--no-mlflow", "--outdir", "{out}"), (4, 24)),
    Stage("evaluate", ("ray_jobs.evaluate", "--data", "{rows}", "--model", "{model}", "--out", "{out}/page.html",
          "--no-mlflow", "--include-training-rows"), (100_000, 500_000), is_parallel=False),
    Stage("drift report", ("monitoring.drift", "--ref", "{reference}", "--cur", "{rows}", "--schema", "transactions",
          "--out", "{out}/page.html"), (200_000, 1_000_000), is_parallel=False),
)  # fmt: skip
SWEEP_ROWS = 20_000


@dataclasses.dataclass(frozen=True)
class Run:
    """A measured run. rows: or trials of a sweep. driver_cpu_s: CPU seconds of the driver, without Ray's workers."""

    rows: int
    cpus: int
    seconds: float
    driver_cpu_s: float


@contextmanager
def ray_with(cpus: int, folder: Path) -> Iterator[dict[str, str]]:
    """Start Ray pinned to `cpus` CPUs; yields the environment with which a job joins it."""
    port = free_port(6379)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    command = ["ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port)]
    command += ["--num-cpus", str(cpus), "--include-dashboard", "false", "--temp-dir", str(folder)]
    affinity = sorted(os.sched_getaffinity(0))[:cpus]
    if len(affinity) < cpus:
        raise DataError(f"{len(affinity)} CPUs are available, {cpus} are needed: use a machine with more")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, affinity)  # inherited by Ray and the jobs
    try:
        with (folder / "ray.log").open("wb") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("ray")), *command[1:]], env=environment, stdout=log, stderr=log
            )
        try:
            end = time.monotonic() + START_SECONDS
            while b"Ray runtime started" not in (folder / "ray.log").read_bytes():
                if process.poll() is not None or time.monotonic() > end:
                    raise DataError(f"Ray did not start: {(folder / 'ray.log').read_text()[-1000:]}")
                time.sleep(0.2)
            yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            process.terminate()
            process.wait(START_SECONDS)
    finally:
        os.sched_setaffinity(0, before)


def run(stage: Stage, rows: int, cpus: int, folder: Path, environment: dict[str, str]) -> Run:
    """Run a stage on `rows` rows. Raises DataError with the end of its log if it fails."""
    is_sweep = "{trials}" in stage.command
    names = {
        "rows": rows_file(folder, SWEEP_ROWS if is_sweep else rows, stage.kind), "trials": str(rows),
        "model": str(folder / "bundle"), "reference": rows_file(folder, 100_000, "transactions"),
        "out": str(folder / f"out-{time.time_ns()}"),
    }  # fmt: skip
    command = [word.format(**names) for word in stage.command]
    if stage.workers_flag:
        command += [stage.workers_flag, str(cpus)]
    log = folder / "job.log"
    with log.open("wb") as written:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=written, stderr=written,
            env={**environment, "FRAUD_STATE": str(folder / "state"), "FRAUD_ROOT": str(folder)},
        )  # fmt: skip
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DataError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Run(rows, cpus, seconds, used.ru_utime + used.ru_stime)


def rows_file(folder: Path, rows: int, kind: str) -> str:
    """Path of a Parquet file with `rows` rows; generates it if missing."""
    from ray_jobs.generate import generate

    path = folder / f"{kind}_{rows}.parquet"
    if not path.exists():
        generate(str(path), rows, kind=kind)
    return str(path)


def measure(stages: Sequence[Stage], cpus: Sequence[int], folder: Path, rounds: int, log: Log) -> dict[str, list[Run]]:
    """Run every stage at both sizes with each CPU count, `rounds` times; keeps the fastest run."""
    results: dict[str, list[Run]] = {stage.name: [] for stage in stages}
    for stage in stages:
        for rows in stage.rows:
            rows_file(folder, SWEEP_ROWS if "{trials}" in stage.command else rows, stage.kind)
    for count in cpus:
        temporary = folder / f"r{count}"
        temporary.mkdir()
        with ray_with(count, temporary) as environment:
            for stage in stages:
                if not stage.is_parallel and count != cpus[0]:
                    continue
                for rows in stage.rows:
                    runs = [run(stage, rows, count, folder, environment) for _ in range(rounds)]
                    best = min(runs, key=lambda one: one.seconds)
                    results[stage.name].append(best)
                    log(f"{stage.name}, {count} CPU, {rows:,}: {best.seconds:.1f} s, driver {best.driver_cpu_s:.1f} s")
    return results
