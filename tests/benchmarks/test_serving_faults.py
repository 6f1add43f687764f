"""The faults benchmark: what it sums up, how it spoils a challenger, and the tables that it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import replace_section
from benchmarks.serving.load import Load
from benchmarks.serving_faults import __main__ as command
from benchmarks.serving_faults import background_load, faulty, soak, table
from fraud.data import simulation
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring import bundle
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from serve_app.model.state import ServedModel, State


def run(**over: Any) -> dict[str, Any]:
    return {"requests": 1000, "failed": 0, "rate": 500.0, "p50_ms": 1.5, "p99_ms": 7.0, "worst_p99_ms": 9.0, **over}


RESULTS: dict[str, Any] = {
    "changes": {"rate": 500.0, "calm": run(), "swap": run(seconds=3.2), "rollback": run(seconds=2.0, failed=3)},
    "kills": {
        "rate": 500.0,
        "HAProxy": run(
            kills=3, failed=8, failed_share=0.0008, recovered_s=[9.1, 10.6], longest_gap_s=0.07, new_connections=90,
            new_connections_failed=0,
        ),
    },
    "shadowing": {
        "rate": 500.0, "off": run(rounds=5, cpu_us=400.0), "on": run(rounds=5, cpu_us=440.0), "throughput_cost": 0.01,
        "cpu_cost": 0.1, "outcomes": {"scored": 990, "shed": 10, "late": 0, "failed": 0},
        "faults": {"hang": run(outcomes={"scored": 0, "shed": 990, "late": 10, "failed": 0})},
    },
    "scaling": {
        "ladder": {"1": run(), "64": run()}, "target": 0.6, "up_s": 12.3, "up": run(),
        "down_s": 40.0, "down": run(),
    },
    "soak": {
        "minutes": 30, **run(), "decisions": 1000, "answered_200": 1000, "journals_left": 0,
        "samples": [{"s": 0.0, "replicas": 400.0}, {"s": 10.0, "replicas": 401.0}],
        "slope_mib_per_hour": {"replicas": 0.4},
    },
}  # fmt: skip


def test_rounds_are_summed_and_a_round_that_nobody_answered_counts_as_failed():
    answered = Load(100, 1.0, 100.0, 1.0, 2.0, 3.0, {"200": 99, "500": 1}, {"connect": 0, "read": 2})
    refused = Load(0, 0.0, 0.0, math.nan, math.nan, math.nan, {}, {"connect": 1})
    totals = background_load.summarize([answered, refused])
    assert (totals["requests"], totals["failed"], totals["statuses"]) == (100, 4, {"200": 99, "500": 1})
    assert totals["socket_errors"] == {"read": 2, "connect": 1}
    assert (totals["p50_ms"], totals["worst_p99_ms"]) == (1.0, 2.0)


def test_the_slope_leaves_out_the_warming_up():
    samples = [{"s": float(s), "replicas": 500.0 if s < 180 else 400.0 + s / 3600 * 6.0} for s in range(0, 1800, 10)]
    assert soak.slope_mib_per_hour(samples, 180) == pytest.approx({"replicas": 6.0})
    assert soak.slope_mib_per_hour(samples[:2], 0) == {}


def test_the_tables_tell_counts_and_shares():
    text = table.markdown(RESULTS)
    assert "3 of 2,000 failed" in text
    assert "| swap | 3.2 s | 1,000 | 0 | 1.5 ms | 7.0 ms | 9.0 ms |" in text
    assert "| HAProxy | 3 | 1,000 | 8 | 0.0800% | 0 of 90 | 70 ms | 9, 11 s |" in text
    assert "throughput -1.0%, CPU a request +10.0%" in text
    assert "| does hang | 1,000 | 0 | 500 | 1.5 ms | 7.0 ms |  | 990 shed, 10 late |" in text
    assert "1 to 3 replicas 12 s after the load began" in text
    assert "1,000 decisions in the Parquet for 1,000 answers" in text and "+0.4 MiB/h" in text
    assert table.markdown({"soak": RESULTS["soak"]}).startswith("30 minutes")


def test_the_tables_go_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page, out = tmp_path / "serving.md", tmp_path / "results.json"
    page.write_text(f"# Serving\n{table.BEGIN}\nold\n<!-- end of measured -->\nafter\n")
    out.write_text(json.dumps(RESULTS))
    monkeypatch.setattr(table, "PAGE", page)
    assert command.main(["--table", "--out", str(out)]) == 0
    text = page.read_text()
    assert "old" not in text and "| swap |" in text and text.endswith("after\n")
    with pytest.raises(DataError, match="is missing"):
        command.main(["--table", "--out", str(tmp_path / "none.json")])


def test_a_spoilt_challenger_misbehaves_as_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path))
    schema = Schema.load("transactions")
    rows = validate(simulation.transactions(1500, seed=1, fraud_rate=0.05), schema).rows
    config = from_mapping(TrainConfig, {"forest": {"n_estimators": 10}, "autoencoder": {"epochs": 1}})
    bundle.save(tmp_path / "bundle", fitting.fit_locally(rows, schema, config)[0])
    model = ServedModel.from_bundle(bundle.load(tmp_path / "bundle"), name="fraud", version="2")
    transaction = {"amount": 220.0, "hour": 3.0, "distance": 12.0, "device_score": 0.92, "country_mismatch": 1.0}
    state = State(model, challenger=model)
    state.__class__ = faulty._State
    state.challenger = state.challenger
    sound = model.engine.score_row(transaction).score
    assert state.challenger is not None and state.challenger.engine.score_row(transaction).score == sound
    (tmp_path / faulty.FILE).write_text("raise")
    with pytest.raises(RuntimeError, match="this challenger raises"):
        state.challenger.engine.score_row(transaction)
    assert state.model.engine.score_row(transaction).score == sound, "the champion is left alone"


def test_the_page_says_what_the_last_run_measured():
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    page = table.PAGE.read_text(encoding="utf-8")
    hint = "run python -m benchmarks.serving_faults --table"
    assert replace_section(page, table.markdown(results), table.BEGIN) == page, hint
