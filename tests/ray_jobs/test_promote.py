"""What serves is decided by one command, on a real MLflow with SQLite: forward, back, thresholds, shadow and canary."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fraud.data import simulation
from fraud.errors import BundleError, ConfigError, FraudError, RegistryError
from fraud.history.snapshots.days import Snapshots
from fraud.registry import promotion, runs, versions
from fraud.registry.promotion import Promotion
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from ray_jobs import promote
from ray_jobs.promote import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small bundle, threshold 0.5."""
    schema = Schema.load("transactions")
    rows = validate(simulation.transactions(1500, seed=1, fraud_rate=0.05), schema).rows
    config = from_mapping(TrainConfig, {"forest": {"n_estimators": 5}, "autoencoder": {"epochs": 1}})
    detector, _ = fitting.fit_locally(rows, schema, config)
    target = tmp_path_factory.mktemp("bundle") / "b"
    bundle.save(target, replace(detector, threshold=replace(detector.threshold, value=0.5)))
    return target


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests: making its tables takes seconds."""
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture
def settings(store: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    monkeypatch.setenv("FRAUD_MODEL_NAME", request.node.name)
    monkeypatch.setenv("FRAUD_EXPERIMENT", request.node.name)
    return Settings.from_environment()


@pytest.fixture
def three(settings: Settings, folder: Path) -> Settings:
    """Three versions, the first is champion, the third challenger."""
    for _ in range(3):
        registered(settings, folder)
    return settings


def registered(settings: Settings, folder: Path) -> int:
    run = runs.start_run(settings, "test")
    number = versions.register(settings, run, folder).number
    run.finish()
    return number


def champion(settings: Settings) -> int | None:
    return versions.champion_version(settings)


def test_promoting_and_rolling_back_twice(three: Settings, capsys: pytest.CaptureFixture[str]):
    assert main(["2", "--reason", "better", "--by", "ann"]) == 0
    printed = capsys.readouterr().out
    assert "version 2, in place of 1" in printed and "--rollback" in printed and "schema      unchanged" in printed
    assert champion(three) == 2
    main(["challenger", "--by", "bob"])
    assert champion(three) == 3
    main(["--rollback", "--by", "cleo", "--reason", "too many alerts"])
    assert champion(three) == 2
    main(["--rollback"])
    assert champion(three) == 1
    with pytest.raises(RegistryError, match="no previous champion"):
        main(["--rollback"])
    capsys.readouterr()
    main([])
    printed = capsys.readouterr().out
    assert "champion    version 1" in printed and "challenger  version 3" in printed
    assert (
        "version 2 promoted by ann: better" in printed and "version 2 rolled back by cleo: too many alerts" in printed
    )
    entries = promotion.champions(versions.registry_state(three).tags)
    assert [(e.version, e.how) for e in entries] == [
        (1, "found"), (2, "promoted"), (3, "promoted"), (2, "rolled back"), (1, "rolled back")
    ]  # fmt: skip
    assert entries[1].by == "ann" and entries[1].time.startswith("20")


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles with entity history, of which the second remembers more."""
    schema = Schema.load("handbook")
    config = from_mapping(TrainConfig, {"forest": {"n_estimators": 5}, "autoencoder": {"epochs": 1},
                                        "head": {"iterations": 5}})  # fmt: skip
    detector, _ = fitting.fit_locally(validate(simulation.cards(1500, seed=1), schema).rows, schema, config)
    more = replace(detector, schema=replace(schema, history_events=schema.history_events + 5))
    folder = tmp_path_factory.mktemp("cards")
    for name, each in (("1", detector), ("2", more)):
        bundle.save(folder / name, each)
    return folder / "1", folder / "2"


def leave_days(settings: Settings, schema: Schema, *days: str) -> None:
    snapshots = Snapshots.open(settings, schema)
    rows = validate(simulation.cards(20, seed=1), schema).rows
    for day in days:
        at = rows.assign(TX_DATETIME=np.datetime64(f"{day}T10:00", "us"))
        parts = [[snapshots.write_part(i, dt.date.fromisoformat(day), at)] for i in range(len(snapshots.plans))]
        snapshots.publish(dt.date.fromisoformat(day), parts, made_by="test")


def test_a_version_whose_history_is_behind_is_refused(settings: Settings, cards: tuple[Path, Path]):
    for folder in (*cards, cards[0]):
        registered(settings, folder)
    main(["2"])  # nobody has snapshots: there is nothing to compare
    main(["--rollback"])
    was, more = (bundle.load(folder).detector.schema for folder in cards)
    leave_days(settings, was, "2024-02-01", "2024-02-02")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"behind: .* champion's is of 2024-02-02\. .*history build --model 2 --thro"
        ):
            main(["2"])
        leave_days(settings, more, "2024-02-01")
    assert champion(settings) == 1
    main(["3"])  # the same plans: the live history goes on
    main(["--rollback"])
    main(["2", "--force"])
    main(["--rollback"])
    leave_days(settings, more, "2024-02-02")
    main(["2"])
    assert champion(settings) == 2
    leave_days(settings, was, "2024-02-03")
    main(["--rollback"])
    assert champion(settings) == 1


def test_a_champion_set_by_hand_is_gone_back_to(three: Settings):
    main(["2"])
    versions.set_alias("champion", 3, three)
    main(["--rollback"])
    assert champion(three) == 2
    main(["--rollback"])
    assert champion(three) == 1


def test_what_cannot_serve_is_refused(three: Settings, folder: Path, tmp_path: Path):
    with pytest.raises(RegistryError, match="no version 9"):
        main(["9"])
    with pytest.raises(RegistryError, match="no alias 'nobody'"):
        main(["nobody"])
    with pytest.raises(RegistryError, match="version 1 is already champion"):
        main(["1"])
    detector = bundle.load(folder).detector
    parts = {
        name: replace(tail, evidence=np.full_like(tail.evidence, np.nan), slope=np.nan)
        for name in ("joint", "final")
        if (tail := getattr(detector.calibration, name)) is not None
    }
    bundle.save(tmp_path / "nan", replace(detector, calibration=replace(detector.calibration, **parts)))
    with pytest.raises(BundleError, match="gives a typical transaction a NaN score"):
        main([str(registered(three, tmp_path / "nan"))])
    version = registered(three, folder)
    versions.set_tag(three, "bundle_sha256", "0" * 64, version=version)
    with pytest.raises(BundleError, match="the registry recorded"):
        main([str(version)])
    versions.set_tag(three, "bundle_sha256", None, version=version)
    with pytest.raises(FraudError, match="bundle_sha256"):
        main([str(version)])
    assert champion(three) == 1 and promotion.CHAMPIONS not in versions.registry_state(three).tags


def test_another_schema_is_reported(three: Settings, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    detector = bundle.load(folder).detector
    first, *others = detector.schema.columns
    wider = replace(detector.schema, columns=(replace(first, maximum=1e9), *others))
    bundle.save(tmp_path / "wider", replace(detector, schema=wider))
    main([str(registered(three, tmp_path / "wider"))])
    assert "schema      changed: same columns, other rules" in capsys.readouterr().out


def test_two_that_promote_at_once_do_not_overwrite_each_other(three: Settings):
    move = Promotion(version=3, time=promotion.now(), by="bob")
    main(["2"])
    with pytest.raises(RegistryError, match="moved to version 2 meanwhile"):
        versions.move_champion(three, move, expected=1)
    assert champion(three) == 2


def test_a_threshold_is_set_and_reset_with_its_provenance(three: Settings, capsys: pytest.CaptureFixture[str]):
    main(["--threshold", "0.61", "--reason", "more alerts than analysts", "--by", "ann"])
    assert "0.5 -> 0.61" in capsys.readouterr().out
    main(["--threshold", "0.7", "--reason", "still too many"])
    tags = versions.registry_state(three).champion.tags
    live = promotion.live_threshold(tags)
    assert live is not None and (live.value, live.previous, live.reason) == (0.7, 0.61, "still too many")
    main(["--status"])
    assert "0.7 (set 20" in capsys.readouterr().out
    main(["--reset-threshold"])
    assert promotion.live_threshold(versions.registry_state(three).champion.tags) is None
    with pytest.raises(RegistryError, match="already"):
        main(["--reset-threshold"])
    main(["3", "--threshold", "0.2", "--reason", "for the canary"])
    assert json.loads(versions.registry_state(three).challenger.tags["threshold"])["value"] == 0.2
    main(["3"])
    assert "0.5 (the bundle's) -> 0.2 (set" in capsys.readouterr().out


def test_shadow_and_canary_are_tags(three: Settings, capsys: pytest.CaptureFixture[str]):
    main(["--shadow", "on"])
    main(["--canary", "0.05"])
    tags = versions.registry_state(three).tags
    assert promotion.is_shadowed(tags) and promotion.canary_share(tags) == 0.05
    assert "canary      0.05 of the entities" in capsys.readouterr().out
    main(["--shadow", "off"])
    main(["--canary", "0"])
    tags = versions.registry_state(three).tags
    assert not promotion.is_shadowed(tags) and promotion.canary_share(tags) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1.2", "--reason", "x"], "above 0 and below 1"),
        (["--threshold", "nan", "--reason", "x"], "above 0 and below 1"),
        (["--threshold", "0.5"], "needs --reason"),
        (["--threshold", "0.5", "--rollback"], "not allowed with"),
        (["2", "--rollback"], "takes no version"),
        (["2", "--shadow", "on"], "takes no version"),
        (["--canary", "2"], "from 0 to 1"),
        (["--shadow", "maybe"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(three: Settings, arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        main(arguments)
    assert versions.registry_state(three).tags == {}


def test_without_a_model_it_says_what_to_do(settings: Settings):
    for arguments in ([], ["--rollback"], ["1"]):
        with pytest.raises(RegistryError):
            main(arguments)


def test_help_teaches(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        promote.main(["--help"])
    help_text = capsys.readouterr().out
    assert "--rollback" in help_text and "examples:" in help_text and "every replica" in help_text
