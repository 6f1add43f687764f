"""A replica follows the registry: whole answers through a swap, no bad bundle, live thresholds, a start without it."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from fraud.errors import BundleError, ConfigError, RegistryError
from fraud.registry import promotion, runs, versions
from fraud.registry.changes import PROMOTED, Change
from fraud.registry.promotion import LiveThreshold
from fraud.scoring import bundle
from fraud.scoring.detector import Detector
from fraud.settings import Settings
from fraud.settings.serving import WatchSettings
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State, load_model
from serve_app.model.watch import MLFLOW_TIMEOUTS, ModelWatcher
from serve_app.request.models import ModelInfo

Requests = dict[str, Mapping[str, object]]
NOWHERE = "http://127.0.0.1:9"


class Counted:
    """Metrics that remember what they were told."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.failures = 0

    def set_model(self, version: str, sha256: str, loaded_at: float) -> None:
        assert len(sha256) == 64 and loaded_at > 1e9
        self.models.append(version)

    def count_model_failure(self) -> None:
        self.failures += 1


@pytest.fixture
def metrics() -> Counted:
    return Counted()


def variant(folder: Path, target: Path, forest_weight: float, threshold: float) -> Path:
    """A bundle that scores and decides otherwise than the one in `folder`."""
    detector = bundle.load(folder).detector
    return save(
        target,
        replace(
            detector,
            calibration=replace(detector.calibration, forest_weight=forest_weight),
            threshold=replace(detector.threshold, value=threshold),
        ),
    )


def save(target: Path, detector: Detector) -> Path:
    bundle.save(target, detector)
    return target


def registered(settings: Settings, folder: Path) -> int:
    run = runs.start_run(settings, "test")
    version = versions.register(settings, run, folder)
    run.finish()
    return version.number


def promoted(settings: Settings, version: int) -> None:
    versions.set_alias("champion", version, settings)


@pytest.fixture
def two(settings: Settings, bundles: dict[str, Path], tmp_path: Path) -> State:
    """Version 1 of the five columns serves, version 2 is the challenger."""
    for number, weight, threshold in ((1, 0.2, 0.9), (2, 0.8, 0.3)):
        folder = variant(bundles["transactions"], tmp_path / f"v{number}", weight, threshold)
        assert registered(settings, folder) == number
    return State(load_model(settings))


@pytest.fixture
def watcher(two: State, settings: Settings, metrics: Counted) -> ModelWatcher:
    return ModelWatcher(two, settings, metrics=metrics)


def answer_of(model: ServedModel, request: Mapping[str, object], **how: bool) -> dict[str, Any]:
    return model.answer(model.reader.parse(json.dumps(dict(request)).encode()), **how)


def failing(detector: Detector) -> Detector:
    """One that scores everything as NaN."""
    joint = detector.calibration.joint
    broken = replace(joint, evidence=np.full_like(joint.evidence, np.nan), slope=np.nan)
    parts = {"joint": broken}
    if detector.calibration.final is not None:
        parts["final"] = broken
    return replace(detector, calibration=replace(detector.calibration, **parts))


def test_every_answer_of_a_swap_under_load_is_wholly_from_one_version(
    two: State, settings: Settings, metrics: Counted, requests: Requests
):
    request = requests["transactions"]
    ServedModel.from_bundle(bundle.load(versions.fetch(2, settings)), name="x")  # compiled before the clock starts
    answers: list[tuple[str, float, float, bool]] = []
    has_swapped = threading.Event()

    def ask() -> None:
        after = 0
        while len(answers) < 2000 or after < 100:
            model = two.model
            answer = answer_of(model, request)
            answers.append((answer["model_version"], answer["score"], answer["threshold"], answer["is_fraud"]))
            after += has_swapped.is_set()

    watcher = ModelWatcher(two, settings, config=WatchSettings(poll_s=0.1), metrics=metrics)
    watcher.start()
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for thread in askers:
        thread.start()
    versions.move_champion(settings, Change(action=PROMOTED, version=2, time=promotion.now(), by="a test"), expected=1)
    for _ in range(600):
        if two.model.version == "2":
            break
        has_swapped.wait(0.1)
    has_swapped.set()
    for thread in askers:
        thread.join(60)
    watcher.stop()
    assert not any(thread.is_alive() for thread in askers)
    kinds = set(answers)
    assert len(answers) >= 2000 and {kind[0] for kind in kinds} == {"1", "2"}
    assert len(kinds) == 2, "score, threshold and decision belong to the version that the answer names"
    assert {kind[0]: kind[2] for kind in kinds} == {"1": 0.9, "2": 0.3}
    assert metrics.models == ["2"] and metrics.failures == 0


def test_the_watching_thread_ends_when_it_is_told(two: State, settings: Settings):
    watcher = ModelWatcher(two, settings, config=WatchSettings(poll_s=0.1))
    watcher.start()
    (thread,) = [t for t in threading.enumerate() if t.name == "model-watcher"]
    assert thread.daemon
    watcher.stop()
    assert not thread.is_alive()


def test_without_a_period_nothing_is_watched(two: State, settings: Settings):
    ModelWatcher(two, settings, config=WatchSettings.from_environment({"FRAUD_MODEL_POLL_S": "0"})).start()
    assert not [t for t in threading.enumerate() if t.name == "model-watcher"]
    assert WatchSettings.from_environment({}).poll_s == 5
    for wrong in ("soon", "-1", "nan", "0.01", "inf"):
        with pytest.raises(ConfigError, match="FRAUD_MODEL_POLL_S"):
            WatchSettings.from_environment({"FRAUD_MODEL_POLL_S": wrong})


@pytest.mark.parametrize("fault", ["tampered", "format", "nan", "schema", "artifacts gone", "no hash"])
def test_a_bad_bundle_keeps_the_old_one_and_is_said_and_tried_once(
    two: State,
    watcher: ModelWatcher,
    settings: Settings,
    metrics: Counted,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    requests: Requests,
    fault: str,
):
    detector = bundle.load(tmp_path / "v1").detector
    folder = save(tmp_path / "bad", failing(detector) if fault == "nan" else detector)
    if fault == "format":
        manifest = json.loads((folder / "manifest.json").read_text())
        good = dict(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
        sha256 = bundle._sha256(folder / "manifest.json")
        (folder / "manifest.json").write_text(json.dumps(good))
    version = registered(settings, folder)
    stored = next(path for path in settings_artifacts(settings) if in_version(settings, path, version))
    if fault == "tampered":
        with (stored / "arrays.safetensors").open("r+b") as file:
            file.seek(-8, 2)
            file.write(b"tampered")
    elif fault == "format":
        text = json.dumps(json.loads((stored / "manifest.json").read_text()) | {"format_version": 99})
        (stored / "manifest.json").write_text(text)
        versions.set_tag(settings, "bundle_sha256", sha256, version=version)
    elif fault == "schema":
        (stored / "schema.yaml").write_text("name: other\ncolumns: [{name: x, kind: sort of number}]\n")
        manifest = json.loads((stored / "manifest.json").read_text())
        manifest["files"]["schema.yaml"] = bundle._sha256(stored / "schema.yaml")
        (stored / "manifest.json").write_text(json.dumps(manifest))
        versions.set_tag(settings, "bundle_sha256", bundle._sha256(stored / "manifest.json"), version=version)
    elif fault == "artifacts gone":
        shutil.rmtree(stored)
    elif fault == "no hash":
        versions.set_tag(settings, "bundle_sha256", None, version=version)
    before = two.model
    promoted(settings, version)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watcher.poll()
    assert two.model is before and answer_of(two.model, requests["transactions"])["model_version"] == "1"
    assert metrics.failures == 1 and metrics.models == []
    (message,) = [r.getMessage() for r in caplog.records if r.name == "serve_app.model.watch"]
    assert f"version {version} cannot be the champion" in message and "version 1 goes on serving" in message

    promoted(settings, 2)
    watcher.poll()
    assert two.model.version == "2" and metrics.models == ["2"]
    promoted(settings, version)
    watcher.poll()
    assert metrics.failures == 2, "the alias moved: it was tried again"


def settings_artifacts(settings: Settings) -> list[Path]:
    root = Path(settings.tracking_uri.removeprefix("sqlite:///")).parent / "mlartifacts" / settings.experiment
    return list(root.glob("*/artifacts/bundle"))


def in_version(settings: Settings, folder: Path, version: int) -> bool:
    return versions.resolve(version, settings).run_id == folder.parents[1].name


def test_a_refused_version_is_tried_again_soon_and_then_more_and_more_rarely(
    two: State, settings: Settings, metrics: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = 1000.0
    monkeypatch.setattr("serve_app.model.watch.time.monotonic", lambda: now)
    watcher = ModelWatcher(two, settings, config=WatchSettings(retry_s=5.0, longest_retry_s=15.0), metrics=metrics)
    version = registered(settings, save(tmp_path / "bad", failing(bundle.load(tmp_path / "v1").detector)))
    promoted(settings, version)
    tried = []
    for second in range(60):
        now = 1000.0 + second
        before = metrics.failures
        watcher.poll()
        if metrics.failures > before:
            tried.append(second)
    assert tried == [0, 5, 15, 30, 45] and two.model.version == "1"


def test_what_failed_in_passing_serves_at_the_next_try(
    two: State, settings: Settings, metrics: Counted, caplog: pytest.LogCaptureFixture
):
    watcher = ModelWatcher(two, settings, config=WatchSettings(retry_s=0.0), metrics=metrics)
    promoted(settings, 2)
    models = settings.models
    shutil.rmtree(models)
    models.write_text("in the way")
    watcher.poll()
    assert metrics.failures == 1 and two.model.version == "1" and "version 2 cannot be the champion" in caplog.text
    models.unlink()
    watcher.poll()
    assert metrics.failures == 1 and two.model.version == "2"


def test_a_look_ends_soon_when_mlflow_takes_requests_and_answers_none(
    two: State, settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    assert float(MLFLOW_TIMEOUTS["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 5
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", MLFLOW_TIMEOUTS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        ModelWatcher(two, replace(settings, tracking_uri=f"http://127.0.0.1:{port}")).poll()
        silent.setblocking(False)
        asked = 0
        while True:
            try:
                silent.accept()[0].close()
            except BlockingIOError:
                break
            asked += 1
    assert 1 <= asked <= 2, "a look asks, and asks once more"
    assert "version 1 goes on serving" in caplog.text


def test_while_mlflow_is_down_the_model_goes_on(
    two: State, settings: Settings, metrics: Counted, caplog: pytest.LogCaptureFixture, requests: Requests
):
    watcher = ModelWatcher(two, replace(settings, tracking_uri=NOWHERE), metrics=metrics)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            watcher.poll()
    (message,) = [r.getMessage() for r in caplog.records if r.name == "serve_app.model.watch"]
    assert "version 1 goes on serving" in message and "MLFLOW_TRACKING_URI" in message
    assert answer_of(two.model, requests["transactions"])["model_version"] == "1"
    watcher._settings = settings
    promoted(settings, 2)
    with caplog.at_level(logging.INFO):
        watcher.poll()
    assert "answers again" in caplog.text and two.model.version == "2"


def test_without_a_champion_the_model_goes_on(two: State, watcher: ModelWatcher, settings: Settings, caplog):
    versions.remove_alias("champion", settings)
    watcher.poll()
    watcher.poll()
    assert two.model.version == "1"
    assert caplog.text.count("has no 'champion' any more") == 1


def test_without_mlflow_a_replica_begins_with_its_last_good_model(
    two: State, watcher: ModelWatcher, settings: Settings, caplog: pytest.LogCaptureFixture
):
    down = replace(settings, tracking_uri=NOWHERE)
    live = LiveThreshold(value=0.61, by="ann", reason="a test", time=promotion.now(), previous=0.3)
    versions.set_tag(settings, promotion.THRESHOLD, live.to_json(), version=2)
    promoted(settings, 2)
    watcher.poll()
    shutil.rmtree(settings.models)
    with caplog.at_level(logging.WARNING):
        again = load_model(down)
    assert (again.version, again.sha256) == ("2", two.model.sha256)
    assert again.live_threshold == live and again.engine.threshold.value == 0.61
    assert "beginning with the last good model, version 2" in caplog.text
    with pytest.raises(RegistryError):
        load_model(down, reference="1")
    (arrays,) = (settings.state / "serving" / "last_good").glob("*/champion/*/arrays.safetensors")
    arrays.write_bytes(b"damaged")
    with pytest.raises(RegistryError):
        load_model(down)
    load_model(settings)
    assert load_model(down).version == "2", "the damaged copy was made again"


def test_a_replica_that_starts_while_the_champion_is_bad_begins_with_the_last_good_one(
    two: State, settings: Settings, tmp_path: Path
):
    version = registered(settings, save(tmp_path / "bad", failing(bundle.load(tmp_path / "v1").detector)))
    promoted(settings, version)
    assert load_model(settings).version == "1"
    shutil.rmtree(settings.state / "serving")
    with pytest.raises(BundleError, match="gives no finite score for a typical transaction"):
        load_model(settings)


def test_a_threshold_is_set_live_with_its_provenance(
    two: State, watcher: ModelWatcher, settings: Settings, requests: Requests
):
    client = TestClient(create_app(two, ApiKeys()))
    request = dict(requests["transactions"])
    before = client.post("/score", json=request).json()
    value = before["score"] * 0.5
    live = LiveThreshold(value=value, by="ann", reason="fewer misses", time=promotion.now(), previous=0.9)
    versions.set_tag(settings, promotion.THRESHOLD, live.to_json(), version=1)
    detector = two.model.engine.detector
    watcher.poll()
    after = client.post("/score", json=request).json()
    assert two.model.engine.detector is detector, "nothing was loaded"
    assert (after["score"], after["threshold"], after["is_fraud"]) == (before["score"], value, True)
    described = client.get("/model").json()
    ModelInfo.model_validate(described)
    threshold = described["threshold"]
    assert {name: threshold[name] for name in ("value", "by", "reason", "time", "previous")} == live.to_dict()
    assert threshold["bundle"] == detector.threshold.to_dict() and threshold["bundle"]["value"] == 0.9

    versions.set_tag(settings, promotion.THRESHOLD, None, version=1)
    watcher.poll()
    assert client.post("/score", json=request).json() == before
    assert client.get("/model").json()["threshold"]["value"] == 0.9


MALFORMED = ["0.5", "{", '{"value": 1}', '{"value": NaN}', '{"value": "0.5"}', '{"valeu": 0.5}', "[" * 4_000]
MALFORMED += ['{"value": 0.5, "by": 3}', '{"value": 0.5, "extra": 3}']


@pytest.mark.parametrize("tag", MALFORMED, ids=range(9))
def test_a_malformed_threshold_changes_nothing(
    two: State, watcher: ModelWatcher, settings: Settings, metrics: Counted, tag: str
):
    versions.set_tag(settings, promotion.THRESHOLD, LiveThreshold(value=0.61).to_json(), version=1)
    watcher.poll()
    assert two.model.engine.threshold.value == 0.61
    versions.set_tag(settings, promotion.THRESHOLD, tag, version=1)
    watcher.poll()
    watcher.poll()
    assert two.model.engine.threshold.value == 0.61 and metrics.failures == 1
    assert load_model(settings).engine.threshold.value == 0.9, "a start knows nothing but the bundle's"


def test_shadow_and_canary_are_switched_by_tags(
    two: State, watcher: ModelWatcher, settings: Settings, metrics: Counted
):
    watcher.poll()
    assert (two.challenger, two.shadow, two.canary_share) == (None, False, 0.0)
    versions.set_tag(settings, promotion.SHADOW, "on")
    watcher.poll()
    assert two.challenger is not None and (two.challenger.version, two.shadow, two.canary_share) == ("2", True, 0.0)
    challenger = two.challenger
    versions.set_tag(settings, promotion.CANARY_SHARE, "0.05")
    versions.set_tag(settings, promotion.THRESHOLD, LiveThreshold(value=0.45).to_json(), version=2)
    watcher.poll()
    assert (two.shadow, two.canary_share) == (True, 0.05)
    assert two.challenger.engine.detector is challenger.engine.detector
    assert two.challenger.engine.threshold.value == 0.45
    for key, value in ((promotion.CANARY_SHARE, "half"), (promotion.CANARY_SHARE, "1.5"), (promotion.SHADOW, "maybe")):
        versions.set_tag(settings, key, value)
        watcher.poll()
        assert (two.shadow, two.canary_share) == (True, 0.05), "what was set before holds"
    assert metrics.failures == 3
    versions.set_tag(settings, promotion.SHADOW, "off")
    versions.set_tag(settings, promotion.CANARY_SHARE, None)
    watcher.poll()
    assert (two.challenger, two.shadow, two.canary_share) == (None, False, 0.0)


def test_a_bad_challenger_is_switched_off_and_the_champion_untouched(
    two: State, watcher: ModelWatcher, settings: Settings, metrics: Counted, tmp_path: Path
):
    versions.set_tag(settings, promotion.SHADOW, "on")
    versions.set_tag(settings, promotion.CANARY_SHARE, "0.5")
    watcher.poll()
    assert two.challenger is not None
    registered(settings, save(tmp_path / "bad", failing(bundle.load(tmp_path / "v1").detector)))
    for _ in range(2):
        watcher.poll()
    assert (two.challenger, two.shadow, two.canary_share) == (None, False, 0.0)
    assert metrics.failures == 1 and two.model.version == "1"
    versions.remove_alias("challenger", settings)
    watcher.poll()
    assert two.challenger is None


def test_a_promoted_challenger_is_not_loaded_again(two: State, watcher: ModelWatcher, settings: Settings):
    versions.set_tag(settings, promotion.SHADOW, "on")
    watcher.poll()
    challenger = two.challenger
    promoted(settings, 2)
    watcher.poll()
    assert two.model is challenger and (two.challenger, two.shadow) == (None, False)
    promoted(settings, 1)
    watcher.poll()
    assert two.model.version == "1" and two.challenger is not None and two.challenger.version == "2"


@pytest.fixture
def cards(settings: Settings, bundles: dict[str, Path], tmp_path: Path) -> Iterator[State]:
    """Version 1 with entity history serves; 2 remembers the same, 3 remembers more of each entity."""
    detector = bundle.load(bundles["handbook"]).detector
    more = replace(detector, schema=replace(detector.schema, history_events=detector.schema.history_events + 5))
    for number, folder in enumerate(
        (bundles["handbook"], variant(bundles["handbook"], tmp_path / "2", 0.7, 0.4), save(tmp_path / "3", more)), 1
    ):
        assert registered(settings, folder) == number
    yield State(load_model(settings))


def seen(model: ServedModel, request: Mapping[str, object]) -> float:
    """How many transactions of the request's customer the engine sees in the last day."""
    names = list(model.engine.detector.features.names)
    raw = model.engine.encode_row(model.reader.parse(json.dumps(dict(request)).encode()))
    return float(raw[names.index("count by CUSTOMER_ID (1d)")])


def test_the_live_history_survives_a_swap_that_remembers_the_same(
    cards: State, settings: Settings, requests: Requests, caplog: pytest.LogCaptureFixture
):
    watcher = ModelWatcher(cards, settings)
    first = {**requests["handbook"], "TX_DATETIME": "2025-09-01T10:15:00", "CUSTOMER_ID": "somebody new"}
    second = first | {"TRANSACTION_ID": 18, "TX_DATETIME": "2025-09-01T10:16:00"}
    answer_of(cards.model, first)
    before = cards.model
    assert seen(before, second) == 1
    promoted(settings, 2)
    watcher.poll()
    assert cards.model.version == "2" and seen(cards.model, second) == 1
    assert cards.model.shares_history_with(before)
    answer_of(before, second)
    third = first | {"TRANSACTION_ID": 19, "TX_DATETIME": "2025-09-01T10:17:00"}
    assert seen(cards.model, third) == 2, "what the old model still answers is not lost"

    with caplog.at_level(logging.WARNING):
        promoted(settings, 3)
        watcher.poll()
    assert cards.model.version == "3" and not cards.model.shares_history_with(before)
    assert seen(cards.model, third) == 0 and "of CUSTOMER_ID, TERMINAL_ID from bundle" in caplog.text
    assert cards.model.history is not None
    cards.model.history.close()
    assert load_model(settings).version == "3"


def test_a_challenger_shares_the_history_that_it_understands(cards: State, settings: Settings):
    watcher = ModelWatcher(cards, settings)
    versions.set_tag(settings, promotion.SHADOW, "on")
    watcher.poll()
    assert cards.challenger is not None and cards.challenger.version == "3"
    assert not cards.challenger.shares_history_with(cards.model)
    versions.set_alias("challenger", 2, settings)
    watcher.poll()
    assert cards.challenger.version == "2" and cards.challenger.shares_history_with(cards.model)
    assert cards.challenger.engine.store is cards.model.engine.store
    promoted(settings, 3)
    watcher.poll()
    assert cards.model.version == "3" and cards.challenger is not None
    assert not cards.challenger.shares_history_with(cards.model)
    assert cards.challenger.engine.store is not cards.model.engine.store
