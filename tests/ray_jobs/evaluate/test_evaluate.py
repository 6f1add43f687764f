"""The evaluation job on real small bundles: the window, the page, the JSON, the comparison, the ablation, MLflow."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import cards, transactions
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.judging.page import render
from fraud.labels.store import LabelStore
from fraud.metrics import measures
from fraud.registry import runs, training_rows, versions
from fraud.schema import Column, Schema, validate
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from ray_jobs.evaluate import command as evaluate
from ray_jobs.evaluate.command import EvaluationRequest
from ray_jobs.evaluate.rows import Window, open_model, unseen

SMALL = TrainConfig(
    forest=ForestConfig(n_estimators=20),
    autoencoder=AutoencoderConfig(epochs=2, batch_size=256),
    head=HeadConfig(members=2, iterations=30),
)
NASTY = "<script>alert('x')</script> $\\frac"


@dataclass(frozen=True)
class Workspace:
    """Data files and the bundles trained on them."""

    folder: Path

    def request(self, name: str = "page", **changes: object) -> EvaluationRequest:
        defaults = {
            "data": str(self.folder / "cards.parquet"),
            "out": str(self.folder / f"{name}.html"),
            "model": str(self.folder / "bundle"),
            "plan": {"resamples": 30, "k": 5},
        }
        return EvaluationRequest(**{**defaults, **changes})


def train(folder: Path, path: Path, schema: Schema, config: TrainConfig) -> None:
    rows = tables.load(str(path), schema).rows
    prepared = fitting.prepare(rows, schema, config)
    detector, evaluation = fitting.fit_locally(rows, schema, config)
    bundle.save(
        folder,
        detector,
        metrics=evaluation.metrics,
        data_fingerprint=tables.fingerprint(str(path)),
        windows=[dataclasses.asdict(window) for window in prepared.windows],
        config=json.loads(json.dumps(config.to_dict())),
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Card transactions with history and a bundle; five-column transactions and two bundles; one with nasty names."""
    folder = tmp_path_factory.mktemp("evaluate")
    tables.write_parquet(cards(12_000, seed=1), str(folder / "cards.parquet"))
    split = SplitConfig(history=0.3, train=0.35, validation=0.15, test=0.2, delay_days=7)
    train(folder / "bundle", folder / "cards.parquet", Schema.load("handbook"), replace(SMALL, split=split))
    tables.write_csv(transactions(4_000, seed=1, fraud_rate=0.05), str(folder / "five.csv"))
    schema = Schema.load("transactions")
    train(folder / "five", folder / "five.csv", schema, SMALL)
    weak = replace(SMALL, forest=ForestConfig(n_estimators=2, max_samples=8), seed=3)
    train(folder / "weak", folder / "five.csv", schema, weak)
    return Workspace(folder)


@pytest.fixture(scope="module")
def judged(workspace: Workspace) -> dict:
    """The document of the card model on its own test window."""
    return evaluate.evaluate(workspace.request(), Settings.from_environment())


def test_a_window_from_a_date_begins_with_the_day_of_the_zone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    loaded = bundle.load(workspace.folder / "bundle")
    schema = replace(loaded.detector.schema, day_zone="Asia/Tokyo")
    bundle.save(workspace.folder / "tokyo", replace(loaded.detector, schema=schema))
    times = pd.read_parquet(workspace.folder / "cards.parquet")["TX_DATETIME"]
    day = times.max().normalize()
    monkeypatch.setenv("FRAUD_DAY_ZONE", "Asia/Tokyo")
    request = workspace.request("tokyo", model=str(workspace.folder / "tokyo"), start=str(day.date()))
    document = evaluate.evaluate(request, Settings.from_environment())
    assert document["rows"]["in_window"] == (times >= day - pd.Timedelta(hours=9)).sum()
    with pytest.raises(ConfigError, match="day_zone 'UTC' of schema 'handbook' differ"):
        evaluate.evaluate(workspace.request(), Settings.from_environment())


class Page(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_models_own_test_window_is_judged_with_the_history_before_it(workspace: Workspace, judged: dict):
    loaded = bundle.load(workspace.folder / "bundle")
    window = next(w for w in loaded.manifest["windows"] if w["name"] == "test")
    assert judged["rows"]["in_window"] == window["rows"] and judged["rows"]["frauds"] == window["frauds"]
    assert "the test window of" in judged["rows"]["window"]
    scores, trained = judged["ranking"]["scores"], loaded.manifest["metrics"]
    for name in set(trained) & set(scores):
        assert scores[name]["average_precision"]["value"] == pytest.approx(trained[name]["average_precision"], rel=1e-6)
        assert scores[name]["roc_auc"]["value"] == pytest.approx(trained[name]["roc_auc"], rel=1e-6)
    at = judged["ranking"]["points"][0]["figures"]
    assert at["recall"]["value"] == pytest.approx(trained["joined"]["recall"])
    assert len(scores) >= 2 and next(iter(scores)) == "joined"
    assert judged["card_precision"]["unit"] == "CUSTOMER_ID" and judged["settings"]["amount"] == "TX_AMOUNT"
    assert not [finding for finding in judged["verdict"]["findings"] if "trained on them" in finding["text"]]


def test_the_json_is_strict_and_says_the_same(workspace: Workspace, judged: dict):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads((workspace.folder / "page.json").read_text(), parse_constant=refuse)
    assert read == json.loads(json.dumps(judged))
    assert list(read)[:2] == ["format", "verdict"], "the verdict comes first"
    assert read["model"]["sha256"] == bundle.load(workspace.folder / "bundle").sha256


def test_the_page_holds_every_section_and_loads_nothing(workspace: Workspace, judged: dict):
    text = (workspace.folder / "page.html").read_text()
    page = Page(text)
    assert text.index('id="verdict"') < text.index('id="points"')
    for name in (
        "points",
        "ranking",
        "cards",
        "cost",
        "calibration",
        "stability",
        "segments",
        "comparison",
        "ablation",
    ):
        assert f'id="{name}"' in text and f'href="#{name}"' in text
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 6 and all(image["alt"] for image in images)
    assert base64.b64decode(images[0]["src"].split(",")[1]).startswith(b"\x89PNG")
    assert judged["verdict"]["headline"] in text
    assert f"{100 * judged['card_precision']['mean']['value']:.1f}%" in text
    assert "--ablation" in text and "--against" in text, "a missing section says what to do"
    assert not list(workspace.folder.glob(".*")), "no half-written file is left"


def test_the_page_names_rows_left_out_and_a_group_that_could_not_be_refitted(judged: dict):
    ablation = {
        "window": {"start": "2026-01-01", "end": "2026-02-01", "rows": 900, "frauds": 30}, "same_data": False,
        "all": {"average_precision": 0.5, "interval": [0.4, 0.6]},
        "groups": [
            {"name": "<b>", "features": ["a", "b"], "missing": "no feature is left"},
            {"name": "c", "features": ["c"], "average_precision": 0.3, "interval": None, "worth": 0.2,
             "worth_interval": [0.1, 0.3]},
        ],
    }  # fmt: skip
    rows = {**judged["rows"], "unlabelled": 1_234, "quarantined": 77}
    pictures = dict.fromkeys(("precision_recall", "roc", "cards", "cost"), "data:")
    document = {**judged, "rows": rows, "ablation": ablation, "notes": ["<i>doubt"]}
    text = render("ray_jobs", "evaluation.html", evaluation=document, pictures=pictures, tiles=[], window="a week")
    words = " ".join(re.sub("<[^>]*>", " ", text).split())
    assert "1,234 unlabelled rows count only in the alerts. 77 rows violate the schema" in words
    assert "without &lt;b&gt; a, b – no feature is left" in words and "&lt;i&gt;doubt" in words
    assert "+0.200 +0.100 to +0.300" in words and "the refits differ from it" in words


def test_a_window_that_is_asked_for(workspace: Workspace):
    rows = pd.read_parquet(workspace.folder / "cards.parquet")
    start, end = rows["TX_DATETIME"].quantile(0.2).normalize(), rows["TX_DATETIME"].quantile(0.5).normalize()
    request = workspace.request("asked", start=str(start.date()), end=f"{end.date()}T01:00:00+01:00")
    document = evaluate.evaluate(request, Settings.from_environment())
    inside = rows[(rows["TX_DATETIME"] >= start) & (rows["TX_DATETIME"] < end)]
    assert document["rows"]["in_window"] == len(inside) and document["rows"]["frauds"] == inside["TX_FRAUD"].sum()
    findings = document["verdict"]["findings"]
    assert document["verdict"]["level"] == "bad" and "lie in the train window" in findings[0]["text"]
    schema = Schema.load("handbook")
    before = validate(rows[rows["TX_DATETIME"] < end], schema).rows
    expected = (
        Engine(bundle.load(workspace.folder / "bundle").detector)
        .score_frame(before)["score"]
        .to_numpy()[-len(inside) :]
    )
    value = measures.average_precision(inside["TX_FRAUD"], expected)
    assert document["ranking"]["scores"]["joined"]["average_precision"]["value"] == pytest.approx(value)


@pytest.fixture(scope="module")
def mixed(workspace: Workspace) -> tuple[Path, pd.DataFrame]:
    """A model with hashes of its training rows, and a file with half of these rows, in another order, and others."""
    folder = workspace.folder / "kept"
    shutil.copytree(workspace.folder / "five", folder / "bundle")
    schema, known = Schema.load("transactions"), pd.read_csv(workspace.folder / "five.csv")
    prepared = fitting.prepare(validate(known, schema).rows, schema, SMALL)
    training = prepared.rows.iloc[prepared.split.learnt]
    training_rows.write(folder / training_rows.NAME, training, schema, bundle.load(folder / "bundle").sha256)
    trained = known.loc[training.index]
    half = trained.sample(len(trained) // 2, random_state=1)
    frame = pd.concat([half, transactions(1_000, seed=9, fraud_rate=0.05)]).sample(frac=1.0, random_state=2)
    tables.write_csv(frame, str(folder / "mixed.csv"))
    tables.write_csv(half, str(folder / "trained.csv"))
    return folder, half


def findings_of(document: dict) -> str:
    return " ".join(finding["text"] for finding in document["verdict"]["findings"])


def test_rows_that_the_model_was_trained_on_are_left_out_of_another_file(
    workspace: Workspace, mixed: tuple[Path, pd.DataFrame]
):
    folder, half = mixed
    order = {"data": str(folder / "mixed.csv"), "model": str(folder / "bundle")}
    document = evaluate.evaluate(workspace.request("mixed", **order), Settings.from_environment())
    assert document["rows"]["in_window"] == 1_000 and document["rows"]["trained_on_left_out"] == len(half)
    text = f"{len(half):,} of {len(half) + 1_000:,} rows are left out, because kept/bundle"
    assert text in findings_of(document) and text in (workspace.folder / "mixed.html").read_text()
    request = workspace.request("all", **order, include_training_rows=True)
    document = evaluate.evaluate(request, Settings.from_environment())
    assert document["rows"]["in_window"] == len(half) + 1_000 and document["verdict"]["level"] == "bad"
    assert f"{len(half):,} of {len(half) + 1_000:,} judged rows are rows that kept/bundle" in findings_of(document)
    order["data"] = str(folder / "trained.csv")
    with pytest.raises(DataError, match=f"trained on every one of the {len(half):,} rows.*--include-training-rows"):
        evaluate.evaluate(workspace.request("none", **order), Settings.from_environment())
    assert not (workspace.folder / "none.html").exists()


def test_a_gate_finds_unseen_rows_of_another_file_without_times(workspace: Workspace, mixed: tuple[Path, pd.DataFrame]):
    folder, half = mixed
    settings, schema = Settings.from_environment(), Schema.load("transactions")
    rows = validate(pd.concat([half, transactions(1_000, seed=9)], ignore_index=True), schema).rows
    kept, before = (open_model(str(path), settings) for path in (folder / "bundle", workspace.folder / "five"))
    window = unseen(rows, [kept], "another file")
    assert isinstance(window, Window) and window.positions.tolist() == list(range(len(half), len(half) + 1_000))
    assert "does not identify its training rows" in str(unseen(rows, [before], "another file"))


def test_labels_that_the_store_knows_otherwise_are_said(workspace: Workspace, judged: dict):
    rows = pd.read_parquet(workspace.folder / "cards.parquet").iloc[-20:]
    moment = pd.Timestamp("2026-01-01")
    verdicts = pd.DataFrame({"id": rows["TRANSACTION_ID"].astype(str), "is_fraud": rows["TX_FRAUD"] == 1})
    verdicts.loc[verdicts.index[:3], "is_fraud"] ^= True
    store = LabelStore.from_environment(Settings.from_environment(), {})
    store.add(verdicts.assign(known_at=moment, source="analyst"), "a", ingested_at=moment)
    document = evaluate.evaluate(workspace.request("store"), Settings.from_environment())
    assert "3 of the judged rows have another label in" in findings_of(document)
    assert "another label" not in findings_of(judged)


def test_without_hashes_and_times_nothing_is_ruled_out(workspace: Workspace, mixed: tuple[Path, pd.DataFrame]):
    order = {"data": str(mixed[0] / "mixed.csv"), "model": str(workspace.folder / "five")}
    document = evaluate.evaluate(workspace.request("doubt", **order), Settings.from_environment())
    text = "it cannot be ruled out that"
    assert text in findings_of(document) and document["verdict"]["level"] in ("warning", "bad")
    assert text in (workspace.folder / "doubt.html").read_text()
    order["data"] = str(workspace.folder / "five.csv")
    document = evaluate.evaluate(workspace.request("own", **order), Settings.from_environment())
    assert text not in findings_of(document), "the test window of its own file was kept apart"


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"start": "yesterday"}, ConfigError, "--start 'yesterday' is not a time"),
        ({"start": "2031-01-01"}, DataError, "no row between --start 2031-01-01"),
        ({"card": "TX_AMOUNT"}, ConfigError, "--card 'TX_AMOUNT' is a numeric column"),
        ({"amount": "TX_AMUONT"}, SchemaError, "did you mean 'TX_AMOUNT'"),
        ({"plan": {"budget": 2.0}}, ConfigError, "--budget 2"),
        ({"plan": {"segments": ("colour",)}}, ConfigError, "--segment 'colour'"),
        ({"out": "page.pdf"}, ConfigError, "must end in .html"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(workspace: Workspace, changes: dict, error: type, text: str):
    request = workspace.request("wrong", **changes)
    with pytest.raises(error, match=re.escape(text)):
        evaluate.evaluate(request, Settings.from_environment())
    assert not (workspace.folder / "wrong.html").exists() and not (workspace.folder / "wrong.json").exists()


def test_two_models_are_compared_on_the_same_rows(workspace: Workspace):
    request = workspace.request("both", data=str(workspace.folder / "five.csv"), model=str(workspace.folder / "five"),
                    against=str(workspace.folder / "weak"))  # fmt: skip
    document = evaluate.evaluate(request, Settings.from_environment())
    compared = document["comparison"]
    figures = compared["figures"]["average_precision"]
    rows = tables.load(str(workspace.folder / "five.csv"), Schema.load("transactions")).rows.iloc[
        -document["rows"]["in_window"] :
    ]
    for side, name in (("ours", "five"), ("theirs", "weak")):
        scores = Engine(bundle.load(workspace.folder / name).detector).score_frame(rows)["score"]
        assert figures[side] == pytest.approx(measures.average_precision(rows["is_fraud"], scores))
    low, high = figures["interval"]
    assert low <= figures["difference"] <= high and compared["verdict"] in ("better", "worse", "alike")
    page = (workspace.folder / "both.html").read_text()
    assert "Where they disagree" in page and compared["text"] in page
    assert "no timestamp" in page, "data without times say why there is no section on time"


def test_the_same_bundle_is_not_compared_with_itself(workspace: Workspace):
    request = workspace.request("same", data=str(workspace.folder / "five.csv"), model=str(workspace.folder / "five"),
                    against=str(workspace.folder / "five"))  # fmt: skip
    assert "same bundle" in evaluate.evaluate(request, Settings.from_environment())["comparison"]["missing"]


def test_a_rival_with_another_schema_is_compared_on_the_rows_that_both_take(workspace: Workspace):
    schema = Schema.load("transactions")
    columns = tuple(
        replace(column, minimum=20.0) if column.name == "amount" else column
        for column in schema.columns
        if column.name != "distance"
    )
    other = replace(schema, name="other", columns=columns, ignore=("distance",))
    train(workspace.folder / "other", workspace.folder / "five.csv", other, SMALL)
    request = workspace.request(
        "schemas", data=str(workspace.folder / "five.csv"), model=str(workspace.folder / "five"),
        against=str(workspace.folder / "other"),
    )  # fmt: skip
    document = evaluate.evaluate(request, Settings.from_environment())
    cells = document["comparison"]["disagreement"]
    shared = sum(cells[name]["rows"] for name in ("both", "only_ours", "only_theirs", "neither"))
    frame = pd.read_csv(workspace.folder / "five.csv").iloc[-document["rows"]["in_window"] :]
    assert shared == (frame["amount"] >= 20).sum()
    assert document["comparison"]["rows_only_one_takes"] == (frame["amount"] < 20).sum() > 0
    assert "break the other model&#x27;s schema" in (workspace.folder / "schemas.html").read_text().replace(
        "'", "&#x27;"
    )


def test_a_window_without_earlier_rows_gets_a_note(workspace: Workspace, judged: dict):
    rows = pd.read_parquet(workspace.folder / "cards.parquet")
    later = rows[rows["TX_DATETIME"] >= pd.Timestamp(judged["rows"]["start"])]
    tables.write_parquet(later, str(workspace.folder / "later.parquet"))
    document = evaluate.evaluate(
        workspace.request("later", data=str(workspace.folder / "later.parquet")), Settings.from_environment()
    )
    assert document["rows"]["in_window"] == judged["rows"]["in_window"]
    assert "without entity history: use data that begin earlier" in document["notes"][0]
    assert "use data that begin earlier" in (workspace.folder / "later.html").read_text()


def test_a_window_with_too_few_earlier_days_gets_a_note(workspace: Workspace, judged: dict):
    rows = pd.read_parquet(workspace.folder / "cards.parquet")
    begin = pd.Timestamp(judged["rows"]["start"]) - pd.Timedelta(days=10)
    tables.write_parquet(rows[rows["TX_DATETIME"] >= begin], str(workspace.folder / "short.parquet"))
    document = evaluate.evaluate(
        workspace.request("short", data=str(workspace.folder / "short.parquet")), Settings.from_environment()
    )
    assert "the data begin 10 days before the window, and entity history reaches 37 days back" in document["notes"][0]


def test_without_labels_the_page_still_comes(workspace: Workspace):
    pd.read_csv(workspace.folder / "five.csv").drop(columns="is_fraud").head(500).to_csv(
        workspace.folder / "bare.csv", index=False
    )
    request = workspace.request("bare", data=str(workspace.folder / "bare.csv"), model=str(workspace.folder / "five"))
    document = evaluate.evaluate(request, Settings.from_environment())
    assert document["verdict"]["level"] == "unknown" and document["rows"]["unlabelled"] == 500
    assert document["rarity"]["unlabelled"] and "missing" in document["cost"]
    page = (workspace.folder / "bare.html").read_text()
    assert "wait until labels arrive" in page and "500 unlabelled rows" in page


def test_names_and_values_mean_nothing_to_html(tmp_path: Path):
    rng = np.random.default_rng(0)
    n = 1_500
    labels = (rng.random(n) < 0.08).astype(int)
    frame = pd.DataFrame({NASTY: rng.normal(size=n) + 3 * labels, "kind": rng.choice([NASTY, "b"], n), "y": labels})
    frame.to_csv(tmp_path / "nasty.csv", index=False)
    columns = (
        Column(name=NASTY, kind="numeric"),
        Column(name="kind", kind="categorical"),
        Column(name="y", kind="label"),
    )
    train(tmp_path / "bundle", tmp_path / "nasty.csv", Schema(name="<b>nasty", columns=columns), SMALL)
    train(tmp_path / "other", tmp_path / "nasty.csv", Schema(name="<b>nasty", columns=columns), replace(SMALL, seed=9))
    request = EvaluationRequest(
        data=str(tmp_path / "nasty.csv"), out=str(tmp_path / "page.html"), model=str(tmp_path / "bundle"),
        against=str(tmp_path / "other"), amount=NASTY, plan={"resamples": 20, "segments": (NASTY, "kind")},
    )  # fmt: skip
    evaluate.evaluate(request, Settings.from_environment())
    text = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;" in text and "<script" not in text and "<b>nasty" not in text
    assert not [tag for tag, _ in Page(text).tags if tag == "script"]


@pytest.mark.ray
def test_ablation_refits_in_ray_tasks_and_finds_what_a_group_is_worth(
    workspace: Workspace, ray_session: None, caplog: pytest.LogCaptureFixture
):
    request = workspace.request("ablation", ablation=True)
    with caplog.at_level("INFO"):
        ablation = evaluate.evaluate(request, Settings.from_environment())["ablation"]
    groups = {group["name"]: group for group in ablation["groups"]}
    assert ablation["same_data"] and len(groups) >= 3
    trained = bundle.load(workspace.folder / "bundle").manifest
    assert ablation["all"]["average_precision"] == pytest.approx(
        trained["metrics"]["joined"]["average_precision"], abs=1e-6
    )
    assert ablation["window"]["rows"] == next(w["rows"] for w in trained["windows"] if w["name"] == "test")
    measured = [group for group in groups.values() if "worth" in group]
    for group in measured:
        assert group["worth"] == pytest.approx(ablation["all"]["average_precision"] - group["average_precision"])
        assert group["worth_interval"][0] <= group["worth_interval"][1]
    assert max(group["worth"] for group in measured) > 0, "no feature is worth anything"
    assert f"ablation {len(measured) + 1}/{len(measured) + 1}" in caplog.text
    page = (workspace.folder / "ablation.html").read_text()
    assert all(f"without {name}" in page for name in groups)


def test_a_version_of_the_registry_gets_page_and_figures(workspace: Workspace, isolated_state: Path):
    from mlflow import MlflowClient

    settings = Settings.from_environment()
    run = runs.start_run(settings, "train")
    versions.register(settings, run, workspace.folder / "bundle")
    run.finish()
    request = workspace.request("registered", model="champion", plan={"resamples": 20})
    document = evaluate.evaluate(request, settings)
    assert document["model"]["version"] == 1
    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    known = client.get_run(run.run_id)
    assert known.info.status == "FINISHED"
    expected = document["ranking"]["scores"]["joined"]["average_precision"]
    assert known.data.metrics["evaluation_average_precision"] == pytest.approx(expected["value"])
    assert known.data.metrics["evaluation_average_precision_low"] == pytest.approx(expected["interval"][0])
    assert "evaluation_threshold_recall" in known.data.metrics
    assert {a.path for a in client.list_artifacts(run.run_id, "evaluation")} == {
        "evaluation/evaluation.html", "evaluation/evaluation.json"
    }  # fmt: skip


def test_the_command_prints_the_verdict(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_ROOT", str(workspace.folder))
    arguments = [
        "--data",
        "five.csv",
        "--model",
        "five",
        "--out",
        "out/e.html",
        "--resamples",
        "20",
        "--segment",
        "hour",
    ]
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "of the frauds" in printed and str(workspace.folder / "out" / "e.json") in printed
    assert json.loads((workspace.folder / "out" / "e.json").read_text())["segments"]["columns"][0]["column"] == "hour"
    score = "python -m ray_jobs.score --data five.csv --model five --out scored.parquet"
    assert printed.endswith(f"\nnext: {score}\n")
    assert evaluate.main(arguments) == 0, "its own page is replaced"
    metrics = workspace.folder / "out" / "metrics.json"
    metrics.write_text('{"metrics": {}}')
    arguments[arguments.index("out/e.html")] = "out/metrics.html"
    with pytest.raises(DataError, match=r"metrics\.json exists.*--force"):
        evaluate.main(arguments)
    assert metrics.read_text() == '{"metrics": {}}' and not metrics.with_suffix(".html").exists()


@pytest.mark.parametrize(
    ("model", "command"),
    [
        ("champion", "serve deploy serve_app/config.yaml"),
        ("challenger", "python -m ray_jobs.promote challenger --gate --data day.csv"),
        ("7", "python -m ray_jobs.promote 7 --gate --data day.csv"),
    ],
)
def test_the_next_command_depends_on_the_model(model: str, command: str):
    assert evaluate.next_after(model, "day.csv") == f"next: {command}\n"
