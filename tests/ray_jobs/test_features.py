"""The features command on a real Ray: what training sees, by name, in a folder that is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import cards, transactions
from fraud.detectors.features import raw_features, raw_names
from fraud.errors import ConfigError, DataError
from fraud.history.replay import replay
from fraud.schema import Schema
from ray_jobs import features

pytestmark = pytest.mark.ray


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """4,000 card transactions in three files, in no order of time, one of them bad."""
    rows = cards(4_000, seed=1).sample(frac=1, random_state=0).reset_index(drop=True)
    rows.loc[2_500, "TX_AMOUNT"] = -1.0
    for i in range(3):
        tables.write_parquet(rows.iloc[i * 1_400 : (i + 1) * 1_400], str(tmp_path / "days" / f"{i}.parquet"))
    return tmp_path / "days"


def test_command_writes_what_training_sees(
    ray_session: None, days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "features"
    arguments = ["--data", str(days), "--schema", "handbook", "--out", str(out), "--history-partitions", "3"]
    assert features.main(arguments) == 0
    assert "3,999 rows with 45 features; 1 refused, see _refused.parquet" in capsys.readouterr().out
    schema = Schema.load("handbook")
    rows = tables.load(str(days), schema).rows
    expected = raw_features(rows, schema, {}, replay(rows, schema)[0])
    written = pd.read_parquet(out)
    assert written["row"].tolist() == rows.index.tolist()
    np.testing.assert_array_equal(written[raw_names(schema)[0]].to_numpy(), expected)
    for name in ("TRANSACTION_ID", "CUSTOMER_ID", "TX_DATETIME", "TX_FRAUD"):
        assert written[name].tolist() == rows[name].tolist()
    assert pd.read_parquet(out / "_refused.parquet")["row"].tolist() == [2_500]
    manifest = json.loads((out / "_features.json").read_text())
    assert manifest["rows"] == {"written": 3_999, "quarantined": 1, "other_days": 0}
    assert manifest["input_fingerprint"] == tables.fingerprint(str(days))
    assert len(tables.read(str(out))) == 3_999, "our own readers pass over what is beside the parts"

    assert features.main([*arguments, "--date", str(rows["TX_DATETIME"].max().date())]) == 0, "its own folder"
    last = pd.read_parquet(out)
    is_of_day = (rows["TX_DATETIME"].dt.date == rows["TX_DATETIME"].max().date()).to_numpy()
    np.testing.assert_array_equal(last[raw_names(schema)[0]].to_numpy(), expected[is_of_day])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["days", "features"]


def test_a_schema_without_history_and_a_folder_of_someone_else(ray_session: None, tmp_path: Path):
    tables.write_csv(transactions(300, seed=1), str(tmp_path / "rows.csv"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="did not write it"):
        features.main(["--data", str(tmp_path / "rows.csv"), "--out", str(mine)])
    assert (mine / "letter.txt").read_text() == "dear"
    features.main(["--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")])
    written = pd.read_parquet(tmp_path / "out")
    assert written["amount"].tolist() == tables.read(str(tmp_path / "rows.csv"))["amount"].tolist()


def test_a_failure_leaves_the_old_folder(ray_session: None, tmp_path: Path):
    tables.write_csv(transactions(300, seed=1), str(tmp_path / "rows.csv"))
    out = tmp_path / "out"
    features.main(["--data", str(tmp_path / "rows.csv"), "--out", str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    tables.write_csv(transactions(50, seed=3).assign(hour=99), str(tmp_path / "bad.csv"))
    with pytest.raises(DataError, match=r"none of 50 rows fits the schema.*'hour'"):
        features.main(["--data", str(tmp_path / "bad.csv"), "--out", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "out", "rows.csv"]


def test_no_partitions_is_a_mistake(tmp_path: Path):
    with pytest.raises(ConfigError, match="1 or more"):
        features.main(["--data", "x.csv", "--out", str(tmp_path / "out"), "--history-partitions", "0"])
