"""What a sweep chooses is what a training then makes: the same objective, the same threshold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fraud.data import tables
from fraud.metrics import measures
from fraud.schema.validation import validate
from fraud.scoring.detector import Detector
from fraud.scoring.engine import Engine
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from tests.tuning.conftest import Finished
from tests.tuning.small import BASE, SCHEMA, THRESHOLDS
from tuning.search import winner

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def document(finished: Finished) -> dict:
    return json.loads((finished.journal.path / "winner.json").read_text())


@pytest.fixture(scope="module")
def config(finished: Finished) -> TrainConfig:
    return TrainConfig.load(str(finished.outdir / "best.yaml"))


@pytest.fixture(scope="module")
def trained(finished: Finished, config: TrainConfig) -> tuple[Detector, fitting.Prepared, fitting.Evaluation]:
    """What the winner's configuration trains."""
    rows = validate(tables.load(str(finished.workspace.folder / "data.csv"), SCHEMA).rows, SCHEMA).rows
    prepared = fitting.prepare(rows, SCHEMA, config)
    return *fitting.fit_locally(rows, SCHEMA, config), prepared


def test_training_the_winner_gives_the_reported_objective(
    document: dict, config: TrainConfig, trained: tuple, finished: Finished
):
    detector, _, prepared = trained
    fold = fitting.Fold.of(prepared)
    evidence = Engine(detector).evidence(fold.raw_validation)
    joint = evidence[:, 2]
    assert detector.calibration.forest_weight == config.forest_weight == document["winner"]["weight"]
    objective = measures.average_precision(fold.validation_labels, joint)
    assert objective == pytest.approx(document["winner"]["objective"], abs=1e-9)
    assert document["winner"]["objective"] >= max(trial.result["objective"] for trial in finished.trials) - 1e-9, (
        "joined it is no worse than either alone: the weights 0 and 1 are among those tried"
    )


def test_its_threshold_is_the_best_of_the_grid(document: dict, config: TrainConfig, trained: tuple):
    points, best = document["grid"]["points"], document["grid"]["points"][document["grid"]["best"]]
    assert len(points) == THRESHOLDS and best["judged"] == max(p["judged"] for p in points if p["judged"] is not None)
    assert config.threshold.policy == best["policy"] and config.threshold.contamination == best["contamination"]
    detector, evaluation, _ = trained
    assert detector.threshold.policy == best["policy"]
    alerts = np.mean(detector.threshold.decide(evaluation.validation_scores[:, 0]))
    assert alerts == pytest.approx(best["alert_rate"], abs=1e-9)


def test_pairs_come_best_first_and_the_base_configuration_is_the_baseline(document: dict, finished: Finished):
    objectives = [pair["objective"] for pair in document["pairs"]]
    assert objectives == sorted(objectives, reverse=True) and len(objectives) > 4
    assert document["winner"]["objective"] == objectives[0]
    detectors = {trial.number: trial.detector for trial in finished.trials}
    for pair in document["pairs"]:
        assert (detectors[pair["forest"]], detectors[pair["autoencoder"]]) == ("forest", "autoencoder")
        assert pair["weight"] in (0, 0.25, 0.5, 0.75, 1)
    base_pair = next(pair for pair in document["pairs"] if (pair["forest"], pair["autoencoder"]) == (1, 2))
    assert document["baseline"] == {"objective": base_pair["objective"], "what": "the base configuration"}


def test_the_settings_named_are_those_that_changed(document: dict, config: TrainConfig):
    before, after = BASE.flat(), config.flat()
    settings = document["winner"]["settings"]
    assert settings and set(settings) == {name for name in after if after[name] != before[name]}
    assert all(list(value) == list(after[name]) if isinstance(value, list) else value == after[name]
               for name, value in settings.items())  # fmt: skip


def test_the_file_says_where_it_comes_from(finished: Finished):
    lines = (finished.outdir / "best.yaml").read_text().splitlines()
    assert lines[0].startswith(f"# The best of sweep {finished.journal.sweep_id}, 8 trials on ")
    command = finished.text.splitlines()[-1].removeprefix("next: ")
    assert lines[1] == f"# {command}".replace(f"{finished.outdir}/", "")


def test_a_configuration_goes_to_yaml_and_back_whatever_the_comment():
    settings = {"autoencoder": {"hidden": [5, 2]}, "threshold": {"policy": "f_beta", "beta": 0.5}}
    config = from_mapping(TrainConfig, settings)
    text = winner.to_yaml(config, ["a data set\nwith: a name", "#é"])
    assert from_mapping(TrainConfig, yaml.safe_load(text)) == config
    assert text.startswith("# a data set with: a name\n# #é\n") and "!!" not in text
    assert winner.changed(TrainConfig(), config) == {
        "autoencoder.hidden": [5, 2], "threshold.policy": "f_beta", "threshold.beta": 0.5,
    }  # fmt: skip


def test_an_edited_best_yaml_is_kept(tmp_path: Path):
    best = tmp_path / "best.yaml"
    for text in ("seed: 1\n", "seed: 1\n", "seed: 2\n", "seed: 3\n"):
        winner.write_best(text, best)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"best.yaml": "seed: 3\n", "best.1.yaml": "seed: 1\n", "best.2.yaml": "seed: 2\n"}
