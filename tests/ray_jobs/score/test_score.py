"""Batch scoring on a real Ray: same scores as the engine, every row accounted for, never half a file."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fraud.data import tables
from fraud.data.simulation import cards, transactions
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import BundleError, ConfigError, DataError, FraudError, RegistryError, SchemaError
from fraud.registry import runs, versions
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.scoring.scored import MARK
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from ray_jobs.score import command as score
from ray_jobs.score.output import Job

SMALL = TrainConfig(
    forest=ForestConfig(n_estimators=20),
    autoencoder=AutoencoderConfig(epochs=2, batch_size=256),
    head=HeadConfig(members=2, iterations=30),
)
BAD_ROWS = {3: "amount", 700: "hour", 1_999: "device_score"}

pytestmark = pytest.mark.ray


def job(folder: Path, **changes: object) -> Job:
    """A job on the files of a folder."""
    arguments = {
        "data": str(folder / "day.csv"),
        "out": str(folder / "scored.parquet"),
        "quarantine": str(folder / "refused.parquet"),
        "model": str(folder / "bundle"),
        "rows_on_ray": 0,
    }
    return Job(**{**arguments, **changes})


@dataclass(frozen=True)
class Done:
    """A scored file: where it lies, its manifest, its rows, and the engine that should have scored it."""

    folder: Path
    manifest: dict
    rows: pd.DataFrame
    refused: pd.DataFrame
    engine: Engine

    def job(self, **changes: object) -> Job:
        return job(self.folder, **changes)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Done:
    """2,000 rows of the five columns, three of them bad, as CSV, scored once."""
    folder = tmp_path_factory.mktemp("five")
    schema = Schema.load("transactions")
    detector, _ = fitting.fit_locally(
        validate(transactions(4_000, seed=1, fraud_rate=0.05), schema).rows, schema, SMALL
    )
    bundle.save(folder / "bundle", detector)
    day = transactions(2_000, seed=2, fraud_rate=0.05).astype(object)
    day.loc[3, "amount"], day.loc[700, "hour"], day.loc[1_999, "device_score"] = "n/k", 99, None
    tables.write_csv(day, str(folder / "day.csv"))
    manifest = score.score(job(folder), Settings.from_environment())
    rows, refused = (pd.read_parquet(folder / name) for name in ("scored.parquet", "refused.parquet"))
    return Done(folder, manifest, rows, refused, Engine(bundle.load(folder / "bundle").detector))


@pytest.fixture(scope="module")
def with_history(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Done:
    """Card transactions with entity history, in no order, one of them bad, scored once."""
    folder = tmp_path_factory.mktemp("history")
    schema = Schema.load("handbook")
    config = replace(SMALL, split=SplitConfig(history=0.3, train=0.4, validation=0.15, test=0.15, delay_days=7))
    detector, _ = fitting.fit_locally(validate(cards(8_000, seed=1), schema).rows, schema, config)
    bundle.save(folder / "bundle", detector)
    later = cards(2_000, seed=2).drop(columns="TX_FRAUD")  # a day's file knows no labels yet
    later["TX_DATETIME"] += pd.Timedelta(days=130)
    later = later.sample(frac=1, random_state=0).reset_index(drop=True)
    later.loc[5, "TX_AMOUNT"] = -1.0
    tables.write_parquet(later, str(folder / "day.parquet"))
    manifest = score.score(job(folder, data=str(folder / "day.parquet")), Settings.from_environment())
    rows, refused = (pd.read_parquet(folder / name) for name in ("scored.parquet", "refused.parquet"))
    return Done(folder, manifest, rows, refused, Engine(bundle.load(folder / "bundle").detector))


def test_scores_are_the_engines(five: Done):
    rows = tables.load(str(five.folder / "day.csv"), five.engine.schema).rows
    expected = five.engine.score_frame(rows)
    assert five.rows["row"].tolist() == rows.index.tolist() == [i for i in range(2_000) if i not in BAD_ROWS]
    for name in expected.columns:
        assert five.rows[name].tolist() == expected[name].tolist()
    for name in ("amount", "hour", "distance", "device_score", "country_mismatch"):
        assert five.rows[name].tolist() == rows[name].tolist()
    assert five.rows["given_is_fraud"].tolist() == rows["is_fraud"].tolist(), "the label, beside our own is_fraud"
    added = ["score", "forest_score", "autoencoder_score", "head_score", "is_fraud", "reasons", "explanation"]
    added.append("model_version")
    assert list(five.rows.columns[-8:]) == added


def test_flagged_rows_and_no_others_have_reasons(five: Done):
    flagged = five.rows[five.rows["is_fraud"]]
    assert 0 < len(flagged) < len(five.rows)
    assert five.rows.loc[~five.rows["is_fraud"], "reasons"].isna().all()
    reasons = flagged["reasons"].map(json.loads)
    assert (reasons.map(len) > 0).all()
    first = reasons.iloc[0][0]
    assert first["column"] in {column.name for column in five.engine.schema.features} and first["contribution"] > 0
    assert five.rows.loc[~five.rows["is_fraud"], "explanation"].isna().all()
    texts = reasons.map(lambda why: "; ".join(reason["text"] for reason in why))
    assert flagged["explanation"].tolist() == texts.tolist()
    assert texts.str.contains("the usual|usually").all()


def test_every_row_is_accounted_for(five: Done):
    assert five.refused["row"].tolist() == list(BAD_ROWS)
    assert five.refused["column"].tolist() == list(BAD_ROWS.values())
    assert five.refused["raw_amount"].iloc[0] == "n/k" and (five.refused["reason"] != "").all()
    assert five.manifest["rows"] == {
        "read": 2_000,
        "scored": 1_997,
        "flagged": int(five.rows["is_fraud"].sum()),
        "quarantined": 3,
        "other_days": 0,
    }


def test_scored_files_are_marked_as_the_models_own_decisions(five: Done):
    assert (pq.read_schema(five.folder / "scored.parquet").metadata or {}).items() >= MARK.items()


def test_manifest_says_what_the_output_was_made_of(five: Done):
    written = json.loads((five.folder / "scored.parquet.manifest.json").read_text())
    sha256 = bundle.load(five.folder / "bundle").sha256
    assert written == {name: value for name, value in five.manifest.items() if name != "already_scored"}
    assert written["bundle_sha256"] == sha256 and set(five.rows["model_version"]) == {f"bundle {sha256[:12]}"}
    assert written["input_fingerprint"] == tables.fingerprint(str(five.folder / "day.csv"))
    assert written["threshold"]["value"] == five.engine.threshold.value
    assert written["seconds"] > 0


def test_a_rerun_verifies_and_does_nothing(five: Done, caplog: pytest.LogCaptureFixture):
    before = {path.name: path.stat().st_mtime_ns for path in five.folder.iterdir() if path.suffix != ".lock"}
    with caplog.at_level("INFO"):
        again = score.score(five.job(), Settings.from_environment())
    assert again["already_scored"] and again["rows"] == five.manifest["rows"]
    assert "already scored" in caplog.text
    after = {path.name: path.stat().st_mtime_ns for path in five.folder.iterdir() if path.suffix != ".lock"}
    assert after == before


def test_an_altered_output_is_replaced_by_the_same_bytes(five: Done):
    out = five.folder / "scored.parquet"
    original = out.read_bytes()
    table = pq.read_table(out)
    pq.write_table(table.slice(0, 10), out)
    again = score.score(five.job(), Settings.from_environment())
    assert not again["already_scored"]
    assert out.read_bytes() == original


def test_another_output_is_replaced_only_by_force(five: Done, tmp_path: Path):
    settings = Settings.from_environment()
    out = tmp_path / "scored.parquet"
    out.write_bytes((five.folder / "scored.parquet").read_bytes())
    other = {"out": str(out), "quarantine": str(tmp_path / "refused.parquet"), "reasons": False}
    with pytest.raises(DataError, match=r"another --reasons: give another --out, or --force"):
        score.score(five.job(**other), settings)
    pd.DataFrame({"mine": [1]}).to_parquet(out)
    with pytest.raises(DataError, match="did not write it"):
        score.score(five.job(**other), settings)
    score.score(five.job(**other, force=True), settings)
    rows = pd.read_parquet(out)
    assert rows["score"].tolist() == five.rows["score"].tolist() and rows["reasons"].isna().all()


def test_history_is_replayed_in_time_order(with_history: Done):
    rows = tables.load(str(with_history.folder / "day.parquet"), with_history.engine.schema).rows
    expected = with_history.engine.score_frame(rows)
    assert not rows["TX_DATETIME"].is_monotonic_increasing
    assert with_history.rows["row"].tolist() == rows.index.tolist()
    assert with_history.rows["score"].tolist() == expected["score"].tolist()
    assert with_history.rows["TRANSACTION_ID"].tolist() == rows["TRANSACTION_ID"].tolist()
    assert with_history.manifest["replayed_history"] and with_history.refused["row"].tolist() == [5]
    alone = with_history.engine.score_frame(rows, learn_history=False)
    assert (alone["score"] != expected["score"]).any(), "the rows' own history matters"


def test_a_day_is_scored_with_the_history_before_it(with_history: Done, tmp_path: Path):
    times = with_history.rows["TX_DATETIME"]
    day = times.dt.date.value_counts().index[0]
    of_day = with_history.rows[times.dt.date == day]
    places = {
        "data": str(with_history.folder / "day.parquet"),
        "out": str(tmp_path / "day.parquet"),
        "quarantine": str(tmp_path / "refused.parquet"),
    }
    manifest = score.score(with_history.job(**places, date=day), Settings.from_environment())
    rows = pd.read_parquet(tmp_path / "day.parquet")
    assert rows["row"].tolist() == of_day["row"].tolist() and rows["score"].tolist() == of_day["score"].tolist()
    refused = pd.read_parquet(with_history.folder / "day.parquet").iloc[5]
    assert refused["TX_DATETIME"].date() != day, "it is refused on its own day"
    assert manifest["rows"]["other_days"] == len(with_history.rows) + 1 - len(rows)
    assert not manifest["rows"]["quarantined"]
    with pytest.raises(DataError, match="--date"):
        other = {**places, "out": str(tmp_path / "none.parquet")}
        score.score(with_history.job(**other, date=dt.date(1999, 1, 1)), Settings.from_environment())
    assert not (tmp_path / "none.parquet").exists()


def test_partitions_of_history_change_nothing(with_history: Done, tmp_path: Path):
    places = {"out": str(tmp_path / "out.parquet"), "quarantine": str(tmp_path / "refused.parquet")}
    partitioned = with_history.job(data=str(with_history.folder / "day.parquet"), history_partitions=5, **places)
    manifest = score.score(partitioned, Settings.from_environment())
    assert manifest["rows"] == with_history.manifest["rows"]
    assert (tmp_path / "out.parquet").read_bytes() == (with_history.folder / "scored.parquet").read_bytes()


def test_rows_that_the_model_knows_bring_their_own_history(with_history: Done, tmp_path: Path):
    """Older than the end of the model's history: scored from nothing, with a warning, not counted twice."""
    known = cards(2_000, seed=1).drop(columns="TX_FRAUD")
    tables.write_parquet(known, str(tmp_path / "known.parquet"))
    places = {"out": str(tmp_path / "out.parquet"), "quarantine": str(tmp_path / "refused.parquet")}
    manifest = score.score(
        with_history.job(data=str(tmp_path / "known.parquet"), history_partitions=3, **places),
        Settings.from_environment(),
    )
    assert any("already holds the rows" in warning for warning in manifest["warnings"])
    rows = tables.load(str(tmp_path / "known.parquet"), with_history.engine.schema).rows
    expected = with_history.engine.score_frame(rows)
    assert pd.read_parquet(tmp_path / "out.parquet")["score"].tolist() == expected["score"].tolist()


def test_no_good_row_fails_and_keeps_the_quarantine(five: Done, tmp_path: Path):
    tables.write_csv(transactions(50, seed=3).assign(hour=99), str(tmp_path / "bad.csv"))
    places = {name: str(tmp_path / f"{name}.parquet") for name in ("out", "quarantine")}
    with pytest.raises(DataError, match=r"none of 50 rows.*'hour'"):
        score.score(five.job(data=str(tmp_path / "bad.csv"), **places), Settings.from_environment())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.parquet.lock", "bad.csv", "quarantine.parquet"]
    assert len(pd.read_parquet(tmp_path / "quarantine.parquet")) == 50


def test_a_failure_half_way_leaves_the_old_output(five: Done, tmp_path: Path):
    days = tmp_path / "days"
    tables.write_csv(transactions(300, seed=4), str(days / "1.csv"))
    tables.write_csv(transactions(300, seed=5).drop(columns="hour"), str(days / "2.csv"))
    out = tmp_path / "out" / "scored.parquet"
    out.parent.mkdir()
    out.write_bytes(b"yesterday's")
    places = {"data": str(days), "out": str(out), "quarantine": str(tmp_path / "out" / "refused.parquet")}
    with pytest.raises(SchemaError, match=r"2\.csv.*'hour' is missing") as caught:
        score.score(five.job(**places, force=True), Settings.from_environment())
    assert type(caught.value) is SchemaError and "\n" not in str(caught.value), "not Ray's wrapping of it"
    assert sorted(path.name for path in out.parent.iterdir()) == [".scored.parquet.lock", "scored.parquet"]
    assert out.read_bytes() == b"yesterday's"


def test_command_line_with_the_champion_of_the_registry(
    five: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    settings = Settings.from_environment()
    run = runs.start_run(settings, "test")
    version = versions.register(settings, run, five.folder / "bundle")
    run.finish()
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    (tmp_path / "day.csv").write_bytes((five.folder / "day.csv").read_bytes())
    assert score.main(["--data", "day.csv", "--out", "scored.parquet"]) == 0, "refused rows are no failure"
    out = capsys.readouterr().out
    assert "2,000 rows: 1,997 scored" in out and "3 refused, see" in out and "scored.quarantine.parquet" in out
    assert out.endswith("\nnext: python -m monitoring.drift --model champion --cur scored.parquet\n")
    rows = pd.read_parquet(tmp_path / "scored.parquet")
    assert set(rows["model_version"]) == {str(version.number)}
    assert rows["score"].tolist() == five.rows["score"].tolist()
    assert score.main(["--data", "day.csv", "--out", "scored.parquet"]) == 0
    assert "already scored" in capsys.readouterr().out


def test_a_file_of_something_else_in_the_place_of_refused_rows_stays(five: Done, tmp_path: Path):
    mine = tmp_path / "mine.parquet"
    pd.DataFrame({"row": [1], "amount": [2.0]}).to_parquet(mine)
    before = mine.read_bytes()
    places = {"out": str(tmp_path / "scored.parquet"), "quarantine": str(mine)}
    with pytest.raises(DataError, match=r"mine\.parquet is where refused rows go.*--quarantine.*--force"):
        score.score(five.job(**places), Settings.from_environment())
    assert mine.read_bytes() == before and not (tmp_path / "scored.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["--out", "scored.csv"], ConfigError, "ending in .parquet"),
        (["--out", "scored", "--quarantine", "x.parquet"], ConfigError, "single file"),
        (["--out", "x.parquet", "--rows-on-ray", "-1"], ConfigError, "0 or more"),
        (["--out", "day.parquet", "--quarantine", "day.parquet"], ConfigError, "different"),
        (["--out", "x.parquet", "--history-partitions", "0"], ConfigError, "1 or more"),
        (["--out", "x.parquet", "--date", "31.01.2026"], ConfigError, "2026-01-31"),
        (["--out", "x.parquet"], RegistryError, "champion"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], kind: type[FraudError], words: str):
    (tmp_path / "day.csv").write_text("amount\n1\n")
    with pytest.raises(kind, match=words) as caught:
        score.main(["--data", str(tmp_path / "day.csv"), *arguments])
    assert "\n" not in str(caught.value)


def test_a_bundle_that_was_tampered_with_scores_nothing(five: Done, tmp_path: Path):
    for path in (five.folder / "bundle").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "threshold.json").write_text("{}")
    with pytest.raises(BundleError, match=r"threshold\.json"):
        score.score(five.job(model=str(tmp_path), force=True), Settings.from_environment())
