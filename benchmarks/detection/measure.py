"""Fit and evaluate our detectors and the peers on one data set: each test window once per seed, on the same rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.detection import peers
from benchmarks.detection.protocols import DataSet
from fraud.detectors import forest
from fraud.judging.evaluation import known_compromised
from fraud.metrics import measures
from fraud.metrics.resampling import WeightedRanking, interval, resample_weights
from fraud.schema.zone import zone_of
from fraud.training import fitting
from fraud.training.config import TrainConfig
from fraud.training.fitting import Prepared

# Our scores: name in fraud.training.fitting → name in the tables, in table order.
OURS = {
    "forest": "forest",
    "autoencoder": "autoencoder",
    "label_light": "label-light joint",
    "head": "supervised head alone",
    "joined": "joined with the head",
}
RESAMPLES = 200


@dataclasses.dataclass(frozen=True)
class EvaluationWindow:
    """Labels, days and cards of a test window.

    labels: int8 (n_test,). days: datetime64[D] (n_test,). cards: codes, int64 (n_test,), or None. is_known, was_known:
    bool (n_test,); the card was known as compromised by that day, or by the window's first day.
    """

    labels: np.ndarray
    days: np.ndarray
    cards: np.ndarray | None
    is_known: np.ndarray
    was_known: np.ndarray

    @classmethod
    def of(cls, prepared: Prepared, card: str) -> EvaluationWindow:
        """The test window of `prepared`; card: entity column, or ""."""
        schema, split = prepared.schema, prepared.split
        assert prepared.labels is not None and schema.timestamp is not None
        used = np.concatenate([split.train, split.validation, split.test])
        since = prepared.rows[schema.timestamp.name].iloc[used[0]]
        days = zone_of(schema).day_of(prepared.rows[schema.timestamp.name].to_numpy())
        labels, test = prepared.labels[split.test], split.test
        if not card:
            nobody = np.zeros(len(test), dtype=bool)
            return cls(labels, days[test], None, nobody, nobody)
        cards = pd.factorize(prepared.rows[card])[0].astype(np.int64)
        # As in the Fraud Detection Handbook: frauds since the first training day, after the label delay.
        delay = schema.label_delay_days
        known = known_compromised(days, cards, prepared.labels, delay, np.datetime64(since, "D"))[test]
        arrived = (prepared.labels == 1) & (days >= np.datetime64(since, "D"))
        arrived &= days + np.timedelta64(int(delay), "D") < days[test].min()
        early = np.isin(cards[test], np.unique(cards[arrived]))
        return cls(labels, days[test], pd.factorize(cards[test])[0].astype(np.int64), known, early)

    def judge(self, scores: np.ndarray) -> dict[str, float]:
        """Metrics of one score of the rows. Card precision, at 100 cards per day, needs cards.

        card_precision excludes the cards known by each day, as the Fraud Detection Handbook does;
        card_precision_at_start excludes only those known when the window begins.
        """
        values = {
            "roc_auc": measures.roc_auc(self.labels, scores),
            "average_precision": measures.average_precision(self.labels, scores),
        }
        if self.cards is not None:
            for name, left in (("card_precision", ~self.is_known), ("card_precision_at_start", ~self.was_known)):
                values[name] = measures.card_precision_at_k(
                    self.labels[left], scores[left], self.cards[left], self.days[left]
                )
        return values

    def describe(self) -> dict[str, Any]:
        """Rows, frauds, days, and the card precision of a perfect score."""
        return {
            "start": str(self.days.min()),
            "end": str(self.days.max()),
            "rows": len(self.labels),
            "frauds": int((self.labels == 1).sum()),
            "attainable_card_precision": self.judge((self.labels == 1).astype(float)).get("card_precision"),
        }


def run(
    data_set: DataSet, folder: Path, seeds: Sequence[int], *, fast: bool = False, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measure one data set; returns JSON-ready results.

    fast: smoke test with the newest window, two epochs, 20 trees and few peers; do not quote its figures.
    Keys: title, protocol, windows, figures {who: {metric: [[value per window] per seed]}}, intervals {who: {metric:
    [low, high]}} of the mean over the windows (first seed), settings (our weights, one list per seed).
    """
    rows = data_set.load(folder)
    schema = data_set.schema
    figures: dict[str, dict[str, list[list[float]]]] = {}
    scored: list[tuple[EvaluationWindow, dict[str, np.ndarray]]] = []
    windows: list[dict[str, Any]] = []
    weights: list[list[dict[str, float | None]]] = [[] for _ in seeds]
    for config in data_set.configs(1 if fast else None):
        begin = time.perf_counter()
        prepared = fitting.prepare(_until(rows, data_set, config), schema, config)
        window = EvaluationWindow.of(prepared, data_set.card)
        windows.append(window.describe())
        log(f"{data_set.name}: {windows[-1]}, prepared in {time.perf_counter() - begin:.0f} s")
        for index, seed in enumerate(seeds):
            begin = time.perf_counter()
            ours, chosen = _fit(prepared, _faster(config) if fast else config, seed)
            weights[index].append(chosen)
            seconds = time.perf_counter() - begin
            others = dict(peers.scores(prepared, dataclasses.replace(config, seed=seed), fast=fast))
            for who, scores in (ours | others).items():
                for metric, value in window.judge(scores).items():
                    of_seeds = figures.setdefault(who, {}).setdefault(metric, [[] for _ in seeds])
                    of_seeds[index].append(round(value, 5))
            shown = {
                who: tuple(round(metrics[metric][index][-1], 3) for metric in metrics)
                for who, metrics in figures.items()
            }
            log(f"  seed {seed}: fitted in {seconds:.0f} s, all in {time.perf_counter() - begin:.0f} s; {shown}")
            if index == 0:
                scored.append((window, ours | others))
        del prepared
    return {
        "title": data_set.title,
        "protocol": data_set.protocol,
        "windows": windows,
        "figures": figures,
        "intervals": _intervals(scored, seeds[0]),
        "settings": weights,
    }


def _until(rows: pd.DataFrame, data_set: DataSet, config: TrainConfig) -> pd.DataFrame:
    """The rows before the end of the test window; later rows must not reach the history features."""
    if config.split.test_end is None:
        return rows
    timestamp = data_set.schema.timestamp
    assert timestamp is not None
    return rows[rows[timestamp.name] < pd.Timestamp(config.split.test_end)].reset_index(drop=True)


def _faster(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(
        config,
        forest=dataclasses.replace(config.forest, n_estimators=20),
        autoencoder=dataclasses.replace(config.autoencoder, epochs=2),
        head=dataclasses.replace(config.head, members=1, iterations=30),
    )


def _fit(prepared: Prepared, config: TrainConfig, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float | None]]:
    """Our scores of the test rows by table name, and the weights chosen on validation.

    Same steps as fitting.fit_locally; the seed-independent part is prepared once.
    """
    config = dataclasses.replace(config, seed=seed)
    grown = forest.fit(prepared.x_fit, config.forest, seed)
    trained, _ = fitting.fit_autoencoder(fitting.trim(prepared, grown, config), prepared.x_validation, config)
    detector, evaluation = fitting.assemble(prepared, grown, trained, config)
    calibration = detector.calibration
    return (
        {OURS[name]: evaluation.scores[name] for name in OURS},
        {"forest_weight": calibration.forest_weight, "head_weight": calibration.head_weight},
    )


def _intervals(
    scored: list[tuple[EvaluationWindow, dict[str, np.ndarray]]], seed: int
) -> dict[str, dict[str, list[float]]]:
    """95 % bootstrap interval of each score's mean over the windows; resamples cards where there are cards."""
    intervals = {}
    drawn = [
        list(resample_weights(len(window.labels), RESAMPLES, seed + index, window.cards))
        for index, (window, _) in enumerate(scored)
    ]
    for who in scored[0][1]:
        values: dict[str, list[np.ndarray]] = {"roc_auc": [], "average_precision": []}
        for (window, scores), resamples in zip(scored, drawn, strict=True):
            ranking = WeightedRanking(window.labels, scores[who])
            counted = [ranking.count(weights) for weights in resamples]
            values["roc_auc"].append(np.array([one.roc_auc() for one in counted]))
            values["average_precision"].append(np.array([one.average_precision() for one in counted]))
        bands = {metric: interval(np.mean(parts, axis=0)) for metric, parts in values.items()}
        intervals[who] = {metric: [round(edge, 4) for edge in band] for metric, band in bands.items() if band}
    return intervals
