"""The fitted autoencoder as plain arrays, and its score.

The score is the logarithm of the residual's size: squared, standardised per feature, or whitened (Mahalanobis),
optionally together with the latent code; or the negative log-likelihood under a Gaussian mixture of residual and latent
code (as Zong et al., "Deep autoencoding Gaussian mixture model for unsupervised anomaly detection", ICLR 2018, but
fitted after the network). docs/experiments.md compares them on published card data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fraud.detectors import network_kernels
from fraud.detectors.autoencoder import ACTIVATIONS, AutoencoderConfig, layer_sizes
from fraud.detectors.base import Fitted

# Added to the mixture's variances (the space has unit variance), so that no component collapses onto a few rows.
_MIXTURE_FLOOR = 1e-2


@dataclass(frozen=True)
class Autoencoder(Fitted):
    """A fitted autoencoder as arrays.

    weights, biases: float32, all layers' (fan_in, fan_out) matrices and biases flattened; sizes: int64 (n_layers + 1,);
    latent: layer whose output (before its activation) is the latent code, part of the deviation if with_latent.
    Each of k components transforms a deviation d (residual and perhaps latent code, n numbers):
    z_k = (d - center) @ factors[k] - shifts[k]; center: float32 (n,), factors: float32 (k, n, n), shifts: float32
    (k, n). The score is log(mean(z_0 ** 2)), or with is_density the mixture's negative log-likelihood per dimension,
    -logsumexp(log_weights - sum(z ** 2) / 2) / n; log_weights: float64 (k,).
    """

    name: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "autoencoder"
    example: ClassVar[float] = 0.96
    is_optional: ClassVar[bool] = False

    weights: np.ndarray
    biases: np.ndarray
    sizes: np.ndarray
    latent: int
    activation_code: int
    with_latent: bool
    center: np.ndarray
    factors: np.ndarray
    shifts: np.ndarray
    log_weights: np.ndarray
    is_density: bool

    def score(self, X: np.ndarray) -> np.ndarray:
        """Log anomaly score, float64 (n_rows,); higher is more unusual. X: float32 (n_rows, n_features)."""
        out = np.empty(len(X))
        network_kernels.autoencoder_rows(np.ascontiguousarray(X, dtype=np.float32), self.kernel_arguments, out)
        return out

    def is_sound(self, n_inputs: int) -> bool:
        """Whether the shapes of layers and spread are consistent."""
        sizes, n, k = self.sizes, len(self.center), len(self.log_weights)
        layers = list(zip(sizes[:-1].tolist(), sizes[1:].tolist(), strict=True))
        return (
            int(sizes[0]) == n_inputs == int(sizes[-1])
            and bool((sizes > 0).all())
            and len(self.weights) == sum(i * o for i, o in layers)
            and len(self.biases) == sum(o for _, o in layers)
            and 0 <= self.latent < len(layers)
            and n == n_inputs + (layers[self.latent][1] if self.with_latent else 0)
            and self.factors.shape == (k, n, n)
            and self.shifts.shape == (k, n)
            and k > 0
        )

    def deviations(self, X: np.ndarray) -> np.ndarray:
        """Residual (reconstruction - x) and, if the score uses it, the latent code: float32 (n_rows, n)."""
        out = np.empty((len(self.center), len(X)), dtype=np.float32)
        network_kernels.deviation_rows(np.ascontiguousarray(X, dtype=np.float32), self.kernel_arguments, out)
        return out.T

    @property
    def kernel_arguments(self) -> network_kernels.AutoencoderArguments:
        """Arguments of network_kernels.autoencoder_rows."""
        return network_kernels.AutoencoderArguments(**self.__dict__)


def export(
    training_weights: dict[str, Any], x_normal: np.ndarray, config: AutoencoderConfig, seed: int = 0
) -> Autoencoder:
    """Turn the best weights of a training into arrays, and fit the residual's spread on normal rows.

    x_normal: training rows, float32 (n_rows, n_features). seed: of the mixture.
    """
    matrices = [v.numpy() for k, v in training_weights.items() if k.endswith("weight")]
    biases = [v.numpy() for k, v in training_weights.items() if k.endswith("bias")]
    n_features = x_normal.shape[1]
    with_latent = config.score in ("density", "whitened_latent")
    n = n_features + (config.hidden[-1] if with_latent else 0)
    bare = Autoencoder(
        weights=np.concatenate([m.T.ravel() for m in matrices]).astype(np.float32),
        biases=np.concatenate(biases).astype(np.float32),
        sizes=np.array(layer_sizes(n_features, config), dtype=np.int64),
        latent=len(config.hidden) - 1,
        activation_code=ACTIVATIONS[config.activation],
        with_latent=with_latent,
        center=np.zeros(n, dtype=np.float32),
        factors=np.eye(n, dtype=np.float32)[None],
        shifts=np.zeros((1, n), dtype=np.float32),
        log_weights=np.zeros(1),
        is_density=False,
    )
    if config.score == "mse":
        return bare
    deviations = bare.deviations(x_normal).astype(np.float64)
    center = deviations.mean(axis=0)
    covariance = np.cov(deviations, rowvar=False).reshape(n, n) if len(deviations) > 1 else np.eye(n)
    if config.score == "zscore":
        covariance = np.diag(np.diag(covariance))
    whitening = _whiten(covariance)
    known = {**bare.__dict__, "center": center.astype(np.float32)}
    if config.score != "density":
        return Autoencoder(**{**known, "factors": whitening[None]})
    return Autoencoder(**{**known, **_mixture((deviations - center) @ whitening, whitening, config, seed)})


def _mixture(spread: np.ndarray, whitening: np.ndarray, config: AutoencoderConfig, seed: int) -> dict[str, Any]:
    """Fit a Gaussian mixture to whitened deviations, float64 (n_rows, n), and fold the whitening into its factors."""
    from sklearn.mixture import GaussianMixture

    rows = np.random.default_rng(seed).permutation(len(spread))[: config.mixture_rows]
    components = min(config.components, len(rows))
    mixture = GaussianMixture(
        components, reg_covar=_MIXTURE_FLOOR, max_iter=100, random_state=seed, init_params="k-means++"
    ).fit(spread[np.sort(rows)])
    factors = mixture.precisions_cholesky_
    log_determinants = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    return {
        "factors": (whitening.astype(np.float64) @ factors).astype(np.float32),
        "shifts": np.einsum("kn,knm->km", mixture.means_, factors).astype(np.float32),
        "log_weights": np.log(mixture.weights_) + log_determinants - 0.5 * spread.shape[1] * np.log(2 * np.pi),
        "is_density": True,
    }


def _whiten(covariance: np.ndarray) -> np.ndarray:
    """Matrix W, float32 (n, n), for which the rows of (deviation @ W) have unit covariance.

    Dimensions are scaled to unit variance before the eigendecomposition, since latent codes vary a hundred times more
    than residuals. Both steps have a lower bound (a standard deviation of 1e-3, a variance of 1e-4), so that rounding
    noise in constant columns and dead latent units does not decide a score.
    """
    spread = np.maximum(np.sqrt(np.diag(covariance)), 1e-3)
    variances, directions = np.linalg.eigh(covariance / np.outer(spread, spread))
    return (directions / np.sqrt(np.maximum(variances, 1e-4)) / spread[:, None]).astype(np.float32)
