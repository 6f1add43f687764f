"""Fit and judge one data set: every test window once a seed, ours and the peers', on the same rows."""

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

# fraud.training.fitting's names for our scores, in the order of the tables.
OURS = {
    "forest": "forest",
    "autoencoder": "autoencoder",
    "label_light": "label-light joint",
    "head": "supervised head alone",
    "joined": "joined with the head",
}
RESAMPLES = 200


@dataclasses.dataclass(frozen=True)
class JudgedWindow:
    """What the figures of a test window need.

    labels: int8 (n_test,); days: datetime64[D] (n_test,); cards: codes, int64 (n_test,), or None. is_known: bool
    (n_test,), the card was known as compromised by that day, was_known: on the window's first day already.
    """

    labels: np.ndarray
    days: np.ndarray
    cards: np.ndarray | None
    is_known: np.ndarray
    was_known: np.ndarray

    @classmethod
    def of(cls, prepared: Prepared, card: str) -> JudgedWindow:
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
        # The Fraud Detection Handbook's rule counts from the first day of training, with the label delay.
        delay = schema.label_delay_days
        known = known_compromised(days, cards, prepared.labels, delay, np.datetime64(since, "D"))[test]
        arrived = (prepared.labels == 1) & (days >= np.datetime64(since, "D"))
        arrived &= days + np.timedelta64(int(delay), "D") < days[test].min()
        early = np.isin(cards[test], np.unique(cards[arrived]))
        return cls(labels, days[test], pd.factorize(cards[test])[0].astype(np.int64), known, early)

    def judge(self, scores: np.ndarray) -> dict[str, float]:
        """Figures of one score of the rows; card precision, at 100 cards a day, only with cards.

        card_precision leaves out the cards known by each day, as the Fraud Detection Handbook does,
        card_precision_at_start only those known when the window begins.
        """
        found = {
            "roc_auc": measures.roc_auc(self.labels, scores),
            "average_precision": measures.average_precision(self.labels, scores),
        }
        if self.cards is not None:
            for name, left in (("card_precision", ~self.is_known), ("card_precision_at_start", ~self.was_known)):
                found[name] = measures.card_precision_at_k(
                    self.labels[left], scores[left], self.cards[left], self.days[left]
                )
        return found

    def describe(self) -> dict[str, Any]:
        """Rows, frauds, days, and the card precision that a perfect score would reach."""
        return {
            "start": str(self.days.min()),
            "end": str(self.days.max()),
            "rows": len(self.labels),
            "frauds": int((self.labels == 1).sum()),
            "attainable_card_precision": self.judge((self.labels == 1).astype(float)).get("card_precision"),
        }


def run(
    data_set: DataSet, folder: Path, seeds: Sequence[int], *, fast: bool = False, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measure a data set; JSON-ready.

    fast: the newest window only, two epochs, 20 trees, few peers: shows that everything runs, never to be quoted.
    Keys: title, protocol, windows, frauds, figures {who: {metric: [[a value a window] a seed]}}, intervals {who:
    {metric: [low, high]}} of the mean over the windows, first seed, and settings (weights of ours, a list a seed).
    """
    rows = data_set.load(folder)
    schema = data_set.schema
    figures: dict[str, dict[str, list[list[float]]]] = {}
    scored: list[tuple[JudgedWindow, dict[str, np.ndarray]]] = []
    windows: list[dict[str, Any]] = []
    weights: list[list[dict[str, float | None]]] = [[] for _ in seeds]
    for config in data_set.configs(1 if fast else None):
        begin = time.perf_counter()
        prepared = fitting.prepare(_until(rows, data_set, config), schema, config)
        window = JudgedWindow.of(prepared, data_set.card)
        windows.append(window.describe())
        tell(f"{data_set.name}: {windows[-1]}, prepared in {time.perf_counter() - begin:.0f} s")
        for place, seed in enumerate(seeds):
            begin = time.perf_counter()
            ours, chosen = _fit(prepared, _faster(config) if fast else config, seed)
            weights[place].append(chosen)
            seconds = time.perf_counter() - begin
            others = dict(peers.scores(prepared, dataclasses.replace(config, seed=seed), fast=fast))
            for who, scores in (ours | others).items():
                for metric, value in window.judge(scores).items():
                    of_seeds = figures.setdefault(who, {}).setdefault(metric, [[] for _ in seeds])
                    of_seeds[place].append(round(value, 5))
            shown = {
                who: tuple(round(found[metric][place][-1], 3) for metric in found) for who, found in figures.items()
            }
            tell(f"  seed {seed}: fitted in {seconds:.0f} s, all in {time.perf_counter() - begin:.0f} s; {shown}")
            if place == 0:
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
    """The rows before the test window ends: later ones are in none of the windows, and none may be in a history."""
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
    """Our scores of the test rows under their names of the tables, and the weights that validation chose.

    The steps are those of fitting.fit_locally, but that what does not depend on the seed was prepared once.
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
    scored: list[tuple[JudgedWindow, dict[str, np.ndarray]]], seed: int
) -> dict[str, dict[str, list[float]]]:
    """95 % bootstrap interval of each score's mean over the windows, cards drawn whole where there are cards."""
    found = {}
    drawn = [
        list(resample_weights(len(window.labels), RESAMPLES, seed + place, window.cards))
        for place, (window, _) in enumerate(scored)
    ]
    for who in scored[0][1]:
        values: dict[str, list[np.ndarray]] = {"roc_auc": [], "average_precision": []}
        for (window, scores), resamples in zip(scored, drawn, strict=True):
            ranking = WeightedRanking(window.labels, scores[who])
            counted = [ranking.count(weights) for weights in resamples]
            values["roc_auc"].append(np.array([one.roc_auc() for one in counted]))
            values["average_precision"].append(np.array([one.average_precision() for one in counted]))
        bands = {metric: interval(np.mean(parts, axis=0)) for metric, parts in values.items()}
        found[who] = {metric: [round(edge, 4) for edge in band] for metric, band in bands.items() if band}
    return found
