"""What serves is set by one command, on a real MLflow with SQLite: forward, back, thresholds, shadow and canary."""

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
from fraud.registry import changes, promotion, runs, versions
from fraud.registry.changes import Change
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from ray_jobs.gate import judge
from ray_jobs.promote.command import main

OVERRIDE = ("--override", "--by", "ann", "--reason", "a test")


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


def refuse(settings: Settings, number: int) -> None:
    """Leave what a gate leaves that refuses a version."""
    tag = {"decision": "refused", "time": "2026-01-31T10:00:00+00:00", "by": "airflow", "failed": ["better"]}
    versions.set_tag(settings, judge.TAG, json.dumps(tag), version=number)


def history(settings: Settings) -> list[Change]:
    registry = versions.registry_state(settings)
    return changes.history(registry.tags, registry.champion.number if registry.champion else None)


def test_promoting_and_rolling_back_twice(three: Settings, capsys: pytest.CaptureFixture[str]):
    assert main(["2", "--override", "--reason", "better", "--by", "ann"]) == 0
    printed = capsys.readouterr().out
    assert "version 2, in place of 1" in printed and "schema      unchanged" in printed
    assert "undo        python -m ray_jobs.promote --rollback, to version 1" in printed
    main(["challenger", "--override", "--by", "bob", "--reason", "newer"])
    assert champion(three) == 3
    main(["--rollback", "--by", "cleo", "--reason", "too many alerts"])
    assert champion(three) == 2
    assert "--rollback, to version 1" in capsys.readouterr().out
    main(["--rollback"])  # in an emergency: without a reason
    assert champion(three) == 1
    assert "--rollback" not in capsys.readouterr().out, "there is nothing to go back to"
    with pytest.raises(RegistryError, match="no previous champion"):
        main(["--rollback"])
    main([])
    printed = capsys.readouterr().out
    assert "champion    version 1" in printed and "challenger  version 3" in printed and "rollback" not in printed
    assert "champion 1 -> 2, promoted by ann: override: better" in printed
    assert "champion 3 -> 2, rolled back by cleo: too many alerts" in printed
    entries = history(three)
    assert [(e.version, e.action) for e in entries] == [
        (1, "promoted"), (2, "promoted"), (3, "promoted"), (2, "rolled back"), (1, "rolled back")
    ]  # fmt: skip
    assert entries[0].reason == "the first version: there was no champion"
    assert entries[1].by == "ann" and all(entry.time.startswith("20") for entry in entries)


def test_a_champion_is_replaced_only_by_the_gate_or_an_override(three: Settings):
    for arguments in (["challenger"], ["2", "--reason", "better", "--by", "ann"], ["2", "--force"]):
        with pytest.raises(ConfigError, match=r"version \d is not judged.*--gate --data FILE.*--override"):
            main(arguments)
    for arguments in (["2", "--override", "--reason", "x"], ["2", "--override", "--by", "ann"]):
        with pytest.raises(ConfigError, match="needs --by NAME and --reason TEXT"):
            main(arguments)
    assert champion(three) == 1 and len(history(three)) == 1


def test_a_champion_promoted_again_stays(three: Settings, capsys: pytest.CaptureFixture[str]):
    assert main(["1"]) == 0 and "version 1 is already champion: nothing changes" in capsys.readouterr().out
    assert champion(three) == 1 and len(history(three)) == 1


def test_a_refused_version_needs_an_override_and_its_refusal_is_shown(
    three: Settings, capsys: pytest.CaptureFixture[str]
):
    refuse(three, 3)
    with pytest.raises(ConfigError, match=r"version 3 was refused by the gate 2026-01-31.*failed: better"):
        main(["challenger"])
    with pytest.raises(ConfigError, match=r"the challenger, was refused.*--override"):
        main(["--canary", "0.05", "--reason", "a try", "--by", "ann"])
    assert not promotion.canary_share(versions.registry_state(three).tags)
    main(["--status"])
    assert "refused by the gate 2026-01-31T10:00:00+00:00 (failed: better)" in capsys.readouterr().out
    main(["--canary", "0.05", *OVERRIDE])
    main(["--canary", "0"])  # ending it needs nobody's leave
    main(["challenger", *OVERRIDE])
    assert champion(three) == 3
    assert [(e.action, e.by) for e in history(three)][1::2] == [("canary", "ann"), ("promoted", "ann")]
    assert all("override: a test (refused by the gate" in e.reason for e in history(three)[1::2])


def test_a_model_without_a_champion_gets_one_without_the_gate(three: Settings, capsys: pytest.CaptureFixture[str]):
    versions.remove_alias("champion", three)
    main(["2"])
    assert champion(three) == 2 and "there is no champion to compare it with" in capsys.readouterr().out


def test_everything_that_changes_what_serves_is_in_one_history(three: Settings, capsys: pytest.CaptureFixture[str]):
    who = ["--by", "ann", "--reason", "a test"]
    for arguments in (
        ["--threshold", "0.61"], ["--reset-threshold"], ["--shadow", "on"], ["--canary", "0.05"], ["--canary", "0"],
        ["--shadow", "off"], ["2", "--override"], ["--rollback"],
    ):  # fmt: skip
        main([*arguments, *who])
    capsys.readouterr()
    main(["--history", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [(e["action"], e["version"], e["before"], e["after"]) for e in listed] == [
        ("promoted", 1, None, 1), ("threshold", 1, 0.5, 0.61), ("threshold", 1, 0.61, 0.5),
        ("shadow", None, "off", "on"), ("canary", None, 0, 0.05), ("canary", None, 0.05, 0),
        ("shadow", None, "on", "off"), ("promoted", 2, 1, 2), ("rolled back", 1, 2, 1),
    ]  # fmt: skip
    assert {e["by"] for e in listed[1:]} == {"ann"} and all("a test" in e["reason"] for e in listed[1:])
    for _ in range(3):
        main(["--shadow", "on"])
    capsys.readouterr()
    main(["--history"])
    assert len(capsys.readouterr().out.splitlines()) == 12
    main([])
    shown = capsys.readouterr().out
    assert "2 earlier: --history" in shown and shown.count("shadow off -> on") == 2
    main(["--status", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["champion"]["version"] == 1 and document["rollback_to"] is None and len(document["history"]) == 12


def test_a_champion_set_by_hand_is_shown_alike_at_each_look(three: Settings, capsys: pytest.CaptureFixture[str]):
    versions.set_alias("champion", 2, three)
    looks = []
    for _ in range(2):
        main([])
        looks.append(capsys.readouterr().out)
    assert looks[0] == looks[1] and "time not recorded          champion 1 -> 2, not recorded by promote" in looks[0]


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
    main(["2", *OVERRIDE])  # nobody has snapshots: there is nothing to compare
    main(["--rollback"])
    was, more = (bundle.load(folder).detector.schema for folder in cards)
    leave_days(settings, was, "2024-02-01", "2024-02-02")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"behind: .* champion's is of 2024-02-02\. .*history build --model 2 --thro"
        ):
            main(["2", *OVERRIDE])
        leave_days(settings, more, "2024-02-01")
    assert champion(settings) == 1
    main(["3", *OVERRIDE])  # the same plans: the live history goes on
    main(["--rollback"])
    main(["2", "--force", *OVERRIDE])
    main(["--rollback"])
    leave_days(settings, more, "2024-02-02")
    main(["2", *OVERRIDE])
    assert champion(settings) == 2
    leave_days(settings, was, "2024-02-03")
    main(["--rollback"])
    assert champion(settings) == 1


def test_a_champion_set_by_hand_is_gone_back_to(three: Settings):
    main(["2", *OVERRIDE])
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
    detector = bundle.load(folder).detector
    parts = {
        name: replace(tail, evidence=np.full_like(tail.evidence, np.nan), slope=np.nan)
        for name in ("joint", "final")
        if (tail := getattr(detector.calibration, name)) is not None
    }
    bundle.save(tmp_path / "nan", replace(detector, calibration=replace(detector.calibration, **parts)))
    with pytest.raises(BundleError, match="gives a typical transaction a NaN score"):
        main([str(registered(three, tmp_path / "nan")), *OVERRIDE])
    version = registered(three, folder)
    versions.set_tag(three, "bundle_sha256", "0" * 64, version=version)
    with pytest.raises(BundleError, match="holds another bundle"):
        main([str(version), *OVERRIDE])
    versions.set_tag(three, "bundle_sha256", None, version=version)
    with pytest.raises(FraudError, match="bundle_sha256"):
        main([str(version)])
    assert champion(three) == 1 and len(history(three)) == 1


def test_another_schema_is_reported(three: Settings, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    detector = bundle.load(folder).detector
    first, *others = detector.schema.columns
    wider = replace(detector.schema, columns=(replace(first, maximum=1e9), *others))
    bundle.save(tmp_path / "wider", replace(detector, schema=wider))
    main([str(registered(three, tmp_path / "wider")), *OVERRIDE])
    assert "schema      changed: same columns, other rules" in capsys.readouterr().out


def test_two_that_promote_at_once_do_not_overwrite_each_other(three: Settings):
    move = Change(action=changes.PROMOTED, version=3, time=promotion.now(), by="bob")
    main(["2", *OVERRIDE])
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
    main(["3", *OVERRIDE])
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
        (["--rollback", "--override", "--by", "ann", "--reason", "x"], "--override belongs to"),
        (["2", "--json"], "--json belongs to"),
        (["--rollback", "--json"], "--json belongs to"),
        (["--rollback", "--reason", "x" * 2001], "2,001 characters"),
        (["2", "--data", "x.parquet"], "--data belongs to --gate"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(three: Settings, arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        main(arguments)
    assert len(history(three)) == len(versions.registry_state(three).tags) == 1


def test_without_a_model_it_says_what_to_do(settings: Settings):
    for arguments in ([], ["--rollback"], ["1"]):
        with pytest.raises(RegistryError):
            main(arguments)


def test_help_has_an_example_of_each_action(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    examples = capsys.readouterr().out.partition("examples:")[2]
    for flag in ("--gate", "--override", "--rollback", "--threshold", "--reset-threshold", "--shadow", "--canary",
                 "--status", "--history"):  # fmt: skip
        assert f" {flag} " in examples, flag
