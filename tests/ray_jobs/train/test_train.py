"""A training from file to registry, on a real Ray and a real MLflow."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import simulation, tables
from fraud.data.locks import exclusive
from fraud.detectors.autoencoder import AutoencoderConfig, Training
from fraud.errors import ConfigError, DataError, FraudError, RegistryError
from fraud.registry import promotion, training_rows, versions
from fraud.registry import reference as fraud_reference
from fraud.registry.models import open_model
from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, configure, from_mapping
from ray_jobs.train import command as train
from ray_jobs.train import resume, tracking
from ray_jobs.train.request import TrainingRequest, read_request

pytestmark = pytest.mark.ray

SCHEMA = Schema.load("transactions")
SMALL = {
    "seed": 3,
    "forest": {"n_estimators": 60},
    "autoencoder": {"epochs": 3, "batch_size": 64},
    "head": {"iterations": 30},
}


def small_config(**changes: object) -> TrainConfig:
    return from_mapping(TrainConfig, {**SMALL, **changes})


@dataclass(frozen=True)
class Workspace:
    """Where the trainings of this module happen: one MLflow store, labelled and unlabelled data."""

    settings: Settings
    labelled: Path
    unlabelled: Path
    folder: Path

    def request(self, outdir: str, **changes) -> TrainingRequest:
        path = self.folder / outdir
        path.mkdir(exist_ok=True)
        request = TrainingRequest(data=str(self.labelled), schema=SCHEMA, outdir=path, config=small_config())
        return replace(request, **changes)

    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.settings.tracking_uri, self.settings.tracking_uri)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("train")
    frame = simulation.transactions(3000, seed=7, fraud_rate=0.03).astype({"amount": object, "hour": object})
    frame.loc[11, "amount"] = "many"
    frame.loc[12, "hour"] = 25
    frame.to_csv(folder / "labelled.csv", index=False)
    frame.drop(columns="is_fraud").to_csv(folder / "unlabelled.csv", index=False)
    state = folder / "state"
    environment = {"FRAUD_ROOT": str(folder), "FRAUD_STATE": str(state)}
    settings = Settings.from_environment(environment)
    return Workspace(settings, folder / "labelled.csv", folder / "unlabelled.csv", folder)


@pytest.fixture(scope="module")
def champion(workspace: Workspace, ray_session: None) -> tuple[TrainingRequest, str]:
    """The first training: what was ordered and what it answered."""
    request = workspace.request("champion")
    return request, train.train(request, workspace.settings)


def test_artifacts_are_complete(workspace: Workspace, champion: tuple[TrainingRequest, str]):
    import torch

    request, text = champion
    names = {path.name for path in request.outdir.iterdir()}
    table_files = {"quarantine.parquet", "reference.parquet", "training_rows.parquet"}
    assert names == {"bundle", "ae.pt", "threshold.json", "metrics.json", "plots", *table_files}
    loaded = bundle.load(request.outdir / "bundle")
    weights = torch.load(request.outdir / "ae.pt", weights_only=True)
    first = next(value for key, value in weights.items() if key.endswith("weight")).numpy().T.ravel()
    np.testing.assert_array_equal(first, loaded.detector.autoencoder.weights[: first.size])
    assert json.loads((request.outdir / "threshold.json").read_text())["value"] == loaded.detector.threshold.value

    refused = pd.read_parquet(request.outdir / "quarantine.parquet")
    assert refused["row"].tolist() == [11, 12] and refused["column"].tolist() == ["amount", "hour"]
    reference = pd.read_parquet(request.outdir / "reference.parquet")
    again = Engine(loaded.detector).score_frame(reference[[c.name for c in SCHEMA.columns]])
    assert loaded.detector.head is not None and len(reference) == 750, "the test window"
    for name in ("score", "forest_score", "autoencoder_score", "head_score"):
        np.testing.assert_array_equal(reference[name], again[name])
    assert loaded.manifest["reference_sha256"] == fraud_reference.sha256(request.outdir / "reference.parquet")
    plots = {path.name for path in (request.outdir / "plots").iterdir()}
    assert {"pr_curve.png", "roc_curve.png", "score_histogram.png", "loss_curve.png", "threshold_cost.png"} <= plots

    content = json.loads((request.outdir / "metrics.json").read_text())
    assert content["rows"] == 2998 and content["quarantined"] == 2
    assert content["bundle_sha256"] == loaded.sha256
    assert [epoch["number"] for epoch in content["epochs"]] == [1, 2, 3]
    assert content["registry"]["alias"] == "champion"
    low, high = content["average_precision_intervals"]["joined"]
    assert low < content["metrics"]["joined"]["average_precision"] < high
    for words in (
        "forest",
        "autoencoder",
        "label_light",
        "the supervised head (weight",
        "joined",
        "average precision",
        "version 1 as champion",
        str(request.outdir),
    ):
        assert words in text
    judge = f"python -m ray_jobs.evaluate --data {workspace.labelled} --model champion"
    assert text.endswith(f"\nnext: {judge}\n")


def test_the_training_rows_are_kept_beside_the_bundle_and_in_the_registry(
    workspace: Workspace, champion: tuple[TrainingRequest, str]
):
    request, _ = champion
    rows = tables.load(request.data, SCHEMA).rows
    learnt = fitting.prepare(rows, SCHEMA, request.config).split.learnt
    for reference in (str(request.outdir / "bundle"), "1"):
        known = training_rows.find(open_model(reference, workspace.settings), workspace.settings)
        assert known is not None and known.is_complete and known.rows == len(learnt)
        assert set(np.flatnonzero(known.among(rows, SCHEMA)[0])) == set(learnt)


def test_ray_changes_no_score(workspace: Workspace, champion: tuple[TrainingRequest, str]):
    request, _ = champion
    rows = tables.load(request.data, SCHEMA).rows
    local, evaluation = fitting.fit_locally(rows, SCHEMA, request.config)
    mine = Engine(bundle.load(request.outdir / "bundle").detector).score_frame(rows)
    theirs = Engine(local).score_frame(rows)
    np.testing.assert_allclose(mine["score"], theirs["score"], atol=1e-6)
    np.testing.assert_allclose(mine["autoencoder_score"], theirs["autoencoder_score"], atol=1e-6)
    average_precision = json.loads((request.outdir / "metrics.json").read_text())["metrics"]["joined"][
        "average_precision"
    ]
    assert average_precision == pytest.approx(evaluation.metrics["joined"]["average_precision"], abs=1e-6)


def test_mlflow_has_the_complete_training(workspace: Workspace, champion: tuple[TrainingRequest, str]):
    request, _ = champion
    client, settings = workspace.client(), workspace.settings
    version = client.get_model_version_by_alias(settings.model_name, "champion")
    run = client.get_run(version.run_id)
    content = json.loads((request.outdir / "metrics.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.metrics["joined_average_precision"] == content["metrics"]["joined"]["average_precision"]
    named = {
        "forest_roc_auc",
        "autoencoder_precision_at_100",
        "joined_recall_at_budget",
        "head_average_precision_gained",
    }
    assert named <= set(run.data.metrics)
    assert run.data.params["head.members"] == "5"
    assert run.data.params["autoencoder.epochs"] == "3" and run.data.params["schema"] == "transactions"
    text = run.data.tags["mlflow.note.content"]
    assert text.startswith("**Average precision ") and "; test " in text and "autoencoder.epochs=3" in text
    assert version.description == text and version.tags["schema"] == "transactions"
    assert version.tags["average_precision"] == f"{content['metrics']['joined']['average_precision']:.4f}"
    assert promotion.live_threshold(version.tags) is None, "a description is no setting"
    history = client.get_metric_history(run.info.run_id, "autoencoder_validation_error")
    assert [m.step for m in history] == [1, 2, 3]
    assert [m.value for m in history] == [epoch["validation_error"] for epoch in content["epochs"]]
    assert run.inputs.dataset_inputs[0].dataset.digest == tables.fingerprint(request.data)[:36]
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"bundle", "plots", "schema.yaml", "metrics.json", "reference.parquet"} <= artifacts
    opened = open_model(str(version.version), settings)
    fetched, reference = opened.folder, fraud_reference.locate(opened, settings)
    assert reference.read_bytes() == (request.outdir / "reference.parquet").read_bytes()
    opened = open_model(str(request.outdir / "bundle"), settings)
    assert fraud_reference.locate(opened, settings) == request.outdir / "reference.parquet"
    assert bundle.load(fetched).sha256 == content["bundle_sha256"]
    assert not list((settings.state / "training").glob("training-*/")), "a complete training leaves nothing to resume"


def test_no_labels_and_no_mlflow_until_the_second_try(
    workspace: Workspace,
    champion: tuple[TrainingRequest, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """Without labels: an alert budget. Without MLflow: the artifacts stay, and the next try registers them."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    request = workspace.request("unlabelled", data=str(workspace.unlabelled))
    with pytest.raises(RegistryError, match="artifacts are complete"):
        train.train(request, replace(workspace.settings, tracking_uri="http://127.0.0.1:9"))
    threshold = json.loads((request.outdir / "threshold.json").read_text())
    assert threshold["policy"] == "alert_budget"
    sha256 = bundle.load(request.outdir / "bundle").sha256

    with caplog.at_level("INFO"):
        text = train.train(request, workspace.settings)
    assert "from epoch 3 of at most 3" in caplog.text and "epoch 1/3" not in caplog.text
    assert "version 2 as challenger" in text and "average precision" not in text
    score = f"python -m ray_jobs.score --data {workspace.unlabelled} --model challenger --out scored.parquet"
    assert text.endswith(f"\nnext: {score}\n")
    assert versions.champion_version(workspace.settings) == 1
    content = json.loads((request.outdir / "metrics.json").read_text())
    assert content["metrics"]["joined"].keys() == {"alert_rate"}
    assert 0 < content["metrics"]["joined"]["alert_rate"] < 0.05
    assert {path.name for path in (request.outdir / "plots").iterdir()} == {"loss_curve.png", "score_histogram.png"}
    run_id = content["registry"]["run_id"]
    assert len(workspace.client().get_metric_history(run_id, "autoencoder_train_error")) == 3
    assert sha256  # the first try's bundle was whole


@pytest.mark.drill
def test_two_workers_train_one_model(workspace: Workspace, champion: tuple[TrainingRequest, str]):
    single, _ = champion
    request = workspace.request("two", workers=2, should_register=False, config=small_config(head={"use": "never"}))
    text = train.train(request, workspace.settings)
    judge = f"python -m ray_jobs.evaluate --data {workspace.labelled} --model {request.outdir}/bundle"
    assert text.endswith(f"\nnext: {judge}\n")
    assert "registered" not in text and versions.version_of("challenger", workspace.settings) != 3
    errors = [
        [epoch["validation_error"] for epoch in json.loads((folder / "metrics.json").read_text())["epochs"]]
        for folder in (single.outdir, request.outdir)
    ]
    assert len(errors[1]) == 3
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.1)  # other noise, other split of each batch


@pytest.mark.parametrize(("rows", "workers"), [(10, 3), (128, 2), (129, 2), (130, 4), (3, 3)])
def test_workers_take_equally_many_steps(rows: int, workers: int):
    """A worker that takes a step more than the others would wait for them for ever."""
    import torch

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))
    steps = []
    for rank in range(workers):
        training = Training(4, AutoencoderConfig(batch_size=8), rank=rank, world_size=workers)
        taken: list[int] = []
        training.distribute(lambda module, seen=taken: lambda batch: seen.append(len(batch)) or module(batch), list)
        training.module.train = lambda: None  # type: ignore[attr-defined]
        assert np.isfinite(training.run_epoch(x, x).train_error)
        assert min(taken) >= 1
        steps.append(len(taken))
    assert len(set(steps)) == 1


def test_training_makes_do_with_what_others_leave(ray_session: None):
    """Replicas that hold CPUs for good must not keep a training waiting for a whole one."""
    import ray

    from ray_jobs.train import fits

    assert fits.check_resources(2, use_gpu=False) == fits.Resources(2, False, 1.0)
    holder = ray.util.placement_group([{"CPU": 1.5}])
    ray.get(holder.ready())
    try:
        deadline = time.monotonic() + 30  # what is free becomes known with a delay
        while ray.available_resources().get("CPU", 0.0) > 0.5 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert fits.check_resources(1, use_gpu=False).cpus_per_worker == 0.5
        assert fits.check_resources(2, use_gpu=False).cpus_per_worker == 0.25
    finally:
        ray.util.remove_placement_group(holder)


class TestMistakes:
    """Each answer is one line that says what to do; none waits for something that will not happen."""

    def refused(self, workspace: Workspace, kind: type[FraudError], words: str, **changes: object) -> None:
        request = workspace.request("mistakes", should_register=False, **changes)
        with pytest.raises(kind, match=words) as caught:
            train.train(request, workspace.settings)
        assert "\n" not in str(caught.value)
        assert list(request.outdir.iterdir()) == []
        assert not list((workspace.settings.state / "training").glob("training-*/"))

    def table(self, workspace: Workspace, frame: pd.DataFrame) -> str:
        path = workspace.folder / "mistake.csv"
        frame.to_csv(path, index=False)
        return str(path)

    def test_more_workers_than_cpus(self, workspace: Workspace, ray_session: None):
        self.refused(workspace, ConfigError, r"--workers 3 is more than the 2 CPUs.*use at most 2", workers=3)

    def test_gpu_without_a_gpu(self, workspace: Workspace, ray_session: None):
        self.refused(workspace, ConfigError, "has 0: use --no-gpu", use_gpu=True)

    def test_missing_file(self, workspace: Workspace):
        self.refused(workspace, DataError, "does not exist", data=str(workspace.folder / "labeled.csv"))

    def test_all_fraud(self, workspace: Workspace, ray_session: None):
        frame = pd.read_csv(workspace.labelled).drop(index=[11, 12]).assign(is_fraud=1)
        self.refused(workspace, DataError, "labelled fraud", data=self.table(workspace, frame))

    def test_one_row(self, workspace: Workspace, ray_session: None):
        frame = pd.read_csv(workspace.labelled).head(1)
        self.refused(workspace, DataError, "part is empty", data=self.table(workspace, frame))

    def test_one_normal_row(self, workspace: Workspace, ray_session: None):
        frame = simulation.transactions(40, seed=1).assign(is_fraud=[0] + [1] * 24 + [0] * 15)
        self.refused(workspace, DataError, "needs at least 2 rows to fit, got 1", data=self.table(workspace, frame))

    def test_fewer_rows_than_workers(self, tmp_path: Path):
        from ray_jobs.train import fits

        resources, folder = fits.Resources(3, False, 1.0), resume.TrainingFolder(tmp_path)
        matrices = fits.Matrices(None, None, (2, 5))
        with pytest.raises(ConfigError, match="--workers 3 for 2 training rows"):
            fits.fit_autoencoder(matrices, AutoencoderConfig(), 1, resources, folder, lambda line: None)

    def test_the_same_training_twice_at_once(self, workspace: Workspace, ray_session: None):
        request = workspace.request("mistakes", should_register=False)
        name = resume.name_of(tables.fingerprint(request.data), request.schema, request.config, request.workers)
        with exclusive(workspace.settings.state / "training" / f"{name}.lock"):
            self.refused(workspace, ConfigError, r"running already \(process \d+ on .* since")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--set", "autoencoder.epoch=5"], "unknown key 'epoch'; did you mean 'epochs'"),
            (["--set", "autoencoder.epochs"], "write section.key=value"),
            (["--set", "seed.x=1"], "'seed' is a value"),
            (["--set", "autoencoder.lr=-1"], "autoencoder.lr=-1"),
            (["--workers", "0"], "give 1 or more"),
            (["--outdir", "s3://bucket/x"], "must be a local folder"),
            (["--outdir", "labelled.csv/x"], "cannot be written"),
            (["--outdir", "photos"], r"holds other files \(cat.jpg\)"),
            (["--outdir", "paper"], r"holds other files \(metrics.json, plots\)"),
            (["--schema", "transaction"], "did you mean 'transactions'"),
        ],
    )
    def test_command_line(self, workspace: Workspace, arguments: list[str], words: str):
        (workspace.folder / "photos").mkdir(exist_ok=True)
        (workspace.folder / "photos" / "cat.jpg").touch()
        (workspace.folder / "paper" / "plots").mkdir(parents=True, exist_ok=True)
        (workspace.folder / "paper" / "metrics.json").touch()
        with pytest.raises(FraudError, match=words):
            read_request(["--data", "labelled.csv", *arguments], workspace.settings)

    def test_a_training_learns_in_the_zone_that_the_environment_names(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("FRAUD_DAY_ZONE", "Europe/Berlin")
        settings = Settings.from_environment()
        with pytest.raises(ConfigError, match="write `day_zone: Europe/Berlin` into the schema and train with it"):
            read_request(["--data", "cards.parquet", "--schema", "handbook"], settings)
        assert read_request(["--data", "labelled.csv"], settings).schema.name == "transactions", "which has no days"


def test_overrides_replace_settings_in_order():
    config = configure("handbook", 9, ["autoencoder.epochs=5", "autoencoder.hidden=[4, 2]", "forest.max_samples=0.5"])
    assert (config.seed, config.autoencoder.epochs, config.forest.max_samples) == (9, 5, 0.5)
    assert config.autoencoder.hidden == (4, 2) and config.split.test_start == "2018-08-08"


def test_name_depends_on_all_that_changes_the_result():
    config = small_config()
    name = resume.name_of("data", SCHEMA, config, 1)
    assert name == resume.name_of("data", SCHEMA, small_config(), 1)
    others = [
        resume.name_of("other", SCHEMA, config, 1),
        resume.name_of("data", Schema.load("ulb"), config, 1),
        resume.name_of("data", SCHEMA, replace(config, seed=4), 1),
        resume.name_of("data", SCHEMA, config, 2),
    ]
    assert len({name, *others}) == 5


def test_a_checkpoint_that_is_cut_short_is_passed_over(tmp_path: Path):
    import torch

    training = Training(4, AutoencoderConfig(), seed=1)
    x = torch.zeros(20, 4)
    folder = resume.TrainingFolder(tmp_path)
    for number in (1, 2, 3):
        training.run_epoch(x, x)
        file = tmp_path / "attempt-0001" / f"checkpoint_{number}" / resume.STATE_FILE
        file.parent.mkdir(parents=True)
        torch.save(training.state_dict(), file)
    file.write_bytes(file.read_bytes()[:-100])
    state = folder.newest_state()
    assert state is not None and len(state["epochs"]) == 2
    assert folder.new_attempt().name == "attempt-0002"
    assert resume.TrainingFolder(tmp_path / "none").newest_state() is None


@pytest.mark.parametrize(("raised", "status"), [(DataError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_training_that_ends_early_leaves_no_running_run(
    workspace: Workspace, tmp_path: Path, raised: type[BaseException], status: str
):
    checked = tables.load(str(workspace.labelled), SCHEMA)
    request = workspace.request("early")
    with resume.training_folder(tmp_path, "training-x") as folder:
        tracker = tracking.Tracker(workspace.settings, folder)
        with pytest.raises(raised), tracking.ended(tracker):
            tracker.start(request, "ab" * 32, checked)
            raise raised
        assert folder.run_id is not None
        assert workspace.client().get_run(folder.run_id).info.status == status

    with resume.training_folder(tmp_path, "training-x") as folder:  # the same order again goes on with the same run
        run_id = folder.run_id
        tracking.Tracker(workspace.settings, folder).start(request, "ab" * 32, checked)
        assert folder.run_id == run_id and workspace.client().get_run(run_id).info.status == "RUNNING"

        folder.new_attempt()
        tracking.discard(folder, workspace.settings)  # --restart
        assert workspace.client().get_run(run_id).info.status == "KILLED"
        assert list(folder.path.iterdir()) == []
    assert not folder.path.exists()
