"""Submit a training to a drill cluster, follow it epoch by epoch, and read its outcome."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.drills.cluster import Cluster, wait_until
from deploy.drills.hosts import DrillError, Host

EPOCHS = 40
# Small, because the drill tests the cluster; without early stopping, which could come before the kill.
SMALL = ("head.use=never", "forest.n_estimators=20", f"autoencoder.epochs={EPOCHS}", f"autoencoder.patience={EPOCHS}")
OUTDIR, DATA = "artifacts", "data/transactions.csv"


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """The outcome of a training. seconds: duration of the job; epochs: trained epochs, including repeated ones.

    nodes: ids of the nodes that took part; failures: number of worker failures that the training recorded;
    recovery_s: seconds from the kill to the next epoch, if a node was killed.
    """

    seconds: float
    epochs: int
    nodes: list[str]
    failures: int = 0
    killed_after_epoch: int | None = None
    recovery_s: float | None = None


def write_data(cluster: Cluster, rows: int = 20_000) -> None:
    """Write transactions to the nodes' shared folder."""
    from fraud.data.simulation import transactions

    folder = cluster.hosts.shared / "fraud" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    transactions(rows, seed=1).to_csv(cluster.hosts.shared / "fraud" / DATA, index=False)


def train(cluster: Cluster, *, workers: int = 2, kill: Host | None = None, more: Sequence[str] = ()) -> TrainingOutcome:
    """Train with `ray job submit`. kill: host whose raylet gets SIGKILL after the second epoch.

    Raises DrillError if the job fails or ends before the kill.
    """
    name, began = f"train-{time.time_ns()}", time.monotonic()
    settings = [word for setting in SMALL for word in ("--set", setting)]
    order = ["--data", DATA, "--schema", "transactions", "--outdir", OUTDIR, "--workers", str(workers), "--no-register"]
    cluster.submit("python", "-m", "ray_jobs.train", *order, *settings, *more, name=name, wait=False)
    watched = _RunningTraining(cluster, name)
    killed_after = recovery_s = None
    if kill is not None:
        watched.until(lambda: len(watched.epochs) >= 2, "second epoch")
        killed_after, at = len(watched.epochs), time.monotonic()
        cluster.raylet(kill).kill()
        watched.until(lambda: watched.failures and "epoch" in watched.lines[-1], "epoch after the kill")
        recovery_s = round(time.monotonic() - at, 1)
    watched.until(lambda: False, "end")
    seconds = time.monotonic() - began
    if watched.status != "SUCCEEDED":
        raise DrillError(f"the training ended as {watched.status}: {cluster.ray('job', 'logs', name)[-2000:]}")
    if (kill is not None and recovery_s is None) or (killed_after is not None and killed_after >= EPOCHS):
        raise DrillError("the training ended before the kill")
    outcome = json.loads((cluster.hosts.shared / "fraud" / OUTDIR / "metrics.json").read_text())
    return TrainingOutcome(
        seconds=round(seconds, 1), epochs=len(watched.epochs), nodes=outcome["nodes"], failures=len(watched.failures),
        killed_after_epoch=killed_after, recovery_s=recovery_s,
    )  # fmt: skip


class _RunningTraining:
    """A running training. lines: its records of epochs and failures, which outlive its folder."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name, self._asked = cluster, name, 0.0
        self.lines: list[dict[str, object]] = []
        self.status = "PENDING"

    @property
    def epochs(self) -> list[dict[str, object]]:
        return [line for line in self.lines if "epoch" in line]

    @property
    def failures(self) -> list[dict[str, object]]:
        return [line for line in self.lines if "failure" in line]

    def until(self, is_true: Callable[[], object], what: str) -> None:
        """Wait until `is_true` or the end of the job."""

        def is_done() -> bool:
            lines = _progress(self._cluster)
            if len(lines) > len(self.lines):
                self.lines = lines
            if time.monotonic() - self._asked > 2.0:
                self.status, self._asked = self._cluster.job(self._name), time.monotonic()
            return bool(is_true()) or self.status in ("SUCCEEDED", "FAILED", "STOPPED")

        wait_until(is_done, what)


def _progress(cluster: Cluster) -> list[dict[str, object]]:
    """The running training's records, from its Ray Train folder."""
    files = (cluster.hosts.shared / "fraud" / "var" / "training").glob("training-*/attempt-*/epochs.jsonl")
    return [json.loads(line) for file in sorted(files) for line in _whole_lines(file)]


def _whole_lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:  # the training is complete
        return []
    return text[: text.rfind("\n") + 1].splitlines()
