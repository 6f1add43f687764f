"""Versions, aliases and fetched bundles, on a real MLflow with SQLite."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from fraud.data import simulation
from fraud.errors import BundleError, RegistryError, RegistryUnreachableError
from fraud.registry import changes, runs, versions
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles of different detectors."""
    folder = tmp_path_factory.mktemp("bundles")
    schema = Schema.load("transactions")
    rows = validate(simulation.transactions(1500, seed=1, fraud_rate=0.05), schema).rows
    made = []
    for seed in (1, 2):
        config = from_mapping(TrainConfig, {"seed": seed, "forest": {"n_estimators": 5}, "autoencoder": {"epochs": 1}})
        detector, _ = fitting.fit_locally(rows, schema, config)
        bundle.save(folder / str(seed), detector)
        made.append(folder / str(seed))
    return made


def registered(settings: Settings, folder: Path) -> versions.Version:
    run = runs.start_run(settings, "test")
    version = versions.register(settings, run, folder)
    run.finish()
    return version


def client(settings: Settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def test_first_version_is_champion_later_ones_challengers(settings: Settings, bundles: list[Path]):
    assert versions.champion_version(settings) is None
    first, second, third = (registered(settings, folder) for folder in (bundles[0], bundles[1], bundles[0]))
    assert (first.number, first.alias) == (1, "champion")
    assert (second.number, second.alias) == (2, "challenger")
    assert (third.number, third.alias) == (3, "challenger")
    assert versions.champion_version(settings) == 1
    assert versions.version_of("challenger", settings) == 3
    versions.set_alias("champion", 2, settings)
    assert versions.champion_version(settings) == 2
    versions.remove_alias("challenger", settings)
    assert versions.version_of("challenger", settings) is None
    tags = client(settings).get_model_version(settings.model_name, "1").tags
    assert tags["bundle_sha256"] == bundle.load(bundles[0]).sha256


def test_a_version_has_a_description_and_tags(settings: Settings, bundles: list[Path]):
    run = runs.start_run(settings, "described")
    version = versions.register(settings, run, bundles[0], {"schema": "cards"}, "**AP 0.7** on May")
    described = client(settings).get_model_version(settings.model_name, str(version.number))
    assert described.description == "**AP 0.7** on May" and described.tags["schema"] == "cards"
    assert "champion" in client(settings).get_registered_model(settings.model_name).description
    assert versions.version_page(settings, 1) == ""


def test_fetch_gives_the_registered_bundle_and_keeps_it(settings: Settings, bundles: list[Path]):
    for folder in bundles:
        registered(settings, folder)
    for reference, source in (("champion", bundles[0]), ("challenger", bundles[1]), (2, bundles[1]), ("1", bundles[0])):
        fetched = versions.fetch(reference, settings)
        assert bundle.load(fetched).sha256 == bundle.load(source).sha256
        assert fetched.parent == settings.models
    assert versions.fetch("champion", settings).name == "1"
    stamp = (versions.fetch("champion", settings) / "manifest.json").stat().st_mtime_ns
    assert (versions.fetch("champion", settings) / "manifest.json").stat().st_mtime_ns == stamp
    versions.set_alias("champion", 2, settings)
    assert versions.fetch("champion", settings).name == "2"


def test_versions_of_two_models_with_one_number_do_not_mix(settings: Settings, bundles: list[Path]):
    other = replace(settings, model_name=f"{settings.model_name}-other")
    registered(settings, bundles[0])
    registered(other, bundles[1])
    for model, source in ((settings, bundles[0]), (other, bundles[1])):
        assert bundle.load(versions.fetch("champion", model)).sha256 == bundle.load(source).sha256
    for model, source in ((settings, bundles[0]), (other, bundles[1])):  # each from its own copy
        down = replace(model, tracking_uri="http://127.0.0.1:9")
        assert bundle.load(versions.fetch("champion", down)).sha256 == bundle.load(source).sha256


def test_a_copy_of_another_registry_is_replaced_without_alarm(
    settings: Settings, bundles: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    other = replace(settings, tracking_uri=f"sqlite:///{tmp_path}/other.db")  # the same name, number and folder
    registered(settings, bundles[0])
    registered(other, bundles[1])
    with caplog.at_level(logging.INFO):
        for registry, source in ((settings, bundles[0]), (other, bundles[1]), (settings, bundles[0])):
            assert bundle.load(versions.fetch("champion", registry)).sha256 == bundle.load(source).sha256
    ours = [record for record in caplog.records if record.name == "fraud.registry.versions"]
    assert len(ours) == 2 and all("copy of another registry's version" in record.message for record in ours)
    assert {record.levelname for record in ours} == {"INFO"}


def test_a_damaged_copy_is_fetched_again(settings: Settings, bundles: list[Path]):
    registered(settings, bundles[0])
    copy = versions.fetch("champion", settings)
    (copy / "threshold.json").write_text("{}")
    assert bundle.load(versions.fetch("champion", settings)).sha256 == bundle.load(bundles[0]).sha256


def test_a_bundle_swapped_in_the_store_is_refused(settings: Settings, bundles: list[Path]):
    version = registered(settings, bundles[0])
    versions.register(settings, runs.Run(settings, version.run_id), bundles[1])  # same run, same artifact path
    with pytest.raises(BundleError, match="holds another bundle"):
        versions.fetch(1, settings)
    assert versions.fetch(2, settings).name == "2"


@pytest.mark.parametrize("code", ["INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INTERNAL_ERROR"])
def test_an_error_of_mlflow_is_not_taken_for_an_absent_alias(
    settings: Settings, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, code: str
):
    """Whatever its words are: an absent champion would be replaced by the next version that is registered."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    registered(settings, bundles[0])

    def refuse(*_: object) -> None:
        raise MlflowException("Registered model alias is not to be had", ErrorCode.Value(code))

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", refuse)
    with pytest.raises(RegistryError, match="is not to be had"):
        versions.champion_version(settings)
    with pytest.raises(RegistryError, match="is not to be had"):
        registered(settings, bundles[1])
    if code == "INVALID_PARAMETER_VALUE":
        assert versions.version_of("nobody", settings) is None, "the model's own list of aliases says so"


def test_errors_of_unknown_references_name_what_is_missing(settings: Settings, bundles: list[Path]):
    with pytest.raises(RegistryError, match="no alias 'champion'"):
        versions.fetch("champion", settings)
    registered(settings, bundles[0])
    with pytest.raises(RegistryError, match="no alias 'challenger'"):
        versions.fetch("challenger", settings)
    with pytest.raises(RegistryError, match="no version 9"):
        versions.fetch(9, settings)
    with pytest.raises(RegistryError, match="setting 'champion' to version 9"):
        versions.set_alias("champion", 9, settings)


def test_version_without_a_recorded_hash_is_refused(settings: Settings, bundles: list[Path]):
    version = registered(settings, bundles[0])
    client(settings).delete_model_version_tag(settings.model_name, "1", "bundle_sha256")
    assert version.number == 1
    with pytest.raises(RegistryError, match="bundle_sha256"):
        versions.fetch("champion", settings)


def test_unreachable_store_serves_the_last_copy_with_a_warning(
    settings: Settings, bundles: list[Path], caplog: pytest.LogCaptureFixture
):
    registered(settings, bundles[0])
    copy = versions.fetch("champion", settings)
    down = replace(settings, tracking_uri="http://127.0.0.1:9")
    with caplog.at_level("WARNING"):
        assert versions.fetch("champion", down) == copy
    assert "using version 1" in caplog.text
    with pytest.raises(RegistryUnreachableError, match="MLFLOW_TRACKING_URI"):
        versions.fetch("challenger", down)
    (copy / "threshold.json").write_text("{}")
    with pytest.raises(BundleError):
        versions.fetch("champion", down)


def test_registry_state_returns_champion_challenger_and_tags(settings: Settings, bundles: list[Path]):
    assert versions.registry_state(settings) == versions.RegistryState(None, None, {})
    first, second = (registered(settings, folder) for folder in bundles)
    versions.set_tag(settings, "threshold", "x", version=1)
    state = versions.registry_state(settings)
    assert state.champion is not None and state.challenger is not None
    assert (state.champion.number, state.champion.sha256, state.champion.tags["threshold"]) == (1, first.sha256, "x")
    assert (state.challenger.number, state.challenger.sha256) == (2, second.sha256)
    [first_change] = changes.history(state.tags, 1)
    assert (first_change.action, first_change.before, first_change.after) == ("promoted", None, 1)
    assert len(state.tags) == 1
    assert versions.fetch_version(state.challenger, settings).name == "2"
    assert versions.registry_state(settings, 2).champion == state.challenger
    assert (
        versions.registry_state(settings, 9).champion is None
        and versions.registry_state(settings, "nobody").champion is None
    )
    assert versions.registry_state(settings, with_idle_challenger=False).challenger is None
    for key, value in (("shadow", "on"), ("shadow", "maybe"), ("canary_share", "0.1")):
        versions.set_tag(settings, key, value)
        assert versions.registry_state(settings, with_idle_challenger=False).challenger == state.challenger
        versions.set_tag(settings, key, None)
    versions.set_tag(settings, "threshold", None, version=1)
    champion = versions.registry_state(settings).champion
    assert champion is not None and "threshold" not in champion.tags
