"""Real processes, really killed: a sweep loses no trial and repeats none that has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.tuning.small import SETTINGS, SPACE, Workspace
from tuning.record.journal import Journal

pytestmark = [pytest.mark.ray, pytest.mark.drill]

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 900  # for a loaded machine; nothing here asserts a time
# Networks of many small steps, so that there is time to kill them; little work before and after the trials.
SLOW = SPACE.replace("batch_size: 256", "batch_size: 8").replace("epochs: 4", "epochs: 24").replace("[5, 10]", "[10]")
EPOCHS = 24


class Driver:
    """The command in a process of its own, and everything that descends from it."""

    def __init__(self, workspace: Workspace, argv: list[str]) -> None:
        self.workspace, self._log = workspace, workspace.folder / "log.txt"
        settings = workspace.settings
        environment = {**os.environ, "FRAUD_ROOT": str(workspace.folder), "FRAUD_STATE": str(settings.state)}
        environment["MLFLOW_TRACKING_URI"] = settings.tracking_uri
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuning.sweep", *argv], cwd=ROOT, env=environment, stderr=log,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        self._children: dict[int, psutil.Process] = {}

    @property
    def log(self) -> str:
        return self._log.read_text()

    def family(self) -> list[psutil.Process]:
        """Kept, as orphans can no longer be found from the driver."""
        if self.process.poll() is None:
            self._children |= {c.pid: c for c in psutil.Process(self.process.pid).children(recursive=True)}
        return list(self._children.values())

    def wait_for(self, what: str, is_true: Callable[[], object]) -> None:
        end, look = time.monotonic() + PATIENCE_SECONDS, 0.0
        while not is_true():
            assert self.process.poll() is None, f"the driver ended while waiting for {what}: {self.log}"
            assert time.monotonic() < end, f"no {what}: {self.log}"
            if time.monotonic() > look:  # it reads every process of the machine
                self.family()
                look = time.monotonic() + 1.0
            time.sleep(0.05)
        self.family()

    def finish(self) -> tuple[int, str]:
        """Exit code and what it printed."""
        text, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, text

    def left(self) -> list[psutil.Process]:
        """What is still alive of its family some seconds after its end."""
        return psutil.wait_procs(list(self._children.values()), timeout=30)[1]


@contextmanager
def driver(workspace: Workspace, argv: list[str]) -> Iterator[Driver]:
    """Run the command; what it started is gone afterwards."""
    started = Driver(workspace, argv)
    try:
        yield started
    finally:
        started.family()
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()
        for child in started.left():
            child.kill()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.make(tmp_path, n=6000)
    (made.folder / "slow.yaml").write_text(SLOW)
    (made.folder / "config.yaml").write_text(json.dumps({**SETTINGS, "head": {"use": "never"}}))
    return made


def journal_of(workspace: Workspace) -> Journal | None:
    journals = workspace.journals()
    return journals[0] if journals else None


def numbers(workspace: Workspace, event: str) -> list[int]:
    """Of the trials that such an event tells of, in order, repeated ones repeatedly."""
    journal = journal_of(workspace)
    return [line["number"] for line in journal.events() if line["event"] == event] if journal else []


def check_complete(workspace: Workspace, trials: int) -> None:
    """All trials have ended, each once; report and configuration are there."""
    assert sorted(numbers(workspace, "ended")) == list(range(1, trials + 1))
    journal = journal_of(workspace)
    assert journal is not None
    assert all(trial.status in ("finished", "stopped") for trial in journal.trials().values())
    assert {path.name for path in (workspace.folder / "sweep").iterdir()} == {"sweep_report.html", "best.yaml", "plots"}
    assert not (journal.path / "tune").exists()


def test_a_killed_driver_loses_nothing(workspace: Workspace):
    command = workspace.command("--trials", "6", "--scheduler", "none", space="slow.yaml")
    with driver(workspace, command) as first:
        first.wait_for("half of the trials", lambda: len(numbers(workspace, "ended")) >= 3)
        first.process.kill()
        first.process.wait()
    before = numbers(workspace, "ended")
    assert 3 <= len(before) < 6, "the driver was killed too late for this test to say anything"
    unfinished = sorted(set(numbers(workspace, "started")) - set(before))
    assert not (workspace.folder / "sweep" / "best.yaml").exists()

    journal = journal_of(workspace)
    assert journal is not None
    with (journal.path / "trials.jsonl").open("a") as file:
        file.write('{"event": "ru')  # a kill may come in the middle of a line
    started = len(numbers(workspace, "started"))
    with driver(workspace, ["--resume", journal.sweep_id]) as second:
        code, text = second.finish()
        assert code == 0, second.log
    assert "won with average precision" in text
    check_complete(workspace, 6)
    assert numbers(workspace, "ended")[: len(before)] == before
    again = numbers(workspace, "started")[started:]
    assert not set(again) & set(before), "what had ended is not run again"
    assert set(unfinished) <= set(again[:2]), "what the kill cut off comes first, two at once"

    runs = runs_of(workspace)
    assert len(runs) == 6 + 1 and set(runs.values()) == {"FINISHED"}


def runs_of(workspace: Workspace) -> dict[str, str]:
    """Status of every run by its name; a name twice is an error."""
    from mlflow import MlflowClient

    settings = workspace.settings
    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name(settings.experiment).experiment_id])
    statuses = {run.info.run_name: run.info.status for run in runs}
    assert len(statuses) == len(runs), f"a trial has two runs: {[run.info.run_name for run in runs]}"
    return statuses


def test_a_killed_trial_resumes_and_ctrl_c_leaves_a_resumable_sweep(workspace: Workspace):
    command = workspace.command("--trials", "4", "--scheduler", "none", "--no-mlflow", space="slow.yaml")
    with driver(workspace, command) as first:
        first.wait_for("a rung of trial 4, the slow one", lambda: 4 in numbers(workspace, "rung"))
        journal = journal_of(workspace)
        assert journal is not None
        worker = int(journal.trials()[4].worker.rsplit("/", 1)[1])
        assert worker in {child.pid for child in first.family()}
        os.kill(worker, signal.SIGKILL)
        reported = len(journal.trials()[4].rungs)
        first.wait_for("a rung after the kill", lambda: len(journal.trials()[4].rungs) > reported)
        assert not journal.trials()[4].worker.endswith(f"/{worker}")
        assert "the process of trial 4 died; it resumes from its checkpoint" in first.log
        first.family()
        first.process.send_signal(signal.SIGINT)
        code, _ = first.finish()
        assert code == 130, first.log
        assert f"interrupted; resume with: python -m tuning.sweep --resume {journal.sweep_id}" in first.log
        assert first.left() == [], "no process of ours stays behind"
    assert sorted(numbers(workspace, "ended")) == [1, 2, 3], "interrupted too late for this test to say anything"
    assert journal.events()[-1]["status"] == "KILLED"
    before = {line.get("worker") for line in journal.events()}

    with driver(workspace, ["--resume", journal.sweep_id]) as second:
        code, _ = second.finish()
        assert code == 0, second.log
    check_complete(workspace, 4)
    assert journal.trials()[4].result["epochs"] == EPOCHS
    epochs = [
        epoch["epoch"] for line in journal.events() if line.get("number") == 4 for epoch in line.get("epochs", [])
    ]
    assert epochs == list(range(1, EPOCHS + 1)), "twice killed, and every epoch is told once"
    resumed = [line for line in journal.events() if line["event"] == "rung" and line["number"] == 4][-1]
    assert resumed["worker"] not in before, "the third process ended it"
