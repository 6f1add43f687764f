"""From analysts' verdicts to a promoted better model: three commands, without a variable or a schema."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.registry import versions
from fraud.schema import Schema
from fraud.schema.columns import Column
from fraud.settings import Settings
from ray_jobs.labels import command as labels
from ray_jobs.promote.command import main as promote
from ray_jobs.train import command as train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS = 9_000
QUICK = ("forest.n_estimators=20", "autoencoder.epochs=2", "head.members=2", "head.iterations=40", "head.use=always",
         "split.train=0.5", "split.validation=0.2", "split.test=0.3", "split.delay_days=2",
         "alert_budget=0.03")  # fmt: skip
SETTINGS = [word for setting in QUICK for word in ("--set", setting)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cards.parquet, whose label column knows the frauds in shops only; verdicts.csv, with those on the web."""
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    columns = (
        Column(name="id", kind="id"), Column(name="time", kind="timestamp"), Column(name="card", kind="entity"),
        Column(name="risk", kind="numeric"), Column(name="speed", kind="numeric"),
        Column(name="is_fraud", kind="label"),
    )  # fmt: skip
    (tmp_path / "mine.yaml").write_text(Schema(name="mine", columns=columns, label_delay_days=2).to_yaml())
    rng = np.random.default_rng(1)
    fraud, web = rng.random(ROWS) < 1 / 30, rng.random(ROWS) < 0.5
    frame = pd.DataFrame(
        {
            "id": np.arange(ROWS).astype(str),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.random(ROWS)) * 60, unit="D"),
            "card": rng.integers(0, 3000, ROWS).astype(str),
            "risk": rng.normal(0, 1, ROWS) + 2.6 * (fraud & ~web),
            "speed": rng.normal(0, 1, ROWS) + 2.6 * (fraud & web),
            "is_fraud": (fraud & ~web).astype(int),
        }
    )
    frame.to_parquet(tmp_path / "cards.parquet", index=False)
    frame.loc[fraud & web, ["id"]].assign(is_fraud=1).to_csv(tmp_path / "verdicts.csv", index=False)
    return tmp_path


def test_three_commands_lead_from_verdicts_to_a_better_champion(
    root: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
):
    settings = Settings.from_environment()
    assert train.main(["--data", "cards.parquet", "--schema", "mine.yaml", *SETTINGS]) == 0
    assert versions.champion_version(settings) == 1
    n_verdicts = len(pd.read_csv(root / "verdicts.csv"))

    assert labels.main(["ingest", "verdicts.csv"]) == 0
    assert f"{n_verdicts} labels from analyst, {n_verdicts} of them frauds" in capsys.readouterr().out
    assert train.main(["--data", "cards.parquet", *SETTINGS]) == 0
    gate = ["challenger", "--gate", "--data", "artifacts/training.parquet", "--latency-budget-ms", "1000"]
    assert promote(gate) == 0
    assert versions.champion_version(settings) == 2, capsys.readouterr().out

    joined = pd.read_parquet(root / "artifacts/training.parquet")
    own = pd.read_parquet(root / "cards.parquet")
    assert len(joined) == ROWS and joined["is_fraud"].sum() == own["is_fraud"].sum() + n_verdicts
    record = json.loads((root / "artifacts/training.labels.json").read_text())
    assert record["rows"]["by_source"] == {"analyst": n_verdicts}, "the gate sees where the labels come from"
