"""The state of an unfinished training on disk: after a kill the same command resumes from it.

<root>/<name>.lock                     locked by the process that runs it
<root>/<name>/run.json                 the MLflow run it reports to
<root>/<name>/attempt-0001/            one folder per driver: Ray Train's checkpoints, and epochs.jsonl
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fraud.data.locks import AlreadyLockedError, exclusive
from fraud.errors import ConfigError
from fraud.schema import Schema
from fraud.training.config import TrainConfig

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"
EPOCHS_FILE = "epochs.jsonl"


@dataclass(frozen=True)
class TrainingFolder:
    """One training's folder; it exists while the training is not complete."""

    path: Path

    @property
    def run_id(self) -> str | None:
        """The MLflow run that an earlier driver reported to."""
        file = self.path / "run.json"
        return json.loads(file.read_text())["run_id"] if file.exists() else None

    def remember_run(self, run_id: str) -> None:
        """Save the id of this training's MLflow run."""
        draft = self.path / ".run.json"
        draft.write_text(json.dumps({"run_id": run_id}))
        draft.replace(self.path / "run.json")

    def new_attempt(self) -> Path:
        """Make a folder for this driver.

        Each driver has its own, because the workers of a killed one may still be writing.
        """
        attempt = self.path / f"attempt-{len(self._attempts()) + 1:04d}"
        attempt.mkdir()
        return attempt

    def newest_state(self) -> dict[str, Any] | None:
        """The latest complete training state on disk, over all attempts."""
        import torch

        states = []
        for file in self.path.glob(f"attempt-*/checkpoint_*/{STATE_FILE}"):
            if zipfile.is_zipfile(file):  # an incomplete zip file lacks the directory at its end
                states.append(torch.load(file, map_location="cpu", weights_only=True))
            else:
                logger.warning("%s was cut short; an older checkpoint is used", file)
        return max(states, key=lambda state: len(state["epochs"]), default=None)

    def reported_epochs(self) -> list[dict[str, Any]]:
        """The reports of all attempts' epochs, in order."""
        lines: list[dict[str, Any]] = []
        for attempt in self._attempts():
            lines += read_epochs(attempt / EPOCHS_FILE)
        return lines

    def nodes(self) -> list[str]:
        """Ids of the Ray nodes that took part in the training, in order of appearance."""
        return list(dict.fromkeys(node for line in self.reported_epochs() for node in line.get("nodes", ())))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _attempts(self) -> list[Path]:
        return sorted(self.path.glob("attempt-*"))


@contextmanager
def training_folder(root: Path, name: str) -> Iterator[TrainingFolder]:
    """Open a training's folder under its lock. Raises ConfigError when another process has it."""
    try:
        with exclusive(root / f"{name}.lock", wait=False):
            folder = TrainingFolder(root / name)
            folder.path.mkdir(exist_ok=True)
            try:
                yield folder
            finally:
                if folder.path.exists() and not any(folder.path.iterdir()):
                    folder.path.rmdir()  # nothing to resume from
    except AlreadyLockedError as error:
        raise ConfigError(
            f"this training is running already ({error}): wait for it, stop it, or change --seed, --config or --set"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot keep checkpoints in {root} ({error}): set FRAUD_STATE to a writable folder"
        ) from error


def name_of(data_fingerprint: str, schema: Schema, config: TrainConfig, workers: int) -> str:
    """A name made of the data, schema, configuration and number of workers."""
    parts = [data_fingerprint, schema.fingerprint, config.to_dict(), workers]
    return "training-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_epochs(file: Path, start: int = 0) -> list[dict[str, Any]]:
    """Lines of an epochs file from line `start`; an incomplete last line is skipped."""
    if not file.exists():
        return []
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()[start:]]
