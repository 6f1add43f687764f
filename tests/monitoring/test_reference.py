"""`--model` alone names schema, threshold and reference: the rows that training kept, with that very model's scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import transactions
from fraud.errors import BundleError, ConfigError, DataError
from fraud.registry import reference, runs, versions
from fraud.registry.models import open_model
from fraud.schema import Schema, validate
from fraud.scoring import bundle, scored
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from monitoring.drift import command as drift
from monitoring.drift import comparison

SCHEMA = Schema.load("transactions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves: a bundle and its reference beside it."""
    folder = tmp_path_factory.mktemp("reference")
    rows = validate(transactions(3_000, seed=1, fraud_rate=0.05), SCHEMA).rows
    config = from_mapping(TrainConfig, {"forest": {"n_estimators": 20}, "autoencoder": {"epochs": 1}})
    detector, evaluation = fitting.fit_locally(rows, SCHEMA, config)
    frame = reference.draw(
        rows.iloc[-len(evaluation.scores["joined"]) :], {"score": evaluation.scores["joined"]}, seed=1
    )
    tables.write_parquet(frame, str(folder / reference.NAME))
    bundle.save(folder / "bundle", detector, reference_sha256=reference.sha256(folder / reference.NAME))
    bundle.save(folder / "older", detector)
    return folder


@pytest.fixture(scope="module")
def day(folder: Path) -> str:
    """A day as batch scoring leaves it: a folder of parts, with a manifest."""
    rows = validate(transactions(2_000, seed=2, drift=1.5), SCHEMA).rows
    scores = Engine(bundle.load(folder / "bundle").detector).score_frame(rows)
    target = folder / "scored/date=2026-01-31"
    for i, part in enumerate(np.array_split(np.arange(len(rows)), 3)):
        frame = scored.table(rows.iloc[part], scores.iloc[part], "1")
        tables.write_parquet(frame, str(target / f"part-{i}.parquet"))
    tables.write_text(json.dumps({"rows": {"quarantined": 100}}), str(target / "_manifest.json"))
    return str(target)


@pytest.mark.slow
def test_the_reference_of_a_registered_model_is_fetched_once_and_judges_the_score(
    folder: Path, day: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    run = runs.start_run(settings, "train")
    run.log_file(folder / reference.NAME)
    versions.register(settings, run, folder / "bundle")
    for name in ("MLFLOW_TRACKING_URI", "FRAUD_MODEL_NAME"):
        monkeypatch.setenv(name, settings.tracking_uri if "URI" in name else settings.model_name)
    champion = open_model("champion", settings)
    found_folder, path = champion.folder, reference.locate(champion, settings)
    assert path.read_bytes() == (folder / reference.NAME).read_bytes() and found_folder.name == "1"
    drift.main(["--model", "champion", "--cur", day, "--out", str(tmp_path / "d.html")])
    document = json.loads((tmp_path / "d.json").read_text())
    assert document["verdict"] == "drift" and document["reference"]["path"] == str(path)
    assert {c["column"] for c in document["score"]["columns"]} == {"score", "alert rate"}
    assert document["current"]["rows"] == 2_100 and document["current"]["refused_rows"] == 100
    path.write_bytes(b"altered")
    again = reference.locate(open_model("1", settings), settings)
    assert again.read_bytes() == (folder / reference.NAME).read_bytes(), "fetched again"
    away = replace(settings, tracking_uri="http://127.0.0.1:9")
    assert reference.locate(open_model("champion", away), away) == path, "MLflow is away: what was fetched before"


def test_a_bundle_folder_has_its_reference_beside_it(folder: Path, settings: Settings, tmp_path: Path):
    assert reference.locate(open_model(str(folder / "bundle"), settings), settings) == folder / reference.NAME
    with pytest.raises(DataError, match="trained without a reference"):
        reference.locate(open_model(str(folder / "older"), settings), settings)
    copy = tmp_path / "copy"
    shutil.copytree(folder / "bundle", copy / "bundle")
    with pytest.raises(DataError, match="copy it with the bundle"):
        reference.locate(open_model(str(copy / "bundle"), settings), settings)
    (copy / reference.NAME).write_bytes(b"another")
    with pytest.raises(BundleError, match="was altered"):
        reference.locate(open_model(str(copy / "bundle"), settings), settings)


def test_without_model_and_reference_there_is_nothing_to_compare_with(day: str):
    with pytest.raises(ConfigError, match="--ref"):
        drift.main(["--cur", day])


def test_the_sample_does_not_depend_on_the_pieces(tmp_path: Path):
    rows = validate(transactions(3_000, seed=1), SCHEMA).rows
    scores = pd.DataFrame({"score": np.linspace(0, 1, 3_000), "forest_score": 0.0, "autoencoder_score": 0.0})
    table = scored.table(rows, scores.assign(is_fraud=False), "1")
    tables.write_parquet(table, str(tmp_path / "one.parquet"))
    for i in range(30):
        tables.write_parquet(table.iloc[100 * i : 100 * (i + 1)], str(tmp_path / f"many/part-{i:02}.parquet"))
    samples = [
        comparison.read_sampled(str(tmp_path / n), SCHEMA, None, sample=500, seed=7) for n in ("one.parquet", "many")
    ]
    assert samples[0].usable == samples[1].usable == 3_000 and len(samples[0].sample) == 500
    values = [side.sample["score"].to_numpy() for side in samples]
    np.testing.assert_array_equal(*values)
    assert (np.diff(values[0]) > 0).all() and abs(values[0].mean() - 0.5) < 0.05
