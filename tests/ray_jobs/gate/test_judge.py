"""The gate on a real registry: what is better is promoted, everything else refused, and both are written down."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import ConfigError, RegistryError
from fraud.judging.gate_limits import GateLimits
from fraud.registry import changes, promotion, runs, versions
from fraud.schema import Schema, validate
from fraud.schema.columns import Column
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from ray_jobs.gate import judge
from ray_jobs.promote.command import main

ROWS = 12_000
QUICK = ["--resamples", "100"]
PATIENT = GateLimits(latency_budget_ms=1000)
FORGIVING = ["--latency-budget-ms", "1000"]  # a busy machine decides nothing here


def schema_with(**amount: object) -> Schema:
    columns = (
        Column(name="id", kind="id"),
        Column(name="time", kind="timestamp"),
        Column(name="card", kind="entity"),
        Column(name="channel", kind="categorical", categories=("shop", "web")),
        Column(name="amount", kind="numeric", **{"minimum": 0, **amount}),
        Column(name="risk", kind="numeric"),
        Column(name="speed", kind="numeric"),
        Column(name="is_fraud", kind="label"),
    )
    return Schema(name="gate", columns=columns, label_delay_days=2)


def transactions(seed: int = 1) -> pd.DataFrame:
    """60 days; one row in 30 is fraud, with a higher risk in shops, a higher speed on the web."""
    rng = np.random.default_rng(seed)
    fraud, web = rng.random(ROWS) < 1 / 30, rng.random(ROWS) < 0.35
    return pd.DataFrame(
        {
            "id": np.arange(ROWS).astype(str),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.random(ROWS)) * 60, unit="D"),
            "card": rng.integers(0, 3000, ROWS).astype(str),
            "channel": np.where(web, "web", "shop"),
            "amount": np.exp(rng.normal(3, 1, ROWS)).round(2),
            "risk": rng.normal(0, 1, ROWS) + 2.6 * (fraud & ~web),
            "speed": rng.normal(0, 1, ROWS) + 2.6 * (fraud & web),
            "is_fraud": fraud.astype(int),
        }
    )


@dataclass(frozen=True)
class Workspace:
    """The data, and the bundles made from them by name."""

    folder: Path

    def bundle(self, name: str, relabel: Callable[[pd.DataFrame], object] | None = None, **changes: object) -> Path:
        """A bundle trained once a session; relabel: gives the labels it is trained with."""
        target = self.folder / name
        if not target.exists():
            head = changes.pop("head", HeadConfig(members=2, iterations=40, use="always"))
            schema = changes.pop("schema", schema_with())
            config = TrainConfig(
                forest=ForestConfig(n_estimators=20), autoencoder=AutoencoderConfig(epochs=2, batch_size=256),
                split=SplitConfig(train=0.5, validation=0.2, test=0.3, delay_days=2), head=head, **changes,
            )  # fmt: skip
            frame = pd.read_parquet(self.data)
            if relabel is not None:
                frame["is_fraud"] = np.asarray(relabel(frame)).astype(int)
            rows = validate(frame, schema).rows
            detector, evaluation = fitting.fit_locally(rows, schema, config)
            windows = [dataclasses.asdict(window) for window in fitting.prepare(rows, schema, config).windows]
            plain = json.loads(json.dumps(config.to_dict()))
            fingerprint = tables.fingerprint(str(self.data)) if relabel is None else None
            bundle.save(target, detector, metrics=evaluation.metrics, data_fingerprint=fingerprint, windows=windows,
                        config=plain)  # fmt: skip
        return target

    @property
    def data(self) -> Path:
        return self.folder / "labelled.parquet"

    def good(self) -> Path:
        return self.bundle("good")

    def weak(self) -> Path:
        """It has learnt from no label."""
        return self.bundle("weak", head=HeadConfig(use="never"), forest_weight=0.5)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("gate")
    transactions().to_parquet(folder / "labelled.parquet", index=False)
    return Workspace(folder)


@pytest.fixture
def settings(store: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    name = request.node.name.replace("[", ".").rstrip("]")
    for key, value in {
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}", "FRAUD_MODEL_NAME": name, "FRAUD_EXPERIMENT": name,
        "FRAUD_ROOT": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    return Settings.from_environment()


def register(settings: Settings, *folders: Path) -> None:
    """The first becomes champion, the last challenger."""
    for folder in folders:
        run = runs.start_run(settings, "test")
        versions.register(settings, run, folder)
        run.finish()


def judged(settings: Settings, workspace: Workspace, *more: str) -> dict:
    out = settings.locate("gate/record.json")
    arguments = [
        "challenger",
        "--gate",
        "--data",
        str(workspace.data),
        "--out",
        out,
        "--by",
        "ann",
        *QUICK,
        *FORGIVING,
        *more,
    ]
    assert main(arguments) == 0
    return json.loads(Path(out).read_text())


def passed(document: dict) -> dict[str, bool | None]:
    return {check["name"]: check["passed"] for check in document["checks"]}


def test_a_better_model_is_promoted_in_writing(
    workspace: Workspace, settings: Settings, capsys: pytest.CaptureFixture[str]
):
    register(settings, workspace.weak(), workspace.good())
    record = judged(settings, workspace)
    assert record["decision"] == "promoted" and not record["failed"] and None not in passed(record).values()
    assert versions.champion_version(settings) == 2
    printed = capsys.readouterr().out
    assert printed.startswith("promoted: version 2, in place of 1") and "better: average precision" in printed
    # Rows that neither learnt from: the challenger's test window, which begins a label's delay after validation.
    windows = {window["name"]: window for window in record["challenger"]["windows"]}
    assert (
        windows["validation"]["end"] < record["window"]["start"] and record["window"]["rows"] == windows["test"]["rows"]
    )
    assert record["data"]["fingerprint"] == tables.fingerprint(str(workspace.data)) and record["by"] == "ann"
    entry = changes.history(versions.registry_state(settings).tags, None)[-1]
    assert entry.version == 2 and entry.by == "ann" and entry.reason.startswith("gate: average precision")
    version = versions.registry_state(settings).champion
    assert json.loads(version.tags["gate"])["decision"] == "promoted"
    with runs.mlflow_client(settings, "looking") as client:
        run = client.get_run(version.run_id)
        names = [file.path for file in client.list_artifacts(version.run_id, "gate")]
    assert run.data.tags["gate_decision"] == "promoted" and run.data.tags["gate_by"] == "ann"
    assert run.data.metrics["gate_average_precision_difference_low"] > 0
    assert [Path(name).suffix for name in sorted(names)] == [".html", ".json"]
    page = Path(settings.locate("gate/record.html")).read_text()
    assert "Version 2 is champion, in place of version 1" in page and "money caught within the budget" in page

    # The same again: nothing is judged, and the record stays.
    assert judged(settings, workspace) == record and "already champion" in capsys.readouterr().out


def test_an_equal_model_is_refused(workspace: Workspace, settings: Settings):
    register(settings, workspace.good(), workspace.bundle("twin", seed=8))
    record = judged(settings, workspace)
    assert (
        record["decision"] == "refused" and record["failed"] == ["better"] and versions.champion_version(settings) == 1
    )
    assert json.loads(versions.registry_state(settings).challenger.tags["gate"])["failed"] == ["better"]
    refused = changes.history(versions.registry_state(settings).tags, 1)[-1]
    assert (refused.action, refused.version, refused.by, refused.after) == ("refused", 2, "ann", 1)
    assert "better" in refused.reason
    with pytest.raises(ConfigError, match=r"version 2 was refused by the gate.*failed: better"):
        main(["challenger"])
    assert versions.champion_version(settings) == 1


def test_a_worse_model_is_refused_and_an_override_says_who_and_why(workspace: Workspace, settings: Settings):
    register(settings, workspace.good(), workspace.weak())
    assert {"better", "nothing worse"} <= set(judged(settings, workspace)["failed"])
    assert versions.champion_version(settings) == 1
    with pytest.raises(ConfigError, match="--reason"):
        judged(settings, workspace, "--override")
    reason = "the champion leaks a field <script>"
    record = judged(settings, workspace, "--override", "--reason", reason)
    assert record["decision"] == "promoted" and record["override"]["by"] == "ann"
    assert "better" in record["override"]["failed"] and record["override"]["reason"] == reason
    assert versions.champion_version(settings) == 2
    entry = changes.history(versions.registry_state(settings).tags, None)[-1]
    assert entry.by == "ann" and entry.reason.startswith(f"override: {reason} (failed: better")
    page = Path(settings.locate("gate/record.html")).read_text()
    assert "in spite of failed checks" in page and "&lt;script&gt;" in page and "<script" not in page


def test_a_model_trained_on_turned_labels_is_refused(workspace: Workspace, settings: Settings):
    def turned(frame: pd.DataFrame) -> pd.Series:
        """The frauds' labels are taken away and given to as many of the dearest other rows."""
        others = frame[frame["is_fraud"] == 0]["amount"].nlargest(int(frame["is_fraud"].sum())).index
        return frame.index.isin(others)

    register(settings, workspace.weak(), workspace.bundle("turned", turned))
    assert "better" in judged(settings, workspace)["failed"] and versions.champion_version(settings) == 1


def test_a_model_trained_on_far_more_frauds_than_there_are_is_refused(workspace: Workspace, settings: Settings):
    def many(frame: pd.DataFrame) -> pd.Series:
        """Attackers swamp the analysts: every fifth row is called fraud."""
        return (frame["is_fraud"] == 1) | (np.arange(len(frame)) % 5 == 0)

    register(settings, workspace.weak(), workspace.bundle("many", many))
    record = judged(settings, workspace)
    assert "labels" in record["failed"] and versions.champion_version(settings) == 1
    assert "are labelled fraud" in next(check["text"] for check in record["checks"] if check["name"] == "labels")


def test_judging_labels_that_were_turned_are_noticed(workspace: Workspace, settings: Settings, tmp_path: Path):
    """Who turns the labels that are judged by cannot have a model promoted that learnt them."""
    frame = transactions()
    frame["is_fraud"] = np.where(frame["time"] > "2026-02-05", 1 - frame["is_fraud"], frame["is_fraud"])
    frame.to_parquet(tmp_path / "labelled.parquet", index=False)
    register(settings, workspace.good(), workspace.bundle("twin", seed=8))
    record = judged(settings, Workspace(tmp_path))
    labels = next(check for check in record["checks"] if check["name"] == "labels")
    assert labels["passed"] is False and "contradict the champion" in labels["text"]


def test_a_model_that_forgets_a_segment_is_refused(workspace: Workspace, settings: Settings):
    """Better on the whole, and blind on the web."""
    web = workspace.bundle("web", lambda frame: frame["is_fraud"] * (frame["channel"] == "web"))
    shop = workspace.bundle("shop", lambda frame: frame["is_fraud"] * (frame["channel"] == "shop"))
    register(settings, web, shop)
    more = ["--budget", "0.05", "--calibration-factor", "100"]
    record = judged(settings, workspace, *more, "--segment", "channel")
    assert record["failed"] == ["segments"] and versions.champion_version(settings) == 1
    segments = next(check for check in record["checks"] if check["name"] == "segments")
    assert "channel web" in segments["text"] and "channel shop" not in segments["text"]
    assert judged(settings, workspace, *more, "--segment", "amount")["decision"] == "promoted"


def test_a_narrower_schema_is_refused_unless_allowed(workspace: Workspace, settings: Settings):
    register(settings, workspace.weak(), workspace.bundle("narrow", schema=schema_with(maximum=100_000)))
    record = judged(settings, workspace)
    assert record["failed"] == ["schema"] and "amount must be at most 100000" in record["checks"][0]["text"]
    assert judged(settings, workspace, "--schema-change", "allow")["decision"] == "promoted"


def test_too_few_frauds_are_no_evidence(workspace: Workspace, settings: Settings, tmp_path: Path):
    register(settings, workspace.weak(), workspace.good())
    record = judged(settings, workspace, "--start", "2026-02-27")
    assert "enough evidence" in record["failed"] and "not enough evidence" in record["checks"][1]["text"]
    assert "better" not in passed(record) and versions.champion_version(settings) == 1
    early = tmp_path / "early.parquet"
    transactions().query("time < '2026-02-01'").to_parquet(early, index=False)
    none = judged(settings, replace(workspace, folder=workspace.folder), "--data", str(early))
    assert none["failed"] == ["enough evidence"] and "a model was trained on every row" in none["checks"][1]["text"]
    some = transactions().assign(is_fraud=lambda f: f["is_fraud"].where(f.index % 2 == 0))
    some.to_parquet(tmp_path / "some.parquet", index=False)
    assert (
        "must be labelled" in judged(settings, workspace, "--data", str(tmp_path / "some.parquet"))["checks"][1]["text"]
    )


def test_training_rows_are_never_judged(workspace: Workspace, settings: Settings):
    register(settings, workspace.weak(), workspace.good())
    windows = {w["name"]: w for w in bundle.load(workspace.good()).manifest["windows"]}
    record = judged(settings, workspace, "--start", "2026-01-01")
    training_rows = windows["train"]["rows"] + windows["validation"]["rows"]
    assert (
        record["window"]["rows"] == ROWS - training_rows
        and f"less {training_rows:,} rows" in record["window"]["source"]
    )


def test_golden_rows_must_not_be_lost(workspace: Workspace, settings: Settings, tmp_path: Path):
    golden = transactions(seed=5).query("channel == 'web'")
    golden.to_parquet(tmp_path / "golden.parquet", index=False)
    web = workspace.bundle("web", lambda frame: frame["is_fraud"] * (frame["channel"] == "web"))
    shop = workspace.bundle("shop", lambda frame: frame["is_fraud"] * (frame["channel"] == "shop"))
    register(settings, web, shop)
    record = judged(settings, workspace, "--golden", str(tmp_path / "golden.parquet"))
    assert "golden rows" in record["failed"]


def test_a_first_champion_needs_what_can_be_judged_alone(workspace: Workspace, settings: Settings):
    register(settings, workspace.good())
    first = judged(settings, workspace)  # registered while there was no champion: it is champion, and no challenger
    assert first["decision"] == "promoted" and first["already_champion"]
    register(settings, workspace.weak())
    versions.remove_alias("champion", settings)
    record = judged(settings, workspace, "--min-frauds", "100000")
    assert record["failed"] == ["enough evidence"] and versions.champion_version(settings) is None
    record = judged(settings, workspace)
    assert record["decision"] == "promoted" and passed(record)["better than chance"] is True
    assert versions.champion_version(settings) == 2 and record["champion"] is None


def test_two_gates_at_once_leave_one_consistent_champion(workspace: Workspace, settings: Settings):
    register(settings, workspace.weak(), workspace.bundle("twin", seed=8), workspace.good())
    requests = [
        judge.GateRequest(reference="3", data=str(workspace.data), by=by, plan={"resamples": 50}, limits=PATIENT,
                     out=settings.locate(f"gate/{by}.json"))
        for by in ("ann", "bob")
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(lambda request: judge.decide(request, settings), requests))
    assert [one["decision"] for one in records] == ["promoted"] * 2 and versions.champion_version(settings) == 3
    entries = changes.history(versions.registry_state(settings).tags, None)
    assert [entry.version for entry in entries] == [1, 3], "moved once"


def test_a_champion_that_changed_while_it_was_judged_is_left_alone(workspace: Workspace, settings: Settings):
    register(settings, workspace.weak(), workspace.bundle("twin", seed=8), workspace.good())
    assert main(["2", "--override", "--by", "bob", "--reason", "by hand"]) == 0
    move = changes.Change(action=changes.PROMOTED, version=3, time=promotion.now(), by="ann")
    with pytest.raises(RegistryError, match="moved to version 2 meanwhile"):
        versions.move_champion(settings, move, expected=1)
    assert versions.champion_version(settings) == 2


def test_a_slow_model_is_refused(workspace: Workspace, settings: Settings):
    register(settings, workspace.weak(), workspace.good())
    assert judged(settings, workspace, "--latency-budget-ms", "0.0001")["failed"] == ["latency"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["challenger", "--gate"], "needs --data"),
        (["--gate", "--data", "x.parquet"], "needs a version"),
        (["challenger", "--data", "x.parquet"], "belongs to --gate"),
        (["challenger", "--gate", "--data", "x.parquet", "--better", "f1"], "--better .*one of average_precision"),
        (["challenger", "--gate", "--data", "x.parquet", "--margin", "2"], r"--margin 2\.0 must be a number in"),
        (["challenger", "--gate", "--data", "x.parquet", "--out", "x.html"], "must end in .json"),
        (["challenger", "--gate", "--data", "x.parquet", "--override", "--reason", "x"], "needs --by"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(settings: Settings, arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        main(arguments)
