"""What MLflow holds of a sweep: whole, once, whatever went away or was killed in between. A real MLflow."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy import processes
from deploy.local import services
from fraud.registry import runs
from fraud.settings import Settings
from tests.tuning.sweeps import REQUEST, detector_of, events_of, new_journal, status_of
from tuning import tracking
from tuning.record import run_content
from tuning.record.journal import Journal
from tuning.tracking import SweepTracker

ROOT = Path(__file__).parents[2]


class Server:
    """`mlflow server` as the local stack starts it, which can be stopped and started again."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.port = processes.free_port(5600)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(services.BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.state}/mlflow.db"]
        command += ["--artifacts-destination", str(self.state / "mlartifacts")]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with (self.state / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.state, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while services.ask(f"{self.uri}/health")[0] != 200:
            assert self.process.poll() is None and time.monotonic() < deadline, (self.state / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """End it as a crash does, its workers too."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(tracking, "_PAUSE_S", 0.2)
    return settings


@pytest.fixture
def journal(isolated_state: Path) -> Journal:
    return new_journal(isolated_state)


def started(settings: Settings, journal: Journal) -> SweepTracker:
    tracker = SweepTracker(settings, journal)
    tracker.start()
    return tracker


def killed(tracker: SweepTracker) -> None:
    """The end of a driver's thread without any of the work of an end."""
    with tracker._condition:
        tracker._must_stop = True
        tracker._condition.notify_all()
    tracker._thread.join(60)


def append(journal: Journal, tracker: SweepTracker, events: list[dict[str, Any]]) -> None:
    for event in events:
        journal.append(event)
        tracker.wake()


def client(settings: Settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def runs_of(settings: Settings) -> tuple[list[Any], dict[str, list[Any]]]:
    """All parents, and all children by the number of their trial."""
    experiment = client(settings).get_experiment_by_name(settings.experiment)
    parents, children = [], collections.defaultdict(list)
    for run in client(settings).search_runs([experiment.experiment_id], max_results=1000):
        if "trial" in run.data.tags:
            children[run.data.tags["trial"]].append(run)
        else:
            parents.append(run)
    return parents, dict(children)


def wait_for_children(settings: Settings, count: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if client(settings).get_experiment_by_name(settings.experiment) and len(runs_of(settings)[1]) >= count:
            return
        time.sleep(0.2)
    raise AssertionError("the children do not appear")


def check_complete(settings: Settings, numbers: range, parent_status: str = "FINISHED") -> None:
    """Everything of these trials is in MLflow, and nothing of it twice."""
    parents, children = runs_of(settings)
    assert [parent.info.status for parent in parents] == [parent_status]
    assert sorted(map(int, children)) == list(numbers) and {len(runs) for runs in children.values()} == {1}
    expected = run_content.SweepContent()
    for number in numbers:
        expected.add(events_of(number, status_of(number)))
    for number in numbers:
        (run,) = children[str(number)]
        end = status_of(number)
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert run.info.run_name == f"{detector_of(number)} {number}"
        assert run.info.status == ("FAILED" if end == "failed" else "FINISHED") and run.data.tags["outcome"] == end
        assert run.data.params["features.scaling"] == "robust" and len(run.data.params) == 2
        assert (run.info.start_time, run.info.end_time) == tuple(
            int(1000 * (REQUEST["created"] + 100 * number + seconds)) for seconds in (0, 50)
        )
        points = expected.points(number)
        assert set(run.data.metrics) == {point.key for point in points}
        for key in run.data.metrics:
            history = client(settings).get_metric_history(run.info.run_id, key)
            assert sorted((m.step, m.timestamp, m.value) for m in history) == sorted(
                (p.step, p.time_ms, p.value) for p in points if p.key == key
            )


def test_a_sweep_of_40_trials(settings: Settings, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    for name in ("log", "finish", "reopen"):
        original = getattr(runs.Run, name)
        monkeypatch.setattr(
            runs.Run, name, lambda run, *a, _o=original, _n=name, **k: (calls.append(_n), _o(run, *a, **k))[1]
        )
    (tmp_path / "plots").mkdir()
    (tmp_path / "sweep_report.html").write_text("<p>report")
    (tmp_path / "plots" / "best_so_far.png").write_bytes(b"png")
    tracker = started(settings, journal)
    for number in range(1, 41):
        append(journal, tracker, events_of(number, status_of(number)))
    (journal.path / "winner.json").write_text(
        json.dumps({"winner": {"objective": 0.6}, "baseline": None, "pairs": [], "grid": None})
    )
    tracker.log_folder(tmp_path)
    assert tracker.finish("FINISHED")
    check_complete(settings, range(1, 41))
    (parent,), children = runs_of(settings)
    assert parent.info.run_name == "sweep cards" and parent.data.tags["sweep"] == "cards-1"
    result, *_ = parent.data.tags["mlflow.note.content"].splitlines()
    assert result.endswith("0.600** on validation, by the configuration chosen.")
    assert parent.data.params["config.forest.n_estimators"] == "100" and "space" not in parent.data.params
    assert parent.data.metrics["best_autoencoder_objective"] == 0.4 and parent.data.metrics["winner_objective"] == 0.6
    best = client(settings).get_metric_history(parent.info.run_id, "best_forest_objective")
    assert [point.value for point in best] == sorted(point.value for point in best) and len(best) > 10
    artifacts = {file.path for file in client(settings).list_artifacts(parent.info.run_id)}
    assert artifacts == {"plots", "sweep_report.html", "space.yaml"}
    assert children["5"][0].data.tags["end"] == "the scheduler stopped it at epoch 9"
    assert children["7"][0].data.tags["end"] == "NaN loss" and children["7"][0].info.status == "FAILED"
    assert calls.count("finish") == 41 and calls.count("reopen") == 0 and calls.count("log") < 100


@pytest.mark.slow
def test_a_server_that_goes_away_and_a_driver_that_is_killed(
    server: Server, settings: Settings, journal: Journal, caplog: pytest.LogCaptureFixture
):
    settings = replace(settings, tracking_uri=server.uri)
    tracker = started(settings, journal)
    for number in (*range(1, 10), 11):
        append(journal, tracker, events_of(number, status_of(number)))
    append(journal, tracker, events_of(10)[:3])
    wait_for_children(settings, 8)
    server.kill()
    for number in range(12, 21):  # the sweep goes on
        append(journal, tracker, events_of(number, status_of(number)))
        time.sleep(0.3)
    assert caplog.text.count("the sweep continues") == 1
    server.start()
    wait_for_children(settings, 20)
    killed(tracker)
    assert caplog.text.count("MLflow answers again") == 1 and caplog.text.count("the sweep continues") == 1

    server.kill()  # away when the next driver starts
    tracker = started(settings, journal)
    # What had not ended goes on, and repeats a rung that the killed driver had written down, at another time.
    begin, _, repeated, *rest = events_of(10, status_of(10))
    later = {"time": REQUEST["created"] + 9999}
    epochs = [epoch | later for epoch in repeated["epochs"]]
    append(journal, tracker, [begin | later, repeated | later | {"epochs": epochs, "objective": 0.3}, *rest])
    for number in range(21, 41):
        append(journal, tracker, events_of(number, status_of(number)))
    time.sleep(1)
    server.start()
    assert tracker.finish("FINISHED")
    check_complete(settings, range(1, 41))


def test_runs_that_nobody_noted_are_taken_over(settings: Settings, journal: Journal):
    tracker = started(settings, journal)
    append(journal, tracker, events_of(1))
    append(journal, tracker, events_of(2)[:2])
    wait_for_children(settings, 2)
    killed(tracker)
    note = journal.path / tracking.PROGRESS
    note.write_text(note.read_text()[:-9])  # cut short, like a driver's that was killed before it wrote
    tracker = started(settings, journal)
    append(journal, tracker, [events_of(2)[0], *events_of(2)[2:]])
    assert tracker.finish("FINISHED")
    check_complete(settings, range(1, 3))


def test_a_run_made_twice_is_deleted(settings: Settings, journal: Journal):
    tracker = started(settings, journal)
    append(journal, tracker, events_of(1))
    wait_for_children(settings, 1)
    # As if the server had made the run, and its answer had been lost.
    (parent,), _ = runs_of(settings)
    tags = run_content.identity("cards-1", REQUEST) | {"trial": "1"}
    runs.start_run(settings, "forest 1", tags, parent=runs.Run(settings, parent.info.run_id))
    stranger = runs.start_run(settings, "somebody else's", {"sweep": "cards-1", "sweep_created": "other"})
    assert tracker.finish("FINISHED")
    stranger.delete()  # it was left alone, or this would fail
    check_complete(settings, range(1, 2))


def test_an_interrupted_sweep_goes_on_in_the_same_runs(settings: Settings, journal: Journal):
    tracker = started(settings, journal)
    append(journal, tracker, [*events_of(1), *events_of(2)[:2]])
    assert tracker.finish("KILLED")
    (parent,), children = runs_of(settings)
    assert parent.info.status == "KILLED" and children["2"][0].info.status == "KILLED"
    assert children["2"][0].data.tags["outcome"] == "interrupted"
    tracker = started(settings, journal)
    append(journal, tracker, [events_of(2)[0]])
    deadline = time.monotonic() + 300
    while runs_of(settings)[1]["2"][0].info.status != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    append(journal, tracker, events_of(2)[2:])
    assert tracker.finish("FINISHED")
    check_complete(settings, range(1, 3))


def test_one_refused_trial_holds_up_no_other(settings: Settings, journal: Journal, caplog: pytest.LogCaptureFixture):
    tracker = started(settings, journal)
    append(journal, tracker, [*events_of(1)[:2], *events_of(2)[:2]])
    wait_for_children(settings, 2)
    client(settings).delete_run(runs_of(settings)[1]["1"][0].info.run_id)  # by somebody, in MLflow's own pages
    append(journal, tracker, [*events_of(1)[2:], *events_of(2)[2:], *events_of(3)])
    assert not tracker.finish("FINISHED")
    assert "trial 1 was refused" in caplog.text and "--sweep cards-1" in caplog.text
    parents, children = runs_of(settings)
    assert parents[0].info.status == "FINISHED"
    assert {number: of_trial[0].info.status for number, of_trial in children.items()} == {
        "2": "FINISHED",
        "3": "FINISHED",
    }


def test_without_mlflow_the_rest_can_be_copied_later(
    settings: Settings,
    journal: Journal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    (tmp_path / "best.yaml").write_text("seed: 7\n")
    tracker = started(replace(settings, tracking_uri="http://127.0.0.1:9"), journal)
    for number in range(1, 4):
        append(journal, tracker, events_of(number))
    tracker.log_folder(tmp_path)
    assert not tracker.finish("FINISHED", patience_s=1.0)
    assert f"python -m tuning.tracking --sweep cards-1 --outdir {tmp_path}" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri)
    monkeypatch.setenv("FRAUD_EXPERIMENT", settings.experiment)
    for _ in range(2):  # the second time there is nothing to do
        assert tracking.main(["--sweep", "cards-1", "--outdir", str(tmp_path)]) == 0
        check_complete(settings, range(1, 4))
    (parent,), _ = runs_of(settings)
    assert "best.yaml" in {file.path for file in client(settings).list_artifacts(parent.info.run_id)}


def test_another_store_gets_everything(settings: Settings, journal: Journal, caplog: pytest.LogCaptureFixture):
    tracker = started(settings, journal)
    append(journal, tracker, [*events_of(1), *events_of(2)[:2]])
    assert tracker.finish("KILLED")
    for run in [*runs_of(settings)[0], *(of_trial[0] for of_trial in runs_of(settings)[1].values())]:
        client(settings).delete_run(run.info.run_id)
    tracker = started(settings, journal)
    append(journal, tracker, [events_of(2)[0], *events_of(2)[2:]])
    assert tracker.finish("FINISHED")
    assert "copying everything again" in caplog.text
    check_complete(settings, range(1, 3))


@pytest.mark.slow
def test_a_driver_killed_while_it_copies(settings: Settings, journal: Journal):
    for number in range(1, 101):
        for event in events_of(number, status_of(number)):
            journal.append(event)
    code = (
        "import pathlib, sys, time; from fraud.settings import Settings; from tuning.record.journal import Journal; "
        "from tuning.tracking import SweepTracker; "
        "SweepTracker(Settings.from_environment(), Journal(pathlib.Path(sys.argv[1]))).start(); time.sleep(120)"
    )
    runs.find_runs(settings, {"sweep": "none"})  # makes the tables, which two processes must not do at once
    environment = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "FRAUD_EXPERIMENT": settings.experiment}
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(journal.path)], cwd=ROOT, env={**os.environ, **environment}
    )
    try:
        wait_for_children(settings, 12)
    finally:
        driver.kill()  # SIGKILL, in the middle of the 100
        driver.wait()
    assert len(runs_of(settings)[1]) < 100
    assert started(settings, journal).finish("FINISHED")
    check_complete(settings, range(1, 101))
