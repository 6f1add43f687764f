"""Run one command in its own process and measure the time and memory of it and its children."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from fraud.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
SECONDS_A_LOOK = 0.5
_MIB = 2.0**20
# Variables of the caller that would point a measured command to another Ray, MLflow or folder.
_FOREIGN = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "FRAUD_ROOT", "FRAUD_STATE", "FRAUD_EXPERIMENT")


@dataclass(frozen=True)
class Run:
    """A finished command.

    began: start, seconds since 1970. seconds: duration. peak_mib: peak memory of it and its children (proportional set
    size), None if not watched. output: its stdout.
    """

    began: float
    seconds: float
    peak_mib: float | None
    output: str


def run(command: Sequence[str], log: Path, environment: Mapping[str, str], *, watch: bool = False) -> Run:
    """Run `python -m command` from the repository's root, with stderr to `log`; its children end with it.

    watch: sample its memory; this uses CPU, so not in a timed round. Raises DataError with the end of the log if the
    exit status is not 0.
    """
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    seen: set[psutil.Process] = set()
    peak = 0.0
    with log.open("wb") as errors, log.with_suffix(".out").open("w+b") as output:
        started, began = time.time(), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=own, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        try:
            while True:
                try:
                    code = process.wait(SECONDS_A_LOOK)
                    break
                except subprocess.TimeoutExpired:
                    seen |= _tree(process.pid)
                    if watch:
                        peak = max(peak, sum(map(_pss, seen)) / _MIB)
            seconds = time.perf_counter() - began
        finally:
            _end(process, seen)
        output.seek(0)
        text = output.read().decode()
    if code:
        raise DataError(f"{' '.join(command)} ended with {code}: {log.read_text()[-2000:]}")
    return Run(started, seconds, peak if watch else None, text)


def _tree(pid: int) -> set[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _end(process: subprocess.Popen[bytes], seen: set[psutil.Process]) -> None:
    """End the command if it still runs, then its remaining children, after a grace period."""
    if process.poll() is None:
        seen |= _tree(process.pid)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _, alive = psutil.wait_procs([child for child in seen if child.pid != process.pid and child.is_running()], 5)
    for child in alive:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, 2)
