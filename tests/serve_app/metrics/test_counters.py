"""Metrics: what is counted comes out as Prometheus reads it, over all replicas, the dead ones included."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_app.metrics.counters import MOST_SERIES, Metrics
from serve_app.metrics.files import MetricsFolder, Totals

LAST = ("is_fraud", "sha256", "le")  # of a metric's labels; the page has them by their alphabet
ROOT = Path(__file__).resolve().parents[3]


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, label values...): value} of the page, read back by Prometheus' own parser."""
    text = metrics.render()[0].decode()
    all_samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    labels = [sorted(sample.labels.items(), key=lambda label: label[0] in LAST) for sample in all_samples]
    return {(s.name, *(value for _, value in pairs)): s.value for s, pairs in zip(all_samples, labels, strict=True)}


def test_everything_counted_is_on_the_page():
    metrics = Metrics()
    for seconds in (0.0001, 0.0005, 0.003, 7.0):
        metrics.observe_request("/score", 200, seconds)
    metrics.observe_request("/../etc/passwd", 404, 0.001)
    metrics.observe_decision(0.97, True, "3")
    metrics.observe_decision(0.2, False, "3")
    metrics.count_error("out_of_range")
    metrics.count_fallback("review")
    metrics.count_model_failure()
    metrics.count_shadow("shed")
    metrics.count_decisions("written", 40)
    metrics.set_queue(12)
    metrics.set_queue(3, "shadow")
    metrics.in_progress += 2
    metrics.set_model("3", "abc", 1000.5)
    values = samples(metrics)
    assert values["fraud_requests_total", "/score", "200"] == 4
    assert values["fraud_requests_total", "other", "404"] == 1
    buckets = {key[2]: value for key, value in values.items() if key[:2] == ("fraud_request_seconds_bucket", "/score")}
    assert (buckets["0.00025"], buckets["0.0005"], buckets["0.005"], buckets["1.0"], buckets["+Inf"]) == (1, 2, 3, 3, 4)
    assert values["fraud_request_seconds_sum", "/score"] == pytest.approx(7.0036)
    assert values["fraud_request_seconds_count", "/score"] == 4
    assert values["fraud_score_bucket", "3", "0.2"] == 1 and values["fraud_score_bucket", "3", "0.99"] == 2
    assert values["fraud_decisions_total", "3", "true"] == values["fraud_decisions_total", "3", "false"] == 1
    assert values["fraud_errors_total", "out_of_range"] == 1
    assert values["fraud_fallbacks_total", "review"] == 1 and values["fraud_fallbacks_total", "decline"] == 0
    assert values["fraud_model_load_failures_total",] == 1
    assert values["fraud_shadow_total", "shed"] == 1 and values["fraud_shadow_total", "late"] == 0
    assert values["fraud_decision_records_total", "written"] == 40
    assert values["fraud_queue_depth", "decisions"] == 12 and values["fraud_queue_depth", "shadow"] == 3
    assert values["fraud_model_info", "3", "abc"] == 1
    assert values["fraud_model_loaded_timestamp_seconds", "3"] == 1000.5
    assert values["fraud_replicas",] == 1 and values["fraud_requests_in_progress",] == 2


def test_a_swap_replaces_the_model_and_what_it_counted_stays():
    metrics = Metrics()
    metrics.set_model("3", "abc", 1.0)
    metrics.observe_decision(0.5, False, "3")
    metrics.set_model("4", "def", 2.0)
    values = samples(metrics)
    assert [key for key in values if key[0] == "fraud_model_info"] == [("fraud_model_info", "4", "def")]
    assert values["fraud_decisions_total", "3", "false"] == 1


def test_labels_cannot_fill_the_memory():
    metrics = Metrics()
    for n in range(MOST_SERIES * 2):
        metrics.count_error(f"kind {n}")
        metrics.observe_decision(0.5, True, f"version {n}")
    metrics.count_fallback("review")
    assert len(metrics._totals.counters) <= MOST_SERIES and len(metrics._totals.histograms) <= MOST_SERIES
    assert samples(metrics)["fraud_fallbacks_total", "review"] == 1


def test_threads_lose_no_count():
    metrics = Metrics()

    def count() -> None:
        for _ in range(5_000):
            metrics.observe_request("/score", 200, 0.001)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics)["fraud_request_seconds_count", "/score"] == 20_000


def test_any_replica_answers_for_all(tmp_path: Path):
    first, second = (Metrics(tmp_path, flush_s=60) for _ in range(2))
    for metrics, version, n in ((first, "3", 2), (second, "4", 5)):
        metrics.set_model(version, "abc", 100.0 + n)
        metrics.set_queue(n)
        for _ in range(n):
            metrics.observe_request("/score", 200, 0.01)
        metrics.flush()
    for metrics in (first, second):
        values = samples(metrics)
        assert values["fraud_requests_total", "/score", "200"] == 7
        assert values["fraud_request_seconds_bucket", "/score", "0.01"] == 7
        assert values["fraud_queue_depth", "decisions"] == 7
        assert values["fraud_replicas",] == 2
        assert values["fraud_model_info", "3", "abc"] == values["fraud_model_info", "4", "abc"] == 1
    first.close()
    second.close()


def test_counts_are_written_by_themselves(tmp_path: Path):
    first, second = Metrics(tmp_path, flush_s=0.02), Metrics(tmp_path, flush_s=60)
    first.count_error("missing")
    done = threading.Event()
    for _ in range(200):
        if samples(second).get(("fraud_errors_total", "missing")) == 1:
            break
        done.wait(0.05)
    assert samples(second)["fraud_errors_total", "missing"] == 1
    first.close()
    second.close()


def test_the_dead_are_counted_but_no_longer_live(tmp_path: Path):
    """Killed with SIGKILL, then retired by the next replica that starts; the counts never fall."""
    code = f"""
import sys, time
from pathlib import Path
from serve_app.metrics.counters import Metrics
metrics = Metrics(Path({str(tmp_path)!r}), flush_s=60)
for _ in range(9): metrics.observe_request("/score", 200, 0.01)
metrics.set_queue(50)
metrics.flush()
sys.stdout.write("ready"); sys.stdout.flush()
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.read(5) == b"ready"
    watching = Metrics(tmp_path, flush_s=60)
    alive = samples(watching)
    assert (alive["fraud_requests_total", "/score", "200"], alive["fraud_queue_depth", "decisions"]) == (9, 50)
    assert alive["fraud_replicas",] == 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    dead = samples(watching)
    assert dead["fraud_requests_total", "/score", "200"] == 9 and dead["fraud_replicas",] == 1
    assert ("fraud_queue_depth", "decisions") not in dead
    newest = Metrics(tmp_path, flush_s=60)
    for metrics in (watching, newest):
        assert samples(metrics)["fraud_requests_total", "/score", "200"] == 9
        assert samples(metrics)["fraud_replicas",] == 2
    assert len(list(tmp_path.glob("replica-*.lock"))) == 2
    newest.close()
    watching.close()


def test_a_retirement_cut_short_counts_nobody_twice(tmp_path: Path):
    first = Metrics(tmp_path, flush_s=60)
    first.count_error("missing")
    first.close()
    (left,) = tmp_path.glob("replica-*.json")
    content = left.read_text()
    MetricsFolder(tmp_path).close()  # retires the first
    assert not left.exists()
    left.write_text(content)  # as if it had been killed before it removed the file
    for _ in range(3):
        last = Metrics(tmp_path, flush_s=60)
        assert samples(last)["fraud_errors_total", "missing"] == 1
        last.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"counters": [[1]]}', '{"counters": 5}', "null"])
def test_a_file_that_is_not_ours_harms_nothing(tmp_path: Path, content: str):
    (tmp_path / "replica-1-x.json").write_text(content)
    (tmp_path / "retired.json").write_text(content)
    metrics = Metrics(tmp_path, flush_s=60)
    metrics.count_error("missing")
    assert samples(metrics)["fraud_errors_total", "missing"] == 1
    metrics.close()


def test_other_versions_counts_are_left_where_they_do_not_fit(tmp_path: Path):
    other = Totals({("fraud_new", ("a",)): 1}, {("fraud_queue_depth", ()): 3}, {("fraud_score", ("3",)): [1, 2, 0.5]})
    (tmp_path / "replica-1-x.json").write_text(json.dumps(other.to_dict()))
    metrics = Metrics(tmp_path, flush_s=60)
    metrics.observe_decision(0.5, True, "3")
    assert samples(metrics)["fraud_score_count", "3"] == 1
    assert samples(Metrics(tmp_path, flush_s=60))["fraud_replicas",] == 2
    metrics.close()


def test_a_folder_that_cannot_be_written_is_said_once_and_scoring_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    alone = Metrics(tmp_path / "file" / "metrics")
    assert "covers this replica only" in caplog.text
    alone.count_error("missing")
    assert samples(alone)["fraud_errors_total", "missing"] == 1
    metrics = Metrics(tmp_path / "metrics", flush_s=60)
    caplog.clear()
    moved = tmp_path / "gone"
    (tmp_path / "metrics").rename(moved)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            metrics.count_error("missing")
            metrics.flush()
    assert caplog.text.count("cannot be written") == 1
    moved.rename(tmp_path / "metrics")
    metrics.flush()
    other = Metrics(tmp_path / "metrics", flush_s=60)
    assert samples(other)["fraud_errors_total", "missing"] == 3
    other.close()
    metrics.close()


def test_the_folder_is_the_owners_alone(tmp_path: Path):
    Metrics(tmp_path / "metrics", flush_s=60).close()
    assert os.stat(tmp_path / "metrics").st_mode & 0o777 == 0o700  # noqa: PTH116


def test_the_page_is_text_or_openmetrics_as_asked():
    metrics = Metrics()
    metrics.count_error("missing")
    client = TestClient(Starlette(routes=[Route("/metrics", metrics.respond)]))
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    newer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    assert any(family.name == "fraud_errors" for family in open_metrics(newer.text))


def test_many_decisions_count_as_each_of_them_would():
    together, alone = Metrics(), Metrics()
    scores, flags = np.array([0.0, 0.05, 0.5, 0.97, 1.0]), np.array([False, False, False, True, True])
    together.observe_decisions(scores, flags, "7")
    for score, flag in zip(scores.tolist(), flags.tolist(), strict=True):
        alone.observe_decision(score, flag, "7")
    assert together._totals.histograms == alone._totals.histograms
    assert together._totals.counters == alone._totals.counters
    nobody = Metrics()
    nobody.observe_decisions(scores[:2], flags[:2], "7")
    assert ("fraud_decisions", ("7", "true")) not in nobody._totals.counters
