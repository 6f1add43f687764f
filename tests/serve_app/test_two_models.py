"""Two models of different names in one state folder: what one decides is not the other's."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest

from fraud.schema import Schema
from fraud.scoring import decided
from serve_app import decision_summary
from serve_app.replica import Replica
from tests.serve_app.test_replica import running


def card_of(number: int) -> dict[str, object]:
    """A transaction of a few minutes ago; all are of one customer."""
    moment = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(minutes=30 - number)
    return {
        "TRANSACTION_ID": number, "TX_DATETIME": moment.isoformat(timespec="seconds"), "CUSTOMER_ID": "of both",
        "TERMINAL_ID": "3", "TX_AMOUNT": 57.1,
    }  # fmt: skip


def remembered(replica: Replica) -> float:
    """How many transactions of the customer the replica's live history has."""
    model = replica.state.model
    names = list(model.engine.detector.features.names)
    row = model.reader.parse(b'{"TRANSACTION_ID": "asks", "TX_DATETIME": "%s", "CUSTOMER_ID": "of both", '
                             b'"TERMINAL_ID": "3", "TX_AMOUNT": 1}'
                             % dt.datetime.now(dt.UTC).replace(tzinfo=None).isoformat().encode())  # fmt: skip
    return float(model.engine.encode_row(row)[names.index("count by CUSTOMER_ID (1d)")])


def test_two_models_in_one_state_folder_do_not_mix(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with running(bundles["handbook"], tmp_path, FRAUD_MODEL_NAME="cards") as (_, client):
        for number in range(3):
            assert client.post("/score", json=card_of(number)).status_code == 200
    with running(bundles["handbook"], tmp_path, FRAUD_MODEL_NAME="wires") as (replica, client):
        assert remembered(replica) == 0, "the decisions of the other model are not its history"
        assert 'status="200"' not in client.get("/metrics").text.partition('path="/score"')[2].partition("\n")[0]
        assert client.post("/score", json=card_of(7)).status_code == 200
        assert remembered(replica) == 1
    shutil.rmtree(tmp_path / "live" / "cards")  # so that it is filled from the decision log again
    with running(bundles["handbook"], tmp_path, FRAUD_MODEL_NAME="cards") as (replica, client):
        assert remembered(replica) == 3
        assert 'fraud_requests_total{path="/score",status="200"} 3' in client.get("/metrics").text

    log, schema = str(tmp_path / "decisions"), Schema.load("handbook")
    ids = {name: sorted(decided.read(log, schema, model=name)["id"]) for name in ("cards", "wires")}
    assert ids == {"cards": ["0", "1", "2"], "wires": ["7"]}
    decision_summary.main([log])
    rows = [line.split()[:4] for line in capsys.readouterr().out.splitlines() if line.startswith(("cards", "wires"))]
    assert [(row[0], row[3]) for row in rows] == [("cards", "3"), ("wires", "1")]


def test_the_journal_of_another_model_is_not_history(bundles: dict[str, Path], tmp_path: Path):
    """Both replicas run, and nothing is Parquet yet."""
    with running(bundles["handbook"], tmp_path, FRAUD_MODEL_NAME="cards") as (_, client):
        for number in range(3):
            client.post("/score", json=card_of(number))
        client.post("/score/batch", json=[card_of(number) for number in (4, 5)])
        with running(bundles["handbook"], tmp_path, FRAUD_MODEL_NAME="wires") as (replica, _):
            assert remembered(replica) == 0
