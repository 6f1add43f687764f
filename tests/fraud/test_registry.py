"""Runs, versions, aliases and fetched bundles, on a real MLflow with SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fraud import bundle, fitting, registry, simulate
from fraud.config import TrainConfig, from_mapping
from fraud.errors import BundleError, RegistryError
from fraud.schema import Schema, validate
from fraud.settings import Settings


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles of different detectors."""
    folder = tmp_path_factory.mktemp("bundles")
    schema = Schema.load("transactions")
    rows = validate(simulate.transactions(1500, seed=1, fraud_rate=0.05), schema).rows
    made = []
    for seed in (1, 2):
        config = from_mapping(TrainConfig, {"seed": seed, "forest": {"n_estimators": 5}, "autoencoder": {"epochs": 1}})
        detector, _ = fitting.fit_locally(rows, schema, config)
        bundle.save(folder / str(seed), detector)
        made.append(folder / str(seed))
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests: making its tables takes seconds. Each test has names of its own in it."""
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture
def settings(store: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    name = request.node.name
    return replace(Settings.from_environment(), tracking_uri=f"sqlite:///{store}", experiment=name, model_name=name)


def registered(settings: Settings, folder: Path) -> registry.Version:
    run = registry.start_run(settings, "test")
    version = registry.register(settings, run, folder)
    run.finish()
    return version


def client(settings: Settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def test_a_run_keeps_what_is_logged(settings: Settings, store: Path, tmp_path: Path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"png")
    run = registry.start_run(settings, "a training", {"colour": "red"})
    run.log_parameters({f"part.{i}": i for i in range(150)})
    run.log_metrics({"joined_average_precision": 0.5})
    for epoch in (1, 2):
        run.log_metrics({"validation_error": 1 / epoch}, step=epoch)
    run.log_folder(tmp_path / "plots", "plots")
    run.log_text("name: x", "schema.yaml")
    run.log_dataset(name="transactions", path="data/x.csv", fingerprint="ab" * 32, columns={"amount": "double"}, rows=9)
    run.finish()
    found = client(settings).get_run(run.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "a training"
    assert len(found.data.params) == 150 and found.data.params["part.149"] == "149"
    assert found.data.metrics == {"joined_average_precision": 0.5, "validation_error": 0.5}
    assert found.data.tags["colour"] == "red"
    assert [m.step for m in client(settings).get_metric_history(run.run_id, "validation_error")] == [1, 2]
    assert {a.path for a in client(settings).list_artifacts(run.run_id)} == {"plots", "schema.yaml"}
    (dataset,) = [given.dataset for given in found.inputs.dataset_inputs]
    assert dataset.digest == ("ab" * 32)[:36]
    assert json.loads(dataset.source) == {"uri": "data/x.csv"} and json.loads(dataset.profile) == {"num_rows": 9}
    assert (store.parent / "mlartifacts" / settings.experiment / run.run_id / "artifacts" / "plots" / "a.png").exists()
    assert not Path("mlruns").exists()


def test_a_run_can_be_continued(settings: Settings):
    run = registry.start_run(settings, "first half")
    run.finish("KILLED")
    again = registry.continue_run(settings, run.run_id)
    assert again == run
    assert client(settings).get_run(run.run_id).info.status == "RUNNING"
    assert registry.continue_run(settings, "0" * 32) is None


def test_first_version_is_champion_later_ones_challengers(settings: Settings, bundles: list[Path]):
    assert registry.champion_version(settings) is None
    first, second, third = (registered(settings, folder) for folder in (bundles[0], bundles[1], bundles[0]))
    assert (first.number, first.alias) == (1, "champion")
    assert (second.number, second.alias) == (2, "challenger")
    assert (third.number, third.alias) == (3, "challenger")
    assert registry.champion_version(settings) == 1
    assert registry.version_of("challenger", settings) == 3
    registry.set_alias("champion", 2, settings)
    assert registry.champion_version(settings) == 2
    registry.remove_alias("challenger", settings)
    assert registry.version_of("challenger", settings) is None
    tags = client(settings).get_model_version(settings.model_name, "1").tags
    assert tags["bundle_sha256"] == bundle.load(bundles[0]).sha256


def test_fetch_gives_the_registered_bundle_and_keeps_it(settings: Settings, bundles: list[Path]):
    for folder in bundles:
        registered(settings, folder)
    for reference, source in (("champion", bundles[0]), ("challenger", bundles[1]), (2, bundles[1]), ("1", bundles[0])):
        fetched = registry.fetch(reference, settings)
        assert bundle.load(fetched).sha256 == bundle.load(source).sha256
        assert fetched.parent == settings.state / "models"
    assert registry.fetch("champion", settings).name == "1"
    stamp = (registry.fetch("champion", settings) / "manifest.json").stat().st_mtime_ns
    assert (registry.fetch("champion", settings) / "manifest.json").stat().st_mtime_ns == stamp
    registry.set_alias("champion", 2, settings)
    assert registry.fetch("champion", settings).name == "2"


def test_a_damaged_copy_is_fetched_again(settings: Settings, bundles: list[Path]):
    registered(settings, bundles[0])
    copy = registry.fetch("champion", settings)
    (copy / "threshold.json").write_text("{}")
    assert bundle.load(registry.fetch("champion", settings)).sha256 == bundle.load(bundles[0]).sha256


def test_a_bundle_swapped_in_the_store_is_refused(settings: Settings, bundles: list[Path]):
    version = registered(settings, bundles[0])
    registry.register(settings, registry.Run(settings, version.run_id), bundles[1])  # same run, same artifact path
    with pytest.raises(BundleError, match="the registry recorded"):
        registry.fetch(1, settings)
    assert registry.fetch(2, settings).name == "2"


def test_unknown_references_say_what_is_missing(settings: Settings, bundles: list[Path]):
    with pytest.raises(RegistryError, match="no alias 'champion'"):
        registry.fetch("champion", settings)
    registered(settings, bundles[0])
    with pytest.raises(RegistryError, match="no alias 'challenger'"):
        registry.fetch("challenger", settings)
    with pytest.raises(RegistryError, match="no version 9"):
        registry.fetch(9, settings)
    with pytest.raises(RegistryError, match="setting 'champion' to version 9"):
        registry.set_alias("champion", 9, settings)


def test_version_without_a_recorded_hash_is_refused(settings: Settings, bundles: list[Path]):
    version = registered(settings, bundles[0])
    client(settings).delete_model_version_tag(settings.model_name, "1", "bundle_sha256")
    assert version.number == 1
    with pytest.raises(RegistryError, match="bundle_sha256"):
        registry.fetch("champion", settings)


def test_unreachable_store_serves_the_last_copy_with_a_warning(
    settings: Settings, bundles: list[Path], caplog: pytest.LogCaptureFixture
):
    registered(settings, bundles[0])
    copy = registry.fetch("champion", settings)
    down = replace(settings, tracking_uri="http://127.0.0.1:9")
    with caplog.at_level("WARNING"):
        assert registry.fetch("champion", down) == copy
    assert "using version 1" in caplog.text
    with pytest.raises(registry.RegistryUnreachableError, match="MLFLOW_TRACKING_URI"):
        registry.fetch("challenger", down)
    (copy / "threshold.json").write_text("{}")
    with pytest.raises(BundleError):
        registry.fetch("champion", down)


def test_unusable_stores_give_one_line(settings: Settings, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for uri in ("http://127.0.0.1:9", f"sqlite:///{tmp_path}/file/mlflow.db", "nonsense://x"):
        with pytest.raises(RegistryError) as caught:
            registry.start_run(replace(settings, tracking_uri=uri), "x")
        assert "MLFLOW_TRACKING_URI" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RegistryError) as caught:
        registry.start_run(replace(settings, tracking_uri="http://someone:secret@127.0.0.1:9"), "x")
    assert "secret@" not in str(caught.value).split(";")[0].split("(")[0]


@pytest.mark.slow
def test_many_processes_can_create_one_store_at_once():
    settings = Settings.from_environment()  # a store that does not exist yet
    code = (
        "from fraud import registry; from fraud.settings import Settings; "
        "run = registry.start_run(Settings.from_environment(), 'together'); run.finish()"
    )
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    experiment = client(settings).get_experiment_by_name(settings.experiment)
    runs = client(settings).search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
