"""The evaluation job on real small bundles: the window, the page, the JSON, the comparison, the ablation, MLflow."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
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
from fraud.metrics import measures
from fraud.registry import runs, versions
from fraud.schema import Column, Schema, validate
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from ray_jobs.evaluate import command as evaluate
from ray_jobs.evaluate.command import Job

SMALL = TrainConfig(
    forest=ForestConfig(n_estimators=20),
    autoencoder=AutoencoderConfig(epochs=2, batch_size=256),
    head=HeadConfig(members=2, iterations=30),
)
NASTY = "<script>alert('x')</script> $\\frac"


@dataclass(frozen=True)
class Place:
    """Data files and the bundles trained on them."""

    folder: Path

    def job(self, name: str = "page", **changes: object) -> Job:
        given = {
            "data": str(self.folder / "cards.parquet"),
            "out": str(self.folder / f"{name}.html"),
            "model": str(self.folder / "bundle"),
            "plan": {"resamples": 30, "k": 5},
        }
        return Job(**{**given, **changes})


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
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
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
    return Place(folder)


@pytest.fixture(scope="module")
def judged(place: Place) -> dict:
    """The document of the card model on its own test window."""
    return evaluate.evaluate(place.job(), Settings.from_environment())


def test_a_window_from_a_date_begins_with_the_day_of_the_zone(place: Place, monkeypatch: pytest.MonkeyPatch):
    loaded = bundle.load(place.folder / "bundle")
    schema = replace(loaded.detector.schema, day_zone="Asia/Tokyo")
    bundle.save(place.folder / "tokyo", replace(loaded.detector, schema=schema))
    times = pd.read_parquet(place.folder / "cards.parquet")["TX_DATETIME"]
    day = times.max().normalize()
    monkeypatch.setenv("FRAUD_DAY_ZONE", "Asia/Tokyo")
    job = place.job("tokyo", model=str(place.folder / "tokyo"), start=str(day.date()))
    found = evaluate.evaluate(job, Settings.from_environment())
    assert found["rows"]["in_window"] == (times >= day - pd.Timedelta(hours=9)).sum()
    with pytest.raises(ConfigError, match="day_zone 'UTC' of schema 'handbook' differ"):
        evaluate.evaluate(place.job(), Settings.from_environment())


class Page(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_models_own_test_window_is_judged_with_the_history_before_it(place: Place, judged: dict):
    loaded = bundle.load(place.folder / "bundle")
    window = next(w for w in loaded.manifest["windows"] if w["name"] == "test")
    assert judged["rows"]["in_window"] == window["rows"] and judged["rows"]["frauds"] == window["frauds"]
    assert "the test window of" in judged["rows"]["window"]
    found, trained = judged["ranking"]["scores"], loaded.manifest["metrics"]
    for name in set(trained) & set(found):
        assert found[name]["average_precision"]["value"] == pytest.approx(trained[name]["average_precision"], rel=1e-6)
        assert found[name]["roc_auc"]["value"] == pytest.approx(trained[name]["roc_auc"], rel=1e-6)
    at = judged["ranking"]["points"][0]["figures"]
    assert at["recall"]["value"] == pytest.approx(trained["joined"]["recall"])
    assert len(found) >= 2 and next(iter(found)) == "joined"
    assert judged["card_precision"]["unit"] == "CUSTOMER_ID" and judged["settings"]["amount"] == "TX_AMOUNT"
    assert not [finding for finding in judged["verdict"]["findings"] if "learnt" in finding["text"]]


def test_the_json_is_strict_and_says_the_same(place: Place, judged: dict):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads((place.folder / "page.json").read_text(), parse_constant=refuse)
    assert read == json.loads(json.dumps(judged))
    assert list(read)[:2] == ["format", "verdict"], "the verdict comes first"
    assert read["model"]["sha256"] == bundle.load(place.folder / "bundle").sha256


def test_the_page_holds_every_section_and_loads_nothing(place: Place, judged: dict):
    text = (place.folder / "page.html").read_text()
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
    assert not list(place.folder.glob(".*")), "no half-written file is left"


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


def test_a_window_that_is_asked_for(place: Place):
    rows = pd.read_parquet(place.folder / "cards.parquet")
    start, end = rows["TX_DATETIME"].quantile(0.2).normalize(), rows["TX_DATETIME"].quantile(0.5).normalize()
    job = place.job("asked", start=str(start.date()), end=f"{end.date()}T01:00:00+01:00")
    found = evaluate.evaluate(job, Settings.from_environment())
    inside = rows[(rows["TX_DATETIME"] >= start) & (rows["TX_DATETIME"] < end)]
    assert found["rows"]["in_window"] == len(inside) and found["rows"]["frauds"] == inside["TX_FRAUD"].sum()
    findings = found["verdict"]["findings"]
    assert found["verdict"]["level"] == "bad" and "lie in the train window" in findings[0]["text"]
    schema = Schema.load("handbook")
    before = validate(rows[rows["TX_DATETIME"] < end], schema).rows
    expected = (
        Engine(bundle.load(place.folder / "bundle").detector).score_frame(before)["score"].to_numpy()[-len(inside) :]
    )
    value = measures.average_precision(inside["TX_FRAUD"], expected)
    assert found["ranking"]["scores"]["joined"]["average_precision"]["value"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"start": "yesterday"}, ConfigError, "--start 'yesterday' is not a time"),
        ({"start": "2031-01-01"}, DataError, "no row between --start 2031-01-01"),
        ({"card": "TX_AMOUNT"}, ConfigError, "--card 'TX_AMOUNT' is a numeric column"),
        ({"amount": "TX_AMUONT"}, SchemaError, "did you mean 'TX_AMOUNT'"),
        ({"plan": {"budget": 2.0}}, ConfigError, "--budget 2"),
        ({"plan": {"segments": ("colour",)}}, ConfigError, "--segment 'colour'"),
        ({"out": "page.pdf"}, ConfigError, "ending in .html"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(place: Place, changes: dict, error: type, text: str):
    job = place.job("wrong", **changes)
    with pytest.raises(error, match=re.escape(text)):
        evaluate.evaluate(job, Settings.from_environment())
    assert not (place.folder / "wrong.html").exists() and not (place.folder / "wrong.json").exists()


def test_two_models_are_compared_on_the_same_rows(place: Place):
    job = place.job("both", data=str(place.folder / "five.csv"), model=str(place.folder / "five"),
                    against=str(place.folder / "weak"))  # fmt: skip
    found = evaluate.evaluate(job, Settings.from_environment())
    compared = found["comparison"]
    figures = compared["figures"]["average_precision"]
    rows = tables.load(str(place.folder / "five.csv"), Schema.load("transactions")).rows.iloc[
        -found["rows"]["in_window"] :
    ]
    for side, name in (("ours", "five"), ("theirs", "weak")):
        scores = Engine(bundle.load(place.folder / name).detector).score_frame(rows)["score"]
        assert figures[side] == pytest.approx(measures.average_precision(rows["is_fraud"], scores))
    low, high = figures["interval"]
    assert low <= figures["difference"] <= high and compared["verdict"] in ("better", "worse", "alike")
    page = (place.folder / "both.html").read_text()
    assert "Where they disagree" in page and compared["text"] in page
    assert "no timestamp" in page, "data without times say why there is no section on time"


def test_the_same_bundle_is_not_compared_with_itself(place: Place):
    job = place.job("same", data=str(place.folder / "five.csv"), model=str(place.folder / "five"),
                    against=str(place.folder / "five"))  # fmt: skip
    assert "same bundle" in evaluate.evaluate(job, Settings.from_environment())["comparison"]["missing"]


def test_a_rival_with_another_schema_is_compared_on_the_rows_that_both_take(place: Place):
    schema = Schema.load("transactions")
    columns = tuple(
        replace(column, minimum=20.0) if column.name == "amount" else column
        for column in schema.columns
        if column.name != "distance"
    )
    other = replace(schema, name="other", columns=columns, ignore=("distance",))
    train(place.folder / "other", place.folder / "five.csv", other, SMALL)
    job = place.job("schemas", data=str(place.folder / "five.csv"), model=str(place.folder / "five"),
                    against=str(place.folder / "other"))  # fmt: skip
    found = evaluate.evaluate(job, Settings.from_environment())
    cells = found["comparison"]["disagreement"]
    shared = sum(cells[name]["rows"] for name in ("both", "only_ours", "only_theirs", "neither"))
    frame = pd.read_csv(place.folder / "five.csv").iloc[-found["rows"]["in_window"] :]
    assert shared == (frame["amount"] >= 20).sum()
    assert found["comparison"]["rows_only_one_takes"] == (frame["amount"] < 20).sum() > 0
    assert "break the other model&#x27;s schema" in (place.folder / "schemas.html").read_text().replace("'", "&#x27;")


def test_a_window_without_the_rows_before_it_is_told(place: Place, judged: dict):
    rows = pd.read_parquet(place.folder / "cards.parquet")
    later = rows[rows["TX_DATETIME"] >= pd.Timestamp(judged["rows"]["start"])]
    tables.write_parquet(later, str(place.folder / "later.parquet"))
    found = evaluate.evaluate(place.job("later", data=str(place.folder / "later.parquet")), Settings.from_environment())
    assert found["rows"]["in_window"] == judged["rows"]["in_window"]
    assert "without entity history: give data that begin earlier" in found["notes"][0]
    assert "give data that begin earlier" in (place.folder / "later.html").read_text()


def test_a_window_with_too_few_days_before_it_is_told(place: Place, judged: dict):
    rows = pd.read_parquet(place.folder / "cards.parquet")
    begin = pd.Timestamp(judged["rows"]["start"]) - pd.Timedelta(days=10)
    tables.write_parquet(rows[rows["TX_DATETIME"] >= begin], str(place.folder / "short.parquet"))
    found = evaluate.evaluate(place.job("short", data=str(place.folder / "short.parquet")), Settings.from_environment())
    assert (
        "the data begin 10 days before the window, and windows of entity history reach 37 days back"
        in found["notes"][0]
    )


def test_without_labels_the_page_still_comes(place: Place):
    pd.read_csv(place.folder / "five.csv").drop(columns="is_fraud").head(500).to_csv(
        place.folder / "bare.csv", index=False
    )
    job = place.job("bare", data=str(place.folder / "bare.csv"), model=str(place.folder / "five"))
    found = evaluate.evaluate(job, Settings.from_environment())
    assert found["verdict"]["level"] == "unknown" and found["rows"]["unlabelled"] == 500
    assert found["rarity"]["unlabelled"] and "missing" in found["cost"]
    page = (place.folder / "bare.html").read_text()
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
    job = Job(
        data=str(tmp_path / "nasty.csv"), out=str(tmp_path / "page.html"), model=str(tmp_path / "bundle"),
        against=str(tmp_path / "other"), amount=NASTY, plan={"resamples": 20, "segments": (NASTY, "kind")},
    )  # fmt: skip
    evaluate.evaluate(job, Settings.from_environment())
    text = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;" in text and "<script" not in text and "<b>nasty" not in text
    assert not [tag for tag, _ in Page(text).tags if tag == "script"]


@pytest.mark.ray
def test_ablation_refits_in_ray_tasks_and_finds_what_a_group_is_worth(
    place: Place, ray_session: None, caplog: pytest.LogCaptureFixture
):
    job = place.job("ablation", ablation=True)
    with caplog.at_level("INFO"):
        found = evaluate.evaluate(job, Settings.from_environment())["ablation"]
    groups = {group["name"]: group for group in found["groups"]}
    assert found["same_data"] and len(groups) >= 3
    trained = bundle.load(place.folder / "bundle").manifest
    assert found["all"]["average_precision"] == pytest.approx(
        trained["metrics"]["joined"]["average_precision"], abs=1e-6
    )
    assert found["window"]["rows"] == next(w["rows"] for w in trained["windows"] if w["name"] == "test")
    measured = [group for group in groups.values() if "worth" in group]
    for group in measured:
        assert group["worth"] == pytest.approx(found["all"]["average_precision"] - group["average_precision"])
        assert group["worth_interval"][0] <= group["worth_interval"][1]
    assert max(group["worth"] for group in measured) > 0, "no feature is worth anything"
    assert f"ablation {len(measured) + 1}/{len(measured) + 1}" in caplog.text
    page = (place.folder / "ablation.html").read_text()
    assert all(f"without {name}" in page for name in groups)


def test_a_version_of_the_registry_gets_page_and_figures(place: Place, isolated_state: Path):
    from mlflow import MlflowClient

    settings = Settings.from_environment()
    run = runs.start_run(settings, "train")
    versions.register(settings, run, place.folder / "bundle")
    run.finish()
    job = place.job("registered", model="champion", plan={"resamples": 20})
    found = evaluate.evaluate(job, settings)
    assert found["model"]["version"] == 1
    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    known = client.get_run(run.run_id)
    assert known.info.status == "FINISHED"
    expected = found["ranking"]["scores"]["joined"]["average_precision"]
    assert known.data.metrics["evaluation_average_precision"] == pytest.approx(expected["value"])
    assert known.data.metrics["evaluation_average_precision_low"] == pytest.approx(expected["interval"][0])
    assert "evaluation_threshold_recall" in known.data.metrics
    assert {a.path for a in client.list_artifacts(run.run_id, "evaluation")} == {
        "evaluation/evaluation.html", "evaluation/evaluation.json"
    }  # fmt: skip


def test_the_command_prints_the_verdict(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_ROOT", str(place.folder))
    told = ["--data", "five.csv", "--model", "five", "--out", "out/e.html", "--resamples", "20", "--segment", "hour"]
    assert evaluate.main(told) == 0
    printed = capsys.readouterr().out
    assert "of the frauds" in printed and str(place.folder / "out" / "e.json") in printed
    assert json.loads((place.folder / "out" / "e.json").read_text())["segments"]["columns"][0]["column"] == "hour"
