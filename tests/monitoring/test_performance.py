"""`python -m monitoring.performance` on a decision log and on scored files, with labels as they became known."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import ConfigError, DataError
from fraud.labels import LabelStore
from fraud.schema import Schema
from fraud.scored import arrow_schema
from monitoring.performance import alerts_of, judge, main
from serve_app.decisions import DecisionLog
from tests.serve_app.decision_cases import SCHEMA, a_decision, settings_of

START = dt.datetime(2026, 1, 1)
DAYS, A_DAY = 12, 20


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Files as ray_jobs.score writes them, one a day: every second row is flagged, of which a half are frauds."""
    folder = tmp_path / "scored"
    folder.mkdir()
    shape = arrow_schema(SCHEMA, with_label=False)
    for day in range(DAYS):
        numbers = np.arange(day * 2 * A_DAY, (day + 1) * 2 * A_DAY)
        times = pd.Series([START + dt.timedelta(days=day, minutes=int(n)) for n in numbers - numbers[0]])
        values = {
            "row": numbers - numbers[0], "TRANSACTION_ID": numbers.astype(str), "TX_DATETIME": times,
            "score": np.linspace(0.5, 0.99, len(numbers)), "is_fraud": numbers % 2 == 0,
        }  # fmt: skip
        columns = [pa.array(values.get(f.name, [None] * len(numbers)), f.type) for f in shape]
        pq.write_table(pa.table(columns, schema=shape), folder / f"{day:02}.parquet")
        (folder / f"{day:02}.parquet.manifest.json").write_text("{}")
    return folder


def label(store: LabelStore, first: int, days: int, known_at: dt.datetime) -> None:
    numbers = np.arange(first * 2 * A_DAY, (first + days) * 2 * A_DAY, 2)
    rows = {"id": numbers.astype(str), "is_fraud": numbers % 4 == 0, "known_at": known_at, "source": "analyst"}
    frame = pd.DataFrame(rows).astype({"known_at": "datetime64[us]"})
    store.add(frame, f"from-{first}", ingested_at=known_at)


def test_only_flagged_rows_count_and_only_labels_known_by_then(scored: Path, tmp_path: Path):
    alerts = alerts_of(str(scored), SCHEMA)
    assert len(alerts) == DAYS * A_DAY and alerts["day"].nunique() == DAYS
    store = LabelStore(str(tmp_path / "labels"))
    label(store, 0, 4, START + dt.timedelta(days=11))
    label(store, 4, 2, START + dt.timedelta(days=13))
    found = judge(alerts, store, as_of=(START + dt.timedelta(days=12)).date(), delay_days=7)
    assert [day.labelled for day in found] == [A_DAY] * 4 + [0] * 8
    assert [day.precision for day in found[:4]] == [0.5] * 4
    assert all(day.low is not None and day.low <= 0.5 <= day.high for day in found[4:])
    assert [day.is_mature for day in found] == [True] * 5 + [False] * 7
    later = judge(alerts, store, as_of=(START + dt.timedelta(days=14)).date(), delay_days=7)
    assert [day.labelled for day in later] == [A_DAY] * 6 + [0] * 6
    assert len(judge(alerts, store, as_of=START.date(), delay_days=7)) == 0


def test_the_command_tells_each_day_and_writes_json(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    label(LabelStore(str(tmp_path / "var/labels")), 0, 5, START + dt.timedelta(days=11))
    command = ["--decisions", "scored", "--schema", "handbook", "--as-of", "2026-01-13", "--out", "p.json"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "2026-01-01        20        20      10      50.0%  counted\n" in told and "labels still come" in told
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["as_of"] == "2026-01-13" and content["label_delay_days"] == 7 and len(content["days"]) == DAYS
    assert content["days"][0] == {
        "day": "2026-01-01", "alerts": 20, "labelled": 20, "frauds": 10, "is_mature": True, "precision": 0.5,
        "low": 0.5, "high": 0.5, "share_labelled": 1.0,
    }  # fmt: skip


def test_a_decision_log_is_read_as_it_lies(tmp_path: Path):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    for number in range(5):
        log.put(a_decision(number, is_fraud=number != 3))
    log.put(a_decision(1, score=0.5))
    log.put(a_decision(4, score=None, is_fraud=None, fallback="review"))
    log.close()
    alerts = alerts_of(str(settings.url), SCHEMA)
    assert sorted(alerts["id"]) == ["0", "1", "2", "4"] and alerts.set_index("id")["score"]["1"] == 0.5
    assert {str(day) for day in alerts["day"]} == {"2025-06-15"}


def test_what_is_no_decision_and_a_schema_without_ids_are_refused(tmp_path: Path, scored: Path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="holds no decisions"):
        alerts_of(str(tmp_path / "x.parquet"), SCHEMA)
    with pytest.raises(DataError, match="holds no decisions"):
        alerts_of(str(tmp_path / "absent"), SCHEMA)
    with pytest.raises(ConfigError, match="no id column"):
        alerts_of(str(scored), Schema.load("transactions"))
    with pytest.raises(ConfigError, match="--as-of"):
        main(["--schema", "handbook", "--as-of", "soon"])
