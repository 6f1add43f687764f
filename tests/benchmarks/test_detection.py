"""The detection benchmark: its protocols, what counts for card precision, and the pages it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.detection import __main__ as command
from benchmarks.detection import measure, table
from benchmarks.detection.measure import OURS, EvaluationWindow
from benchmarks.detection.protocols import DATA_SETS, DataSet
from benchmarks.pages import replace_section
from fraud.data.simulation import cards
from fraud.data.splits import split_by_time
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.training import fitting


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose handbook file is simulated, about the days of the real one."""
    path = tmp_path_factory.mktemp("data")
    drawn = cards(30_000, seed=2, fraud_rate=0.06)
    end = pd.Timestamp("2018-08-14 23:00:00")
    drawn["TX_DATETIME"] += (end - drawn["TX_DATETIME"].max()).floor("1D")
    drawn.to_parquet(path / DATA_SETS["handbook"].file)
    return path


def test_the_handbook_is_judged_on_four_weeks_in_a_row() -> None:
    configs = DATA_SETS["handbook"].configs()
    assert [config.split.test_start for config in configs] == [
        "2018-07-18T00:00:00", "2018-07-25T00:00:00", "2018-08-01T00:00:00", "2018-08-08T00:00:00",
    ]  # fmt: skip
    times = np.arange("2018-04-01", "2018-08-15", dtype="datetime64[h]").astype("datetime64[us]")
    for config in configs:
        windows = {w.name: w for w in split_by_time(times, config.split, len(times)).windows(times, None)}
        days = {name: (pd.Timestamp(w.end) - pd.Timestamp(w.start)).round("D").days for name, w in windows.items()}
        assert (days["train"], days["validation"], days["test"]) == (5, 2, 7)
        gap = pd.Timestamp(windows["test"].start) - pd.Timestamp(windows["validation"].end)
        assert gap.round("D") == pd.Timedelta(days=7)


def test_the_other_protocols_are_shares_of_the_rows() -> None:
    shares = {
        name: (config.split.train, config.split.validation, config.split.test)
        for name in ("ulb", "sparkov")
        for config in DATA_SETS[name].configs()
    }
    assert shares == {"ulb": (0.60, 0.15, 0.25), "sparkov": (0.60, 0.20, 0.20)}


@pytest.mark.slow
def test_cards_known_as_compromised_are_left_out_of_card_precision(folder: Path) -> None:
    """Known: a fraud since the first day of training, whose label had arrived by the row's day."""
    data_set, schema = DATA_SETS["handbook"], Schema.load("handbook")
    config = data_set.configs(1)[0]
    prepared = fitting.prepare(data_set.load(folder), schema, config)
    window = EvaluationWindow.of(prepared, "CUSTOMER_ID")
    rows, test = prepared.rows, prepared.rows.iloc[prepared.split.test]
    day = rows["TX_DATETIME"].dt.floor("D")
    frauds = rows[(rows["TX_FRAUD"] == 1) & (day >= pd.Timestamp("2018-07-25"))]
    expected = [
        bool(
            ((frauds["CUSTOMER_ID"] == card) & (frauds["TX_DATETIME"].dt.floor("D") + pd.Timedelta(days=7) < on)).any()
        )
        for card, on in zip(test["CUSTOMER_ID"], test["TX_DATETIME"].dt.floor("D"), strict=True)
    ]
    assert 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(window.is_known, expected)
    on_the_first = test["CUSTOMER_ID"].isin(frauds["CUSTOMER_ID"][frauds["TX_DATETIME"] < pd.Timestamp("2018-08-01")])
    np.testing.assert_array_equal(window.was_known, on_the_first)
    perfect = (window.labels == 1).astype(float)
    without = replace(window, is_known=window.labels == 1).judge(perfect)
    assert window.judge(perfect)["card_precision"] > without["card_precision"] == 0
    assert without["average_precision"] == window.judge(perfect)["average_precision"] == 1


@pytest.mark.slow
def test_a_run_measures_ours_and_the_usual_models_on_the_same_rows(folder: Path) -> None:
    messages: list[str] = []
    result = measure.run(DATA_SETS["handbook"], folder, [0, 1], fast=True, log=messages.append)
    (window,) = result["windows"]
    assert (window["start"], window["end"]) == ("2018-08-08", "2018-08-14") and window["frauds"] > 10
    assert set(OURS.values()) < set(result["figures"]) and len(result["figures"]) >= 10
    for who, figures in result["figures"].items():
        assert set(figures) == {"roc_auc", "average_precision", "card_precision", "card_precision_at_start"}
        assert all(len(seeds) == 2 and all(len(windows) == 1 for windows in seeds) for seeds in figures.values())
        low, high = result["intervals"][who]["average_precision"]
        assert low <= figures["average_precision"][0][0] <= high
    joined = result["figures"][OURS["joined"]]["average_precision"]
    assert np.mean(joined) > 3 * window["frauds"] / window["rows"]  # far above chance
    assert json.loads(json.dumps(result)) == result
    assert "joined with the head" in table.markdown("handbook", {"seeds": [0, 1], **result})


def test_rows_after_the_test_window_are_not_even_read(folder: Path) -> None:
    data_set = DATA_SETS["handbook"]
    config = data_set.configs()[0]
    rows = validate(pd.read_parquet(folder / data_set.file), data_set.schema).rows
    remaining = measure._until(rows, data_set, config)
    assert remaining["TX_DATETIME"].max() < pd.Timestamp("2018-07-25") < rows["TX_DATETIME"].max()


def test_a_missing_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FRAUD_SHARED_DATA"):
        DataSet(name="ulb", title="", protocol="", file="absent.parquet").load(tmp_path)


def test_the_pages_say_what_the_last_run_measured() -> None:
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert set(results) == set(DATA_SETS)
    for path, measured in table.pages(results).items():
        page = path.read_text(encoding="utf-8")
        assert replace_section(page, measured, table.BEGIN) == page, (
            f"{path.name} is not what {table.RESULTS.name} says: run python -m benchmarks.detection --table"
        )


def test_the_published_results_are_of_the_whole_protocol() -> None:
    for name, results in json.loads(table.RESULTS.read_text(encoding="utf-8")).items():
        assert results["seeds"] == command.SEEDS
        assert len(results["windows"]) == DATA_SETS[name].weeks
        for figures in results["figures"].values():
            assert np.array(figures["average_precision"]).shape == (len(command.SEEDS), DATA_SETS[name].weeks)
