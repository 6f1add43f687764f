"""The serving benchmark: that it measures a real server, refuses a wrong one, and what its tables say."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.pages import replace_section
from benchmarks.serving import __main__ as command
from benchmarks.serving import environments, measure, protocols, servers, table
from benchmarks.serving.processes import MARK, Processes, cpu_between
from benchmarks.serving.workload import BATCH_ROWS, Workload, prepare
from fraud.errors import DataError
from fraud.settings import Settings

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose cache is the module's own."""
    return replace(Settings.from_environment(), state=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def workload(settings: Settings) -> Workload:
    """A small model and what to send it."""
    return prepare(settings, training_rows=2000)


def running() -> set[psutil.Process]:
    """The processes that this one has started; Python's own, such as a resource tracker, stay."""
    return {process for process in psutil.Process().children() if process.status() != psutil.STATUS_ZOMBIE}


@needs_wrk
@pytest.mark.slow
def test_a_real_server_is_started_measured_and_stopped(workload: Workload, settings: Settings) -> None:
    before, server = running(), servers.SERVERS["fastapi"]
    result = measure.one_round(server, PROGRAMS, workload, settings, measure.PARTS, seconds=4)
    assert list(result["cases"]) == [
        "single 1", "single 16", "single 64", "json 1", "json 16", "arrow 1", "arrow 16",
    ]  # fmt: skip
    for case in result["cases"].values():
        assert case["failed"] == 0 and case["statuses"] == {"200": case["requests"]}
        assert 0 < case["p50_ms"] <= case["p99_ms"] <= case["p999_ms"] and case["cpu_us"] > 0
    batch = result["cases"]["json 1"]
    assert batch["rate"] == pytest.approx(BATCH_ROWS * batch["requests"] / batch["seconds"])
    assert 20 < result["memory"]["pss_mib"] <= result["memory"]["rss_mib"]
    assert running() <= before
    json.dumps(result, allow_nan=False)


@needs_wrk
@pytest.mark.slow
def test_a_server_with_other_scores_is_refused(workload: Workload, settings: Settings) -> None:
    altered = replace(workload, scores=workload.scores + 0.01)
    with pytest.raises(DataError, match=r"scores differ from the engine's by up to 0\.01"):
        measure.one_round(servers.SERVERS["fastapi"], PROGRAMS, altered, settings, ["single"], seconds=1)


@pytest.mark.slow
def test_a_server_that_ends_is_told_and_the_others_are_measured(
    workload: Workload, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = servers.Server("broken", servers._Uvicorn("absent"), protocols.PLAIN, "fastapi")
    monkeypatch.setattr(servers, "SERVERS", {"broken": broken})
    messages: list[str] = []
    results = measure.run(["broken"], workload, settings, parts=["single"], rounds=3, seconds=1, log=messages.append)
    assert len(messages) == 2 and "absent" in messages[1]
    assert results["broken"]["rounds"] == [] and "the server ended with" in results["broken"]["error"]


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_says_why(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing.txt").write_text("./there-is-no-such-folder\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    with pytest.raises(DataError, match="there-is-no-such-folder"):
        environments.folder_of_programs(settings, "nothing")
    assert environments.folder_of_programs(settings, None) == PROGRAMS


def test_every_peer_pins_what_it_needs() -> None:
    for server in servers.SERVERS.values():
        if server.peer:
            lines = (environments.REQUIREMENTS / f"{server.peer}.txt").read_text().splitlines()
            entries = [line for line in lines if not line.startswith("#")]
            assert any(line.startswith(f"{server.package}==") for line in entries)
            assert all("==" in line for line in entries)


def test_processes_that_left_the_tree_are_found_and_stopped(tmp_path: Path) -> None:
    burn = "import os, time\nif os.fork():\n    os._exit(0)\nos.setsid()\nwhile True: pass"
    processes = Processes(tmp_path / "log")
    processes.start([sys.executable, "-c", burn], {"PATH": "/usr/bin"}, tmp_path)
    processes.started[0].wait(20)
    before = processes.cpu_seconds()
    (left,) = before
    assert left.environ()[MARK] == processes.mark and left.ppid() != psutil.Process().pid
    while cpu_between(before, processes.cpu_seconds()) == 0:
        time.sleep(0.05)
    assert processes.memory().processes == 1
    with pytest.raises(DataError, match="ended with 0"):
        processes.check()
    processes.stop()
    assert not processes.all() and not left.is_running()


@pytest.mark.parametrize("name", list(protocols.OURS))
def test_bodies_hold_every_transaction(workload: Workload, name: str) -> None:
    import pyarrow as pa

    rows = workload.batches[0] if name != "single" else workload.singles[:1]
    body = protocols.OURS[name].encode(rows)
    if name == "arrow":
        sent = pa.ipc.open_stream(body).read_all().to_pylist()
    else:
        sent = [json.loads(line) for line in body.splitlines()]
        sent = sent[0] if name == "json" else sent
    assert list(sent) == rows


def test_what_is_sent_is_not_what_was_trained_on_and_holds_frauds(workload: Workload) -> None:
    import pandas as pd

    trained = pd.read_parquet(workload.rows)[workload.columns]
    sent = pd.DataFrame(workload.transactions)
    assert len(sent.merge(trained)) < 0.01 * len(sent)
    assert len(workload.batches) == 4 and all(len(rows) == BATCH_ROWS for rows in workload.batches)
    assert workload.scores[workload.is_fraud].mean() > 0.3 + workload.scores[~workload.is_fraud].mean()


def made_up(rates: dict[str, list[float]], failed: int = 0) -> dict[str, Any]:
    """Results with these rates, a list of rounds for each server; a server without any has an error."""

    def case(rate: float) -> dict[str, Any]:
        return {
            "rate": rate, "cpu_us": 5.0, "requests": 1000, "seconds": 2.0, "p50_ms": 100 / rate, "p99_ms": 200 / rate,
            "p999_ms": 300 / rate, "failed": failed, "statuses": {"200": 1000 - failed, "503": failed},
            "socket_errors": {"read": 0},
        }  # fmt: skip

    cases = ("single 1", "single 16", "single 64", "json 1", "json 16", "arrow 1")
    results: dict[str, Any] = {}
    for name, values in rates.items():
        rounds = [
            {"cases": {each: case(rate) for each in cases}, "idle_cpu": 0.01, "memory": {"pss_mib": 300.0}}
            for rate in values
        ]
        results[name] = {"title": servers.SERVERS[name].title, "version": "1.0", "rounds": rounds}
        if not rounds:
            results[name]["error"] = "not installed: no such package"
    return results


def test_ratios_are_taken_within_a_round() -> None:
    results = made_up({"ours": [100, 900, 400], "seed": [10, 30, 100]})
    assert table.figure(results, "ours", "single 16", "rate") == 400
    rates = [(name, "single 16", "rate") for name in ("ours", "seed")]
    assert table.ratio(results, rates[0], rates[1]) == 10  # of 10, 30 and 4; the medians' would be 13
    ratios = {what: measured for what, measured, _ in table.targets(results)}
    assert ratios["single at 16, by the seed style"] == 10
    assert ratios["the seed style's p50 at 1, by our p99 at 1"] == 5
    assert ratios["single at 16, by MLServer"] is None


def test_the_tables_tell_what_failed_and_what_was_not_measured() -> None:
    run = {"rounds": 1, "seconds": 2, "minutes": 1.0, "cpus": 2, "python": "3.11"}
    text = table.markdown({"run": run, "servers": made_up({"ours": [100], "seed": [10], "bentoml": []}, failed=2)})
    assert "| single at 16, by the seed style | 10 | ≥ 20 | **no** |" in text
    assert "- BentoML: not installed: no such package" in text
    assert "ours, 2 replicas **(failed requests)**" in text
    assert "- ours, 2 replicas, single 16: 2 of 1,000 requests failed (2 × 503)" in text
    assert "failed" not in table.markdown({"run": run, "servers": made_up({"ours": [100], "seed": [10]})})


def test_the_page_says_what_the_last_run_measured() -> None:
    if not table.RESULTS.exists():
        pytest.skip("not measured yet: python -m benchmarks.serving")
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    page = table.PAGE.read_text(encoding="utf-8")
    assert replace_section(page, table.markdown(results), table.BEGIN) == page, (
        "run python -m benchmarks.serving --table"
    )
    assert list(results["servers"]) == servers.USUAL and results["run"]["rounds"] >= command.ROUNDS
    for one in results["servers"].values():
        assert "error" in one or len(one["rounds"]) == results["run"]["rounds"]


def test_a_round_that_failed_keeps_its_place() -> None:
    results = made_up({"ours": [100, 900, 400], "seed": [10, 30, 100]})
    results["seed"]["rounds"][1] = {"error": "no score after 180 s", "cases": {}}
    rates = [(name, "single 16", "rate") for name in ("ours", "seed")]
    assert table.ratio(results, rates[0], rates[1]) == 7  # of 10 and 4
    assert "- FastAPI, scikit-learn, torch, a round: no score after 180 s" in table._notes(results)
    assert "| FastAPI, scikit-learn, torch | 55 |" in table._singles(results)


def test_figures_of_a_case_that_nothing_answered_are_missing_not_zero() -> None:
    results = made_up({"ours": [100], "seed": [10]})
    results["seed"]["rounds"][0]["cases"]["json 1"] |= {"p50_ms": None, "cpu_us": None}
    assert table.figure(results, "seed", "json 1", "p50_ms") is None
    assert np.isfinite(table.figure(results, "seed", "json 1", "rate") or np.nan)
    assert "nan" not in table._batches(results)
