"""Fit the autoencoder with Ray Train, one checkpoint per epoch, on the cluster resources that are free."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from cluster import ray_private
from fraud.detectors.autoencoder import AutoencoderConfig, Training, as_tensor
from fraud.errors import ConfigError, DataError, FraudError
from ray_jobs.train.resume import EPOCHS_FILE, STATE_FILE, TrainingFolder, read_epochs

logger = logging.getLogger(__name__)

# The training fails after this many worker deaths.
MAX_FAILURES = 3
# Ray Train polls its workers every 2 s by default, which delays each epoch's report.
_POLL_SECONDS = 0.1
_SMALLEST_SHARE = 0.01


@dataclass(frozen=True)
class Resources:
    """Resources of the fits. cpus_per_worker: 1, or less if CPUs are in use; the driver reserves none."""

    workers: int
    use_gpu: bool
    cpus_per_worker: float


def check_resources(workers: int, use_gpu: bool) -> Resources:
    """Divide the cluster's resources. Raises ConfigError when the cluster is too small."""
    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    if workers > cpus:
        raise ConfigError(f"--workers {workers} is more than the {cpus} CPUs of this Ray cluster: use at most {cpus}")
    if use_gpu and workers > gpus:
        remedy = f"use --workers {gpus} or --no-gpu" if gpus else "use --no-gpu"
        raise ConfigError(
            f"--gpu with --workers {workers} needs {workers} GPUs and this Ray cluster has {gpus}: {remedy}"
        )
    share = _share_of_cpus(ray_private.free_cpus_by_node(), workers)
    if share < _SMALLEST_SHARE:
        logger.warning("all %d CPUs of the Ray cluster are in use: the training waits for free ones", cpus)
    return Resources(workers, use_gpu, max(share, _SMALLEST_SHARE))


def _share_of_cpus(free: Sequence[float], workers: int) -> float:
    """The largest share of a CPU, at most 1, in hundredths, that fits `workers` on nodes with these free CPUs.

    A worker cannot take half of its share from one node and half from another: three workers on two nodes of one CPU
    get a half each, not two thirds.
    """
    hundredths = [math.floor(cpus * 100 + 1e-6) for cpus in free]
    shares = {min(100, cpus // n) for cpus in hundredths for n in range(1, workers + 1)} - {0}
    return max((share for share in shares if sum(cpus // share for cpus in hundredths) >= workers), default=0) / 100


@dataclass(frozen=True)
class Matrices:
    """References to float32 (n_rows, n_inputs) arrays. shape: that of x_fit."""

    x_fit: ray.ObjectRef
    x_validation: ray.ObjectRef
    shape: tuple[int, int]


def fit_autoencoder(
    matrices: Matrices,
    config: AutoencoderConfig,
    seed: int,
    resources: Resources,
    folder: TrainingFolder,
    on_epoch: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Train to early stopping, resuming from the newest checkpoint in `folder`; return `Training.state_dict()`.

    on_epoch: called with each epoch's report. Raises ConfigError (fewer rows than workers), DataError (the error became
    NaN) or FraudError (workers keep dying).
    """
    shape = matrices.shape
    if shape[0] < resources.workers:
        raise ConfigError(f"--workers {resources.workers} for {shape[0]} training rows: use at most {shape[0]}")
    state = folder.newest_state()
    if state is not None:
        logger.info("resuming %s from epoch %d of at most %d", folder.path.name, len(state["epochs"]), config.epochs)
        if _is_finished(state, shape[1], config):
            return state
    attempt = folder.new_attempt()
    work = {
        "x_fit": matrices.x_fit,
        "x_validation": matrices.x_validation,
        "n_features": shape[1],
        "config": config,
        "seed": seed,
        "state": state,
    }
    result = _watch(_trainer(work, resources, attempt), attempt / EPOCHS_FILE, on_epoch)
    if result.return_value is not None:
        raise DataError(result.return_value)
    state = folder.newest_state()
    if state is None or not _is_finished(state, shape[1], config):
        raise FraudError(
            f"the training ended without a complete checkpoint in {attempt}: is FRAUD_STATE shared by all nodes?"
        )
    return state


def _trainer(work: dict[str, Any], resources: Resources, attempt: Path) -> ray.train.torch.TorchTrainer:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(_POLL_SECONDS))
    per_worker = {"CPU": resources.cpus_per_worker, **({"GPU": 1.0} if resources.use_gpu else {})}
    return ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config=work,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.use_gpu,
            resources_per_worker=per_worker,
            # Spread CPU workers, so that a dead node takes few; pack GPUs, which communicate fastest on one node.
            placement_strategy="PACK" if resources.use_gpu else "SPREAD",
        ),
        run_config=ray.train.RunConfig(
            name=attempt.name,
            storage_path=str(attempt.parent),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[EpochLog(str(attempt / EPOCHS_FILE))],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


class EpochLog(ray.train.UserCallback):
    """Writes each epoch's report and each failure to a file that the driver reads.

    Ray Train keeps its controller, where this runs, on the driver's machine.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Ray Train has stored the epoch's checkpoint."""
        nodes = [worker["node"] for worker in metrics]
        self._write({**metrics[0], "nodes": nodes, "time": time.time()})

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A worker died or raised; Ray Train restarts the workers from the last checkpoint."""
        rank, error = next(iter(worker_exceptions.items()))
        self._write({"failed_rank": rank, "failure": " ".join(str(error).split())[-300:]})

    def _write(self, line: Mapping[str, Any]) -> None:
        with Path(self._path).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _watch(trainer: Any, epochs: Path, on_epoch: Callable[[Mapping[str, Any]], None]) -> Any:
    """Fit in a thread; report epochs from the main thread, which receives signals."""
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except ray.train.TrainingFailedError as error:
            outcome["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    seen = 0
    while True:
        is_running = thread.is_alive()
        for line in read_epochs(epochs, seen):
            seen += 1
            if "failure" in line:
                logger.warning(
                    "worker %s failed, resuming from the last checkpoint: %s", line["failed_rank"], line["failure"]
                )
            else:
                on_epoch(line)
        if not is_running:
            break
        thread.join(_POLL_SECONDS)
    if "result" in outcome:
        return outcome["result"]
    cause = outcome.get("error")
    raise FraudError(
        f"the autoencoder's workers failed more than {MAX_FAILURES} times ({' '.join(str(cause).split())[:500]}): "
        "the checkpoints remain; fix the cause and run the same command again"
    ) from cause


def _train_loop(loop: dict[str, Any]) -> str | None:
    """Runs on each worker. Returns the text of a data or configuration error, which a retry cannot fix."""
    import torch

    torch.set_num_threads(1)  # two threads on a model this small, on two busy cores, are tens of times slower
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = str(ray.train.torch.get_device())
    training = Training(loop["n_features"], loop["config"], loop["seed"], device, rank, world_size)
    state = _checkpointed_state() or loop["state"]
    if state is not None:
        training.load_state_dict(state)
    if world_size > 1:
        training.distribute(ray.train.torch.prepare_model, lambda values: _mean_over_workers(values, device))
    x_fit, x_validation = (as_tensor(ray.get(loop[name]), device) for name in ("x_fit", "x_validation"))
    while not training.is_finished:
        started = time.perf_counter()
        try:
            epoch = training.run_epoch(x_fit, x_validation)
        except DataError as error:
            return str(error)
        report = {
            "epoch": epoch.number,
            "train_error": epoch.train_error,
            "validation_error": epoch.validation_error,
            "is_best": epoch.is_best,
            "seconds": time.perf_counter() - started,
            "node": ray.get_runtime_context().get_node_id(),
        }
        # Waits until the previous checkpoint is committed, so a kill costs one finished epoch at most.
        if rank == 0 and epoch.number > 1:
            ray.train.get_all_reported_checkpoints(consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                torch.save(training.state_dict(), Path(folder) / STATE_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(report, checkpoint=checkpoint)
    return None


def _checkpointed_state() -> dict[str, Any] | None:
    """The state of this driver's last checkpoint, for a worker that replaces a dead one."""
    import torch

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)


def _is_finished(state: dict[str, Any], n_features: int, config: AutoencoderConfig) -> bool:
    training = Training(n_features, config)
    training.load_state_dict(state)
    return training.is_finished


def _mean_over_workers(values: list[float], device: str) -> list[float]:
    import torch

    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return (total / torch.distributed.get_world_size()).tolist()
