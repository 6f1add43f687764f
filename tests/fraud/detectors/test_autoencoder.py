"""The autoencoder: arrays equal the torch module, training resumes exactly, scores rank outliers first."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from fraud.detectors import autoencoder_score
from fraud.detectors.autoencoder import ACTIVATIONS, SCORES, AutoencoderConfig, Training
from fraud.errors import ConfigError, DataError

CONFIG = AutoencoderConfig(hidden=(6, 3), epochs=6, batch_size=64, patience=3, lr=0.01)


@pytest.fixture
def tensors(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated normal rows: five features driven by two hidden causes."""
    x = (rng.normal(size=(1200, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(1200, 5))).astype(np.float32)
    return torch.from_numpy(x[:1000]), torch.from_numpy(x[1000:])


def train(tensors: tuple[torch.Tensor, torch.Tensor], config: AutoencoderConfig = CONFIG, seed: int = 0) -> Training:
    training = Training(5, config, seed)
    while not training.is_finished:
        training.run_epoch(*tensors)
    return training


def test_error_falls_and_the_best_epoch_is_kept(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    training = train(tensors)
    errors = [epoch.validation_error for epoch in training.epochs]
    assert training.best_error <= min(errors) * (1 + 1e-3)
    assert errors[-1] < 0.8 * errors[0]


def test_same_seed_same_weights(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.1, mask=0.1, epochs=2)
    first, again, other = (train(tensors, config, seed) for seed in (1, 1, 2))
    for name, weight in first.best_weights.items():
        assert torch.equal(weight, again.best_weights[name])
    assert any(not torch.equal(weight, other.best_weights[name]) for name, weight in first.best_weights.items())


def test_stopping_and_resuming_changes_nothing(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.1, mask=0.1)
    uninterrupted = train(tensors, config)
    first = Training(5, config, 0)
    first.run_epoch(*tensors)
    first.run_epoch(*tensors)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    resumed = Training(5, config, 0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    while not resumed.is_finished:
        resumed.run_epoch(*tensors)
    assert [e.validation_error for e in resumed.epochs] == [e.validation_error for e in uninterrupted.epochs]
    for name, weight in uninterrupted.best_weights.items():
        assert torch.equal(weight, resumed.best_weights[name])


def test_training_stops_when_patience_runs_out(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    config = dataclasses.replace(CONFIG, lr=1e-9, epochs=50, patience=2)
    assert len(train(tensors, config).epochs) <= 4


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_arrays_equal_the_torch_module(tensors: tuple[torch.Tensor, torch.Tensor], activation: str) -> None:
    config = dataclasses.replace(CONFIG, activation=activation, epochs=2, score="mse")
    training = train(tensors, config)
    training.plain_module.load_state_dict(training.best_weights)
    training.plain_module.eval()
    x = tensors[1] * 3
    with torch.no_grad():
        expected = ((training.plain_module(x) - x) ** 2).mean(dim=1).log().numpy()
    exported = autoencoder_score.export(training.best_weights, tensors[0].numpy(), config)
    np.testing.assert_allclose(exported.score(x.numpy()), expected, rtol=1e-5, atol=1e-5)


def test_density_is_the_likelihood_of_scikit_learns_mixture(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    training = train(tensors)
    x = tensors[0].numpy()
    whitened = autoencoder_score.export(training.best_weights, x, dataclasses.replace(CONFIG, score="whitened_latent"))
    density = autoencoder_score.export(
        training.best_weights, x, dataclasses.replace(CONFIG, score="density", components=3), seed=4
    )
    spread = (whitened.deviations(x) - whitened.center) @ whitened.factors[0]
    expected = GaussianMixture(3, reg_covar=0.01, random_state=4, init_params="k-means++").fit(spread)
    np.testing.assert_allclose(
        density.score(x), -expected.score_samples(spread) / spread.shape[1], rtol=1e-3, atol=1e-3
    )
    assert len(density.factors) == 3


@pytest.mark.parametrize("score", SCORES)
def test_one_row_scores_as_in_a_batch(tensors: tuple[torch.Tensor, torch.Tensor], score: str) -> None:
    training = train(tensors, dataclasses.replace(CONFIG, epochs=2))
    x = np.ascontiguousarray(tensors[1].numpy()[:50]) * 2
    exported = autoencoder_score.export(
        training.best_weights, tensors[0].numpy(), dataclasses.replace(CONFIG, score=score)
    )
    singly = np.concatenate([exported.score(row[None]) for row in x])
    np.testing.assert_array_equal(singly, exported.score(x))


@pytest.mark.parametrize("score", SCORES)
def test_scores_rank_broken_correlations_first(tensors: tuple[torch.Tensor, torch.Tensor], score: str) -> None:
    training = train(tensors, dataclasses.replace(CONFIG, epochs=20, noise=0.0))
    exported = autoencoder_score.export(
        training.best_weights, tensors[0].numpy(), dataclasses.replace(CONFIG, score=score)
    )
    normal = tensors[1].numpy()
    broken = normal.copy()
    broken[:, 0] = -broken[:, 0] + 4  # each value is ordinary on its own; together they are not
    is_broken = np.repeat([0, 1], len(normal))
    assert roc_auc_score(is_broken, np.r_[exported.score(normal), exported.score(broken)]) > 0.9


def test_whitened_score_of_normal_rows_is_one_on_average(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    training = train(tensors)
    for score in ("whitened", "whitened_latent", "zscore"):
        exported = autoencoder_score.export(
            training.best_weights, tensors[0].numpy(), dataclasses.replace(CONFIG, score=score)
        )
        assert np.exp(exported.score(tensors[0].numpy())).mean() == pytest.approx(1.0, abs=0.05)


def test_whitening_survives_a_constant_column(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    constant = tuple(t.clone() for t in tensors)
    for t in constant:
        t[:, 2] = 0.0
    training = train((constant[0], constant[1]))
    scores = autoencoder_score.export(training.best_weights, constant[0].numpy(), CONFIG).score(constant[1].numpy())
    assert np.isfinite(scores).all()
    assert np.median(scores) < np.log(5)


def test_divergence_is_an_error_that_names_the_remedy(tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(DataError, match=r"autoencoder\.lr"):
        train((tensors[0] * 1e30, tensors[1]), CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", ()),
        ("hidden", (0,)),
        ("activation", "swish"),
        ("dropout", 1.0),
        ("noise", -1.0),
        ("mask", 1.0),
        ("lr", 0.0),
        ("batch_size", 0),
        ("weight_decay", -1.0),
        ("epochs", 0),
        ("patience", 0),
        ("score", "mae"),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"autoencoder.{name}="):
        AutoencoderConfig(**{name: value})
