"""The torch autoencoder: settings and resumable training.

It learns to reconstruct normal rows from a noisy or masked copy (Vincent et al., "Extracting and composing
robust features with denoising autoencoders", ICML 2008). fraud/detectors/autoencoder_score.py defines the score.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field

from fraud.configuration import Count, Number, Whole, configuration
from fraud.detectors import network_kernels
from fraud.errors import DataError

if TYPE_CHECKING:
    import torch

ACTIVATIONS = {
    "relu": network_kernels.RELU,
    "leaky_relu": network_kernels.LEAKY_RELU,
    "tanh": network_kernels.TANH,
    "elu": network_kernels.ELU,
}
Activation = Literal["relu", "leaky_relu", "tanh", "elu"]
ScoreKind = Literal["density", "whitened_latent", "whitened", "zscore", "mse"]
SCORES = get_args(ScoreKind)


@configuration("autoencoder")
class AutoencoderConfig:
    """Settings of the autoencoder.

    hidden: layer widths from input to latent layer; the decoder mirrors them (16, 8 gives input-16-8-16-output).
    noise: standard deviation of the Gaussian noise added to the scaled inputs while training; mask: share of inputs
    zeroed. batch_size: rows per step, over all workers. patience: epochs without a better validation error before
    stopping. score: how a residual becomes a score. components: Gaussians of the density score. mixture_rows: maximum
    rows to fit these on; the time to fit is proportional to them, and can exceed the training's.
    """

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 8)
    activation: Activation = "relu"
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    noise: Annotated[Number, Field(ge=0)] = 0.1
    mask: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    lr: Annotated[Number, Field(gt=0)] = 1e-3
    batch_size: Count = 256
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    epochs: Count = 30
    patience: Count = 5
    score: ScoreKind = "whitened_latent"
    components: Count = 5
    mixture_rows: Annotated[Whole, Field(ge=2)] = 60_000


def build(n_features: int, config: AutoencoderConfig) -> torch.nn.Sequential:
    """The module: n_features -> hidden -> mirrored hidden -> n_features, no activation on the output."""
    from torch import nn

    activation = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "elu": nn.ELU}[config.activation]
    sizes = layer_sizes(n_features, config)
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        if index < len(sizes) - 2:
            layers.append(activation())
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)


def layer_sizes(n_features: int, config: AutoencoderConfig) -> list[int]:
    """Widths of all layers, with input and output."""
    return [n_features, *config.hidden, *config.hidden[-2::-1], n_features]


def as_tensor(array: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """The array on the device; on a CPU it shares memory, which is read-only if from Ray's object store."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array).to(device)


@dataclass(frozen=True)
class Epoch:
    """Result of an epoch. train_error, validation_error: mean squared error of the scaled inputs."""

    number: int
    train_error: float
    validation_error: float
    is_best: bool


@dataclass
class Training:
    """A training that can be saved after any epoch and resumed with the same result.

    Each worker of a data-parallel training has one. The row order comes from seed and epoch, worker `rank` takes every
    `world_size`-th row, and each worker computes the full validation error. So the workers need no communication.
    """

    n_features: int
    config: AutoencoderConfig
    seed: int = 0
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    module: Any = (
        None  # the module to call: DistributedDataParallel around `plain_module` when there are several workers
    )
    epochs: list[Epoch] = field(default_factory=list)
    best_error: float = float("inf")
    best_weights: dict[str, Any] = field(default_factory=dict)
    stale_epochs: int = 0
    average: Callable[[list[float]], list[float]] = list

    def __post_init__(self) -> None:
        import torch

        torch.manual_seed(self.seed)
        self.plain_module = build(self.n_features, self.config).to(self.device)
        self.module = self.module or self.plain_module
        self.optimizer = torch.optim.AdamW(
            self.plain_module.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )

    def distribute(self, wrap: Any, average: Callable[[list[float]], list[float]]) -> None:
        """Take steps through `wrap(module)`, e.g. ray.train.torch.prepare_model.

        average: the mean of numbers over the workers. It makes errors equal on all workers: with different rounding,
        one could stop while the others wait for it.
        """
        self.module = wrap(self.plain_module)
        self.average = average

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done or the validation error has stopped falling."""
        return len(self.epochs) >= self.config.epochs or self.stale_epochs >= self.config.patience

    def run_epoch(self, x_train: torch.Tensor, x_validation: torch.Tensor) -> Epoch:
        """Train one epoch on x_train, float32 (n_rows, n_features) on `device`.

        Raises DataError if the error is not finite.
        """
        import torch

        number = len(self.epochs) + 1
        order = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        permutation = torch.randperm(len(x_train), generator=order)
        # Workers share the row order, but not the noise.
        noise = torch.Generator(device=self.device).manual_seed((self.seed * 1_000_003 + number) * 64 + self.rank)
        # Dropout uses the global generator.
        torch.manual_seed((self.seed * 1_000_003 + number) * 64 + self.rank)
        share = max(1, self.config.batch_size // self.world_size)
        steps = max(1, -(-(len(x_train) // self.world_size) // share))
        mine = permutation[self.rank :: self.world_size].to(self.device)
        self.module.train()
        total = torch.zeros((), device=self.device)
        for step in range(steps):
            clean = x_train[mine[step * share : (step + 1) * share]]
            loss = torch.nn.functional.mse_loss(self.module(self._corrupt(clean, noise)), clean)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        train_error, validation_error = self.average([float(total) / steps, self._error(x_validation)])
        if not np.isfinite(train_error) or not np.isfinite(validation_error):
            raise DataError(
                f"autoencoder error became {train_error} in epoch {number}: "
                f"lower autoencoder.lr ({self.config.lr}) or features.clip"
            )
        is_best = validation_error < self.best_error * (1 - 1e-4)
        if is_best:
            self.best_error = validation_error
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.plain_module.state_dict().items()}
            self.stale_epochs = 0
        else:
            self.stale_epochs += 1
        epoch = Epoch(number, train_error, validation_error, is_best)
        self.epochs.append(epoch)
        return epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume, in types that torch.load(weights_only=True) accepts."""
        return {
            "module": self.plain_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_error": self.best_error,
            "best_weights": self.best_weights,
            "stale_epochs": self.stale_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict()`. Call before `distribute`."""
        self.plain_module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.best_error = float(state["best_error"])
        self.best_weights = state["best_weights"]
        self.stale_epochs = int(state["stale_epochs"])

    def _corrupt(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import torch

        noisy = clean
        if self.config.noise:
            noisy = noisy + self.config.noise * torch.randn(clean.shape, generator=generator, device=self.device)
        if self.config.mask:
            noisy = noisy * (torch.rand(clean.shape, generator=generator, device=self.device) >= self.config.mask)
        return noisy

    def _error(self, x: torch.Tensor) -> float:
        import torch

        self.plain_module.eval()
        with torch.no_grad():
            errors = [torch.mean((self.plain_module(part) - part) ** 2, dim=1) for part in x.split(65_536)]
        return float(torch.cat(errors).double().mean())
