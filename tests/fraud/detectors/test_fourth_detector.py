"""A fourth detector is one file and one line of the registry: it then appears wherever the others do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from fraud.detectors import registry
from fraud.errors import BundleError
from fraud.schema import Schema
from fraud.scoring import bundle, scored
from fraud.scoring.engine import Engine
from fraud.training import fitting
from ray_jobs.train import report
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.decisions.rows import Decision, Encoder, table_schemas
from serve_app.model.state import ServedModel, State
from tests.fraud.conftest import SMALL, Fitted
from tests.fraud.detectors.hbos import Hbos
from tests.fraud.scoring.test_bundle import rewrite

SCHEMA = Schema.load("transactions")
COLUMNS = ["score", "forest_score", "autoencoder_score", "hbos_score", "head_score", "is_fraud"]
REQUEST = {"amount": 220, "hour": 3, "distance": 12, "device_score": 0.92, "country_mismatch": 1}


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "DETECTORS", (*registry.DETECTORS[:-1], Hbos, registry.DETECTORS[-1]))
        yield


@pytest.fixture(scope="module")
def four(registered: None, five_columns: Fitted) -> Fitted:
    return Fitted(five_columns.rows, *fitting.fit_locally(five_columns.rows, SCHEMA, SMALL))


def test_it_is_scored_one_row_or_many_and_joins_with_an_equal_share(four: Fitted, five_columns: Fitted) -> None:
    engine, rows = four.engine, four.rows.tail(500)
    frame = engine.score_frame(rows)
    assert list(frame.columns) == COLUMNS
    singly = [engine.score_row(row) for row in rows.to_dict("records")]
    assert [row.score for row in singly] == frame["score"].tolist()
    assert [row.scores["hbos_score"] for row in singly] == frame["hbos_score"].tolist()
    theirs = five_columns.engine.score_frame(rows)
    pd.testing.assert_series_equal(frame["forest_score"], theirs["forest_score"], check_exact=True)
    raw = engine.raw(rows)
    evidence = dict(zip(four.detector.evidence_names, engine.evidence(raw).T, strict=True))
    weight = four.detector.calibration.forest_weight
    pair = weight * evidence["forest"] + (1 - weight) * evidence["autoencoder"]
    expected = four.detector.calibration.joint((2 * pair + evidence["hbos"]) / 3)
    np.testing.assert_allclose(evidence["label_light"], expected, rtol=0, atol=1e-12)
    assert not np.array_equal(frame["score"], theirs["score"])


def test_reasons_divide_the_score_that_it_is_part_of(four: Fitted) -> None:
    engine = four.engine
    raw = engine.encode_row(REQUEST)[None]
    row, typical = engine.evidence(raw)[0, -1], engine.evidence(engine.detector.features.typical[None])[0, -1]
    assert engine.contributions(raw).sum() == pytest.approx(row - typical, abs=1e-9)


def test_it_is_saved_and_loaded(four: Fitted, tmp_path: Path) -> None:
    bundle.save(tmp_path, four.detector)
    loaded = bundle.load(tmp_path).detector
    assert [component.name for component in loaded.components] == ["forest", "autoencoder", "hbos", "head"]
    rows = four.rows.head(300)
    pd.testing.assert_frame_equal(Engine(loaded).score_frame(rows), four.engine.score_frame(rows), check_exact=True)
    forged = replace(loaded.components[2], edges=np.zeros((1, 19)))
    bundle.save(tmp_path, replace(loaded, components=(*loaded.components[:2], forged, loaded.components[3])))
    with pytest.raises(BundleError, match="its hbos arrays"):
        bundle.load(tmp_path)


def test_who_does_not_know_it_refuses_the_bundle(four: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.save(tmp_path, four.detector)
    monkeypatch.setattr(registry, "DETECTORS", tuple(cls for cls in registry.DETECTORS if cls is not Hbos))
    with pytest.raises(BundleError, match="'hbos', which this version lacks"):
        bundle.load(tmp_path)


def test_a_bundle_without_it_is_served_without_it(five_columns: Fitted, registered: None, tmp_path: Path) -> None:
    bundle.save(tmp_path, five_columns.detector)
    loaded = Engine(bundle.load(tmp_path).detector)
    rows = five_columns.rows.head(300)
    pd.testing.assert_frame_equal(loaded.score_frame(rows), five_columns.engine.score_frame(rows), check_exact=True)
    content = json.loads((tmp_path / "detector.json").read_text())
    rewrite(tmp_path, "detector.json", json.dumps({**content, "further_detectors": ["hbos"]}).encode())
    with pytest.raises(BundleError, match="malformed"):
        bundle.load(tmp_path)


def test_the_service_answers_it_and_the_decision_log_keeps_it(four: Fitted, tmp_path: Path) -> None:
    bundle.save(tmp_path, four.detector)
    model = ServedModel.from_bundle(bundle.load(tmp_path), name="fraud-detector", version="7")
    client = TestClient(create_app(State(model), ApiKeys()))
    answer = client.post("/score", json=REQUEST).json()
    assert answer["hbos_score"] == four.engine.score_row(REQUEST).scores["hbos_score"] > 0
    batch = client.post("/score/batch", json=[REQUEST]).json()["results"]
    assert batch[0]["hbos_score"] == answer["hbos_score"]
    encoder = Encoder(SCHEMA)
    names = table_schemas(encoder.header)[0].names
    assert names[names.index("head_score") - 1] == "hbos_score"
    decision = Decision(
        request_id="1", time_us=0, model_name="fraud-detector", version="7", sha256="", schema_fingerprint="",
        threshold=0.5, score=answer["score"], is_fraud=True, scores={"hbos_score": answer["hbos_score"]},
    )  # fmt: skip
    assert json.loads(encoder.line(decision))["hbos_score"] == answer["hbos_score"]


def test_scored_tables_and_the_evaluation_have_it(four: Fitted) -> None:
    rows = four.rows.head(50)
    scores = four.engine.score_frame(rows)
    table = scored.arrow_table(rows, SCHEMA, scores, "7")
    assert table.schema.field("hbos_score").type == pa.float64()
    assert table["hbos_score"].to_pylist() == scored.table(rows, scores, "7")["hbos_score"].tolist()
    assert scored.name_of("hbos_score") == "given_hbos_score"
    evaluation = four.evaluation
    assert list(evaluation.scores) == ["joined", "forest", "autoencoder", "hbos", "label_light", "head"]
    assert 0.5 < evaluation.metrics["hbos"]["roc_auc"] < 1
    prepared = fitting.prepare(four.rows, SCHEMA, SMALL)
    assert "\n       hbos  " in report.table(prepared, four.detector, evaluation, SMALL)
