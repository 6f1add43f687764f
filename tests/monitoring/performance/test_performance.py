"""`python -m monitoring.performance` on a decision log and on scored files, with labels as they became known."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import ConfigError, DataError
from fraud.labels.store import LabelStore
from fraud.schema.zone import zone_of
from fraud.scoring import decided
from fraud.scoring.scored import arrow_schema
from monitoring.performance.command import judge, main, table
from serve_app.decisions.log import DecisionLog
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
    alerts = decided.read(str(scored), SCHEMA, only_flagged=True)
    assert len(alerts) == DAYS * A_DAY and alerts["day"].nunique() == DAYS
    store = LabelStore(str(tmp_path / "labels"))
    label(store, 0, 4, START + dt.timedelta(days=11))
    label(store, 4, 2, START + dt.timedelta(days=13))
    days, missed = judge(alerts, store, as_of=(START + dt.timedelta(days=12)).date(), delay_days=7)
    assert [day.labelled for day in days] == [A_DAY] * 4 + [0] * 8
    assert [day.precision for day in days[:4]] == [0.5] * 4
    assert all(day.low is not None and day.low <= 0.5 <= day.high for day in days[4:])
    assert [day.is_mature for day in days] == [True] * 5 + [False] * 7
    later, _ = judge(alerts, store, as_of=(START + dt.timedelta(days=14)).date(), delay_days=7)
    assert [day.labelled for day in later] == [A_DAY] * 6 + [0] * 6
    assert judge(alerts, store, as_of=START.date(), delay_days=7) == ([], None) and missed is None


def test_the_command_tells_each_day_and_writes_json(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    label(LabelStore(str(tmp_path / "var/labels")), 0, 5, START + dt.timedelta(days=11))
    command = ["--decisions", "scored", "--schema", "handbook", "--as-of", "2026-01-13", "--out", "p.json"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "2026-01-01        20        20      10      50.0%  counted\n" in output and "labels still come" in output
    draw = "--day 2026-01-12 --decisions scored --out review/2026-01-12.csv"
    assert output.endswith(f"\nnext: python -m ray_jobs.labels draw {draw}\n")
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["as_of"] == "2026-01-13" and content["label_delay_days"] == 7 and len(content["days"]) == DAYS
    assert content["days"][0] == {
        "day": "2026-01-01", "alerts": 20, "labelled": 20, "frauds": 10, "is_mature": True, "precision": 0.5,
        "low": 0.5, "high": 0.5, "share_labelled": 1.0,
    }  # fmt: skip
    assert main(command) == 0, "its own file is replaced"
    (tmp_path / "p.json").write_text('{"days": []}')
    with pytest.raises(DataError, match=r"p\.json exists.*--force"):
        main(command)
    assert main([*command, "--force"]) == 0


def test_without_any_label_the_reason_comes_first(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    store = LabelStore(str(tmp_path / "var/labels"))
    command = ["--decisions", "scored", "--schema", "handbook", "--out", "p.json", "--as-of"]

    def reason(as_of: str) -> str:
        assert main([*command, as_of]) == 0
        return capsys.readouterr().out.splitlines()[0]

    assert reason("2026-01-13").startswith("warning: no labels in") and "--as-of 2026-01-02" in reason("2026-01-01")
    label(store, 1_000, 1, START + dt.timedelta(days=2))
    assert "none of 20 labels is of an alert before 2026-01-13; check their ids" in reason("2026-01-13")
    label(store, 0, 5, START + dt.timedelta(days=12, hours=9))
    assert "100 of 120 labels became known later; --as-of 2026-01-14 uses them" in reason("2026-01-13")
    assert "warning" not in reason("2026-01-14")


def test_a_wrong_day_is_told():
    with pytest.raises(ConfigError, match="--as-of"):
        main(["--schema", "handbook", "--as-of", "soon"])


def test_rows_drawn_at_random_tell_what_was_missed(scored: Path, tmp_path: Path):
    """Of 20 rows a day that are not flagged every fourth is a fraud, and so are 10 of the 20 alerts."""
    store = LabelStore(str(tmp_path / "labels"))
    label(store, 0, DAYS, START + dt.timedelta(days=12))
    for day in range(DAYS):
        date = (START + dt.timedelta(days=day)).date()
        drawn = store.draw(decided.read(str(scored), SCHEMA, day=date), date, 30)
        assert len(drawn) == 30 and set(drawn["n_unflagged"]) == {A_DAY} and set(drawn["n_rows"]) == {2 * A_DAY}
        again = store.draw(decided.read(str(scored), SCHEMA, day=date), date, 5)
        assert again["id"].tolist() == drawn["id"].tolist()
        ids = drawn.loc[~drawn["is_flagged"], "id"]
        verdicts = {"id": ids, "is_fraud": ids.astype(int) % 8 == 1, "known_at": START + dt.timedelta(days=12)}
        frame = pd.DataFrame({**verdicts, "source": "review"}).astype({"known_at": "datetime64[us]"})
        store.add(frame, f"review-{day}", ingested_at=START)
        charged = frame[frame["is_fraud"]].assign(
            source="chargeback", known_at=frame["known_at"] + pd.Timedelta(days=1)
        )
        store.add(charged, f"chargeback-{day}", ingested_at=START)
    unlooked = pd.DataFrame({"id": ["1", "3"], "is_fraud": True, "known_at": START + dt.timedelta(days=12)})
    store.add(unlooked.astype({"known_at": "datetime64[us]"}).assign(source="chargeback"), "more", ingested_at=START)
    alerts = decided.read(str(scored), SCHEMA, only_flagged=True)
    days, unseen = judge(alerts, store, as_of=(START + dt.timedelta(days=30)).date(), delay_days=7)
    assert unseen is not None and unseen.days == DAYS and unseen.caught == DAYS * A_DAY / 2
    assert unseen.missed_low < DAYS * A_DAY / 4 < unseen.missed_high
    assert unseen.recall_low < 2 / 3 < unseen.recall_high and abs(unseen.recall - 2 / 3) < 0.1
    assert "drawn at random; recall 6" in table(days, unseen)
    assert "not known" in table(days)


def test_a_day_without_rows_cannot_be_drawn_from(scored: Path, tmp_path: Path):
    with pytest.raises(DataError, match="nothing to draw from"):
        LabelStore(str(tmp_path)).draw(decided.read(str(scored), SCHEMA)[:0], START.date(), 5)


def test_days_and_labels_are_those_of_the_zone(scored: Path, tmp_path: Path):
    """In Tokyo the rows just after midnight UTC are of 09:00, and January 5th begins at 15:00 UTC of the 4th."""
    tokyo, store = replace(SCHEMA, day_zone="Asia/Tokyo"), LabelStore(str(tmp_path / "labels"))
    label(store, 0, 1, dt.datetime(2026, 1, 4, 14))
    label(store, 1, 1, dt.datetime(2026, 1, 4, 16))
    alerts = decided.read(str(scored), tokyo, only_flagged=True)
    days, _ = judge(alerts, store, as_of=dt.date(2026, 1, 5), delay_days=1, zone=zone_of(tokyo))
    assert [day.labelled for day in days] == [A_DAY, 0, 0, 0]
    in_utc, _ = judge(alerts, store, as_of=dt.date(2026, 1, 5), delay_days=1)
    assert [day.labelled for day in in_utc] == [A_DAY, A_DAY, 0, 0]


def test_of_a_log_that_two_models_share_only_the_own_decisions_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = DecisionLog(settings_of(tmp_path), SCHEMA)
    for number in range(30):
        log.put(a_decision(number, model_name="cards" if number < 10 else "wires"))
    log.close()
    for name, alerts in (("cards", 10), ("wires", 20)):
        for key, value in {"FRAUD_STATE": tmp_path, "FRAUD_ROOT": tmp_path, "FRAUD_MODEL_NAME": name}.items():
            monkeypatch.setenv(key, str(value))
        assert main(["--schema", "handbook", "--as-of", "2025-07-01", "--out", f"{name}.json"]) == 0
        days = json.loads((tmp_path / f"{name}.json").read_text())["days"]
        assert [(day["day"], day["alerts"]) for day in days] == [("2025-06-15", alerts)]
