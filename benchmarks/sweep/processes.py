"""Run one command as a user would, in a process of its own, and see what it and its children take."""

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
# Settings of the caller's that would lead a measured command to another Ray, MLflow or folder.
_FOREIGN = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "FRAUD_ROOT", "FRAUD_STATE", "FRAUD_EXPERIMENT")


@dataclass(frozen=True)
class Run:
    """A command that ended.

    seconds: from its start, at `began` (since 1970), to its end. peak_mib: most memory of it and all its children at
    one time, shared pages counted once (proportional set size); None when it was not watched. output: its stdout.
    """

    began: float
    seconds: float
    peak_mib: float | None
    output: str


def run(command: Sequence[str], log: Path, environment: Mapping[str, str], *, watch: bool = False) -> Run:
    """Run `python -m ...` from the repository's root; its stderr goes to `log`.

    watch: sample its memory, which takes a share of a CPU: not in a timed round. Raises DataError with the end of the
    log for an exit status other than 0. Nothing it started outlives it.
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
    """End what is left: of the command when we are interrupted, of its children always, given time to end alone."""
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
