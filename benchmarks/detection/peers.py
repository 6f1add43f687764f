"""Common models, measured in the same run on the same features, windows and test rows.

Anomaly detectors are fitted on the training rows not labelled as fraud, as ours are, or on all training rows where that
is common practice. PyOD's detectors are skipped if PyOD is not installed.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest

from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.training import fitting
from fraud.training.config import TrainConfig
from fraud.training.fitting import Prepared

# The PyOD detectors that score a week in seconds. PYOD_ROWS limits their memory.
PYOD = {"ECOD": "pyod.models.ecod", "HBOS": "pyod.models.hbos", "INNE": "pyod.models.inne"}
PYOD_ROWS = 20_000
# Trained on train and validation. The defaults diverge on the ULB data, so conservative settings are added.
SUPERVISED = {
    "HistGradientBoosting, defaults": {},
    "HistGradientBoosting, rate 0.05, 8 leaves, 200 rounds": {
        "learning_rate": 0.05, "max_leaf_nodes": 8, "max_iter": 200, "early_stopping": False
    },
}  # fmt: skip


def scores(prepared: Prepared, config: TrainConfig, *, fast: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each peer's name and its scores of the test rows, float64 (n_test,), higher = more suspicious."""
    split, seed, labels = prepared.split, config.seed, prepared.labels
    assert labels is not None
    raw = np.where(np.isnan(prepared.raw), 0.0, prepared.raw)  # missing: no history yet
    everything = IsolationForest(random_state=seed).fit(raw[split.train])
    yield "IsolationForest, defaults, every raw feature", -everything.score_samples(raw[split.test])
    train, test = (prepared.features.transform(prepared.raw[rows]) for rows in (split.train, split.test))
    forest = IsolationForest(random_state=seed).fit(train)
    yield "IsolationForest, defaults, our detectors' inputs", -forest.score_samples(test)
    plain = AutoencoderConfig(hidden=(16, 8), noise=0.0, score="mse", epochs=2 if fast else 10)
    fitted, _ = fitting.fit_autoencoder(train, prepared.x_validation, dataclasses.replace(config, autoencoder=plain))
    yield "the seed's autoencoder 16-8, all rows, MSE", fitted.score(test)
    if importlib.util.find_spec("pyod") and not fast:
        normal = prepared.x_fit
        drawn = np.random.default_rng(seed).permutation(len(normal))[:PYOD_ROWS]
        for name, module in PYOD.items():
            settings = {"random_state": seed} if name == "INNE" else {}
            detector = getattr(importlib.import_module(module), name)(**settings).fit(normal[drawn])
            yield f"PyOD {name}, {len(drawn):,} normal rows", detector.decision_function(test)
    both = np.concatenate([split.train, split.validation])
    both = both[labels[both] >= 0]
    for name, settings in SUPERVISED.items():
        supervised = HistGradientBoostingClassifier(random_state=seed, **settings).fit(prepared.raw[both], labels[both])
        yield name, supervised.predict_proba(prepared.raw[split.test])[:, 1]
