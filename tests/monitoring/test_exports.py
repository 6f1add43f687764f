"""What was found reaches Prometheus as a file and MLflow as metrics by day, and nothing fails when MLflow is away."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fraud.registry import runs
from fraud.settings import Settings
from monitoring import exports
from monitoring.volume import main as volume


def drift(day: str, psi: float) -> dict[str, Any]:
    column = {"column": 'amount "x"', "level": "warning", "statistics": {"psi": psi}}
    current = {"rows": 900, "refused_rows": 9, "models": ["3"], "window": {"start": f"{day} 00:00:01"}}
    score = {"columns": [{"column": "score", "level": "ok", "statistics": {"psi": 0.01}}]}
    return {"verdict": "warning", "columns": [column], "score": score, "current": current, "created": "2027"}


def parsed(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("column") or sample.labels.get("day", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_file_for_prometheus_holds_every_column():
    text = exports.prometheus(exports.of_drift(drift("2026-01-31", 0.2)))
    samples = parsed(text)
    assert samples["fraud_drift_psi", 'amount "x"'] == 0.2 and samples["fraud_drift_psi", "score"] == 0.01
    assert samples["fraud_drift_level", 'amount "x"'] == 1 and samples["fraud_drift_verdict", ""] == 1
    assert samples["fraud_drift_rows", ""] == 900 and 'model="3"' in text
    day = dt.datetime(2026, 1, 31, tzinfo=dt.UTC).timestamp()
    assert samples["fraud_monitored_day_timestamp_seconds", ""] == day


def test_too_few_rows_are_seen_but_give_no_figure_of_a_column():
    report = drift("2026-01-31", 0.9) | {"verdict": "too_few_rows"}
    for column in (*report["columns"], *report["score"]["columns"]):
        column["level"] = "too_few_rows"
    samples = parsed(exports.prometheus(exports.of_drift(report)))
    assert samples["fraud_drift_verdict", ""] == -1 and samples["fraud_drift_rows", ""] == 900
    assert not {name for name, _ in samples} & {"fraud_drift_psi", "fraud_drift_level"}


def test_live_precision_is_that_of_the_newest_day_and_of_the_newest_mature_one():
    days = [
        {"precision": 0.5, "low": 0.5, "high": 0.5, "alerts": 20, "is_mature": True},
        {"precision": 0.4, "low": 0.2, "high": 0.6, "alerts": 30, "is_mature": False},
        {"precision": None, "low": None, "high": None, "alerts": 9, "is_mature": False},
    ]
    samples = parsed(exports.prometheus(exports.of_performance({"as_of": "2026-02-01", "days": days})))
    assert samples["fraud_live_precision", "newest"] == 0.4 and samples["fraud_live_precision", "mature"] == 0.5
    assert (samples["fraud_live_precision_low", "newest"], samples["fraud_live_precision_high", "newest"]) == (0.2, 0.6)
    assert not exports.of_performance({"as_of": "2026-02-01", "days": days[2:]}).samples


@pytest.mark.slow
def test_days_of_one_model_are_one_run_of_mlflow(settings: Settings, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text("<html>drift</html>")
    run_ids = {
        exports.to_mlflow(exports.of_drift(drift(day, psi)), settings, {".html": str(page)})
        for day, psi in (("2026-01-30", 0.1), ("2026-01-31", 0.2), ("2026-01-31", 0.2))
    }
    (run_id,) = run_ids
    with runs.mlflow_client(settings, "reading") as client:
        history = client.get_metric_history(run_id, "drift_psi/amount _x_")
        assert [(m.step, m.value) for m in history] == [(20_483, 0.1), (20_484, 0.2)]
        assert {a.path for a in client.list_artifacts(run_id, "drift")} == {
            "drift/2026-01-30.html", "drift/2026-01-31.html",
        }  # fmt: skip
        assert client.get_run(run_id).info.status == "FINISHED"


def test_flags_and_environment_decide(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    metrics = exports.of_drift(drift("2026-01-31", 0.2))
    arguments = argparse.Namespace(prometheus=str(tmp_path / "drift.prom"), mlflow=False, force=False)
    away = replace(settings, tracking_uri="http://127.0.0.1:9")
    exports.export(metrics, arguments, away, {})
    assert "fraud_drift_verdict" in (tmp_path / "drift.prom").read_text() and not caplog.records
    exports.export(metrics, arguments, away, {"FRAUD_MONITORING_MLFLOW": "1"})
    assert "not logged to MLflow" in caplog.text, "told, and no failure"


def test_a_command_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    folder = tmp_path / "scored/date=2026-01-31"
    folder.mkdir(parents=True)
    (folder / "_manifest.json").write_text(json.dumps({"rows": {"scored": 90, "flagged": 9, "quarantined": 10}}))
    assert volume(["--scored", "scored", "--date", "2026-01-31", "--out", "v.json", "--prometheus", "v.prom"]) == 0
    samples = parsed((tmp_path / "v.prom").read_text())
    assert samples["fraud_volume_rows", ""] == 100 and samples["fraud_volume_flagged_share", ""] == 0.1
    assert samples["fraud_volume_verdict", ""] == 2, "a tenth of the rows was refused"
