"""A row's score is its own: the same bits alone, beside any rows, at any position, and on any processor."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.detectors.autoencoder import ACTIVATIONS, AutoencoderConfig, layer_sizes
from fraud.detectors.autoencoder_score import Autoencoder
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.schema import Column
from fraud.schema.validation import validate
from fraud.scoring import bundle
from fraud.scoring.detector import Detector
from fraud.scoring.engine import Engine
from fraud.training import fitting
from fraud.training.config import TrainConfig
from tests.fraud.conftest import Fitted
from tests.fraud.scoring.test_engine import MIXED, mixed_frame

LABELLED = replace(MIXED, columns=(*MIXED.columns, Column(name="is_fraud", kind="label")))
# Each with a vector's remainder, a block's remainder or one row in the last block.
BLOCKS = (2, 7, 255, 256, 257, 1000, 16_384, 16_387)
# OpenBLAS's name of a kernel, and what the processor must have to run it (Linux's names).
CORE_TYPES = {
    "Prescott": {"pni"},
    "Haswell": {"avx2", "fma"},
    "Zen": {"avx2", "fma"},
    "SkylakeX": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
}
SCORE = """
import sys
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_info
from fraud.scoring import bundle
from fraud.scoring.engine import Engine

engine = Engine(bundle.load(sys.argv[1]).detector)
engine.score_frame(pd.read_parquet(sys.argv[2])).to_parquet(sys.argv[3])
sys.stdout.write(next(library["architecture"] for library in threadpool_info() if library["user_api"] == "blas"))
"""


@pytest.fixture(scope="module")
def walked() -> Fitted:
    """Missing values and unknown categories, a tanh network with a mixture, a head of trees too large for masks."""
    rng = np.random.default_rng(11)
    frame = mixed_frame(rng, 4000).assign(is_fraud=0)
    frame.loc[rng.random(len(frame)) < 0.05, "is_fraud"] = 1
    frame.loc[frame["is_fraud"] == 1, "amount"] *= 20
    rows = validate(frame.sort_values("when", ignore_index=True), LABELLED).rows
    config = TrainConfig(
        forest=ForestConfig(n_estimators=30),
        autoencoder=AutoencoderConfig(hidden=(11, 3), activation="tanh", score="density", components=3, epochs=2),
        head=HeadConfig(use="always", members=2, iterations=20, max_leaf_nodes=31),
    )
    return Fitted(rows, *fitting.fit_locally(rows, LABELLED, config))


@pytest.fixture(params=["five columns", "without a head", "history", "missing values, walked head"])
def engine_and_raw(
    request: pytest.FixtureRequest, five_columns: Fitted, card_detector: Fitted, walked: Fitted
) -> tuple[Engine, np.ndarray]:
    """An engine, and raw features, float64 (100,000, n_raw), drawn from its rows in a random order."""
    fitted = {"history": card_detector, "missing values, walked head": walked}.get(request.param, five_columns)
    engine = fitted.engine
    if request.param == "without a head":
        detector = fitted.detector
        calibration = replace(detector.calibration, final=None)
        engine = Engine(replace(detector, components=detector.without_labels, calibration=calibration))
    raw = engine.raw(fitted.rows)
    assert np.isnan(raw).any() == (fitted is walked)
    return engine, raw[np.random.default_rng(2).integers(0, len(raw), 100_000)]


def test_a_row_scores_the_same_bits_alone_and_in_any_block(engine_and_raw: tuple[Engine, np.ndarray]) -> None:
    engine, raw = engine_and_raw
    together = engine.score_raw(raw)
    alone = np.concatenate([engine.score_raw(row[None]) for row in raw[:400]])
    assert alone.tobytes() == together[:400].tobytes()
    order = np.random.default_rng(3).permutation(len(raw))
    assert engine.score_raw(raw[order]).tobytes() == together[order].tobytes()
    for size in BLOCKS:
        for first in (0, 3, len(raw) - size):
            piece = slice(first, first + size)
            assert engine.score_raw(raw[piece]).tobytes() == together[piece].tobytes(), (size, first)
    for chunk in (1, 300, 5000):
        assert engine.evidence(raw[:2000], chunk).tobytes() == engine.evidence(raw)[:2000].tobytes()


def test_a_row_has_the_same_reasons_alone_and_among_others(engine_and_raw: tuple[Engine, np.ndarray]) -> None:
    engine, raw = engine_and_raw
    together = engine.contributions(raw[:3000])
    for first, size in ((0, 1), (1, 1), (5, 2), (40, 7), (256, 257)):
        piece = slice(first, first + size)
        assert engine.contributions(raw[piece]).tobytes() == together[piece].tobytes()
    assert engine.contributions(raw[:300], chunk=1).tobytes() == together[:300].tobytes()


def test_a_request_decides_as_the_batch_with_the_threshold_on_its_score(walked: Fitted) -> None:
    rows = walked.rows.tail(300)
    scores = walked.engine.score_frame(rows)
    records = rows.astype(object).where(rows.notna(), None).to_dict(orient="records")
    for record, score in zip(records[:100], scores["score"].iloc[:100], strict=True):
        for value in (score, np.nextafter(score, 1.0)):
            engine = Engine(walked.detector, threshold=replace(walked.detector.threshold, value=value))
            answer, _ = engine.score_and_explain(record)
            assert answer.score == engine.score_row(record).score == score
            assert answer.is_fraud == engine.score_row(record).is_fraud == (score >= value)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(1,), (16, 8), (7, 3), (64, 33, 5)])
@pytest.mark.parametrize("n_features", [1, 5, 45])
def test_a_network_of_any_shape_scores_a_row_the_same_alone(
    n_features: int, hidden: tuple[int, ...], activation: str
) -> None:
    rng = np.random.default_rng(n_features)
    network = random_network(rng, n_features, hidden, activation)
    X = (3 * rng.normal(size=(600, n_features))).astype(np.float32)
    together = network.score(X)
    assert np.isfinite(together).all()
    assert np.concatenate([network.score(row[None]) for row in X]).tobytes() == together.tobytes()
    for size in (2, 3, 7, 8, 31, 256):
        assert network.score(X[-size:]).tobytes() == together[-size:].tobytes()
        assert network.deviations(X[-size:]).tobytes() == network.deviations(X)[-size:].tobytes()


def random_network(rng: np.random.Generator, n_features: int, hidden: tuple[int, ...], activation: str) -> Autoencoder:
    """An autoencoder with random weights and a mixture of three."""
    sizes = np.array(layer_sizes(n_features, AutoencoderConfig(hidden=hidden)), dtype=np.int64)
    n = n_features + hidden[-1]
    return Autoencoder(
        weights=rng.normal(0, 0.5, int((sizes[:-1] * sizes[1:]).sum())).astype(np.float32),
        biases=rng.normal(0, 0.5, int(sizes[1:].sum())).astype(np.float32),
        sizes=sizes,
        latent=len(hidden) - 1,
        activation_code=ACTIVATIONS[activation],
        with_latent=True,
        center=rng.normal(size=n).astype(np.float32),
        factors=rng.normal(size=(3, n, n)).astype(np.float32),
        shifts=rng.normal(size=(3, n)).astype(np.float32),
        log_weights=np.log([0.5, 0.3, 0.2]),
        is_density=True,
    )


@pytest.mark.parametrize("core_type", CORE_TYPES)
def test_scores_are_the_same_bytes_under_every_kernel_of_openblas(
    card_detector: Fitted, tmp_path: Path, core_type: str
) -> None:
    missing = CORE_TYPES[core_type] - processor_flags()
    if missing:
        pytest.skip(f"this processor cannot run OpenBLAS's kernel {core_type}: it lacks {', '.join(sorted(missing))}")
    scores, architecture = scores_in_a_process(card_detector.detector, card_detector.rows, tmp_path, core_type)
    if core_type in ("Prescott", "SkylakeX"):  # numpy's build may know the others by another name
        assert architecture != "Haswell", "OPENBLAS_CORETYPE had no effect"
    pd.testing.assert_frame_equal(scores, card_detector.engine.score_frame(card_detector.rows), check_exact=True)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for the first 64-bit processors of Intel and AMD")
def test_scores_are_the_same_bytes_without_vectors_and_fused_products(card_detector: Fitted, tmp_path: Path) -> None:
    """Compiled for a processor of 2009, by numba and in numpy, which knows neither AVX nor FMA."""
    scores, _ = scores_in_a_process(
        card_detector.detector, card_detector.rows, tmp_path, "Prescott",
        NUMBA_CPU_NAME="x86-64-v2", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path / "compiled"),
        NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4",
    )  # fmt: skip
    pd.testing.assert_frame_equal(scores, card_detector.engine.score_frame(card_detector.rows), check_exact=True)


def processor_flags() -> set[str]:
    """What this processor can do, in Linux's names; nothing where there is no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return set(flags[1].split()) if flags else set()


def scores_in_a_process(
    detector: Detector, rows: pd.DataFrame, folder: Path, core_type: str, **environment: str
) -> tuple[pd.DataFrame, str]:
    """`score_frame` in a process of its own, whose OpenBLAS has the kernel `core_type`, and the kernel it names."""
    bundle.save(folder / "bundle", detector)
    rows.to_parquet(folder / "rows.parquet")
    arguments = [folder / "bundle", folder / "rows.parquet", folder / "scores.parquet"]
    ran = subprocess.run(
        [sys.executable, "-c", SCORE, *map(str, arguments)],
        env={**os.environ, "OPENBLAS_CORETYPE": core_type, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return pd.read_parquet(folder / "scores.parquet"), ran.stdout
