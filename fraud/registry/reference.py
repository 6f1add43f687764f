"""The drift reference: a fixed sample of rows that the model was not trained on, with the model's scores.

Training draws it from the test window and writes it beside the bundle, whose manifest holds its SHA-256. A registered
version has it as an artifact of its run. So the reference of a version never changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from fraud.errors import BundleError, DataError
from fraud.registry import versions
from fraud.registry.models import OpenModel
from fraud.settings import Settings

NAME = "reference.parquet"
ROWS = 50_000


def draw(rows: pd.DataFrame, scores: dict[str, np.ndarray], *, seed: int, most: int = ROWS) -> pd.DataFrame:
    """Draw at most `most` canonical rows, in their order, with their scores, each float64 (n_rows,)."""
    positions = np.arange(len(rows))
    if len(positions) > most:
        positions = np.sort(np.random.default_rng(seed).choice(positions, most, replace=False))
    frame = rows.iloc[positions].reset_index(drop=True)
    return frame.assign(**{name: values[positions] for name, values in scores.items() if name not in frame})


def sha256(path: Path) -> str:
    """SHA-256 of the file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(model: OpenModel, settings: Settings) -> Path:
    """Path of a model's reference on this machine; fetched if necessary, and checked.

    The reference of a bundle folder is beside it. A fetched reference is cached. Raises RegistryError, BundleError, or
    DataError for a model trained without a reference.
    """
    folder, expected = model.folder, model.bundle.manifest.get("reference_sha256")
    if not expected:
        raise DataError(
            f"model {model.name!r} was trained without a reference for drift: name one (--ref), or train it again"
        )
    if model.number is not None:
        path = settings.state / "references" / f"{settings.model_name}-{model.number}-{expected[:12]}.parquet"
        if not _matches(path, expected):
            versions.fetch_artifact(model.number, NAME, path, settings)
    else:
        path = folder.parent / NAME
        if not path.is_file():
            raise DataError(f"{path} is missing: copy it with the bundle, name a reference (--ref), or train again")
    if not _matches(path, expected):
        raise BundleError(f"{path} does not match the SHA-256 in the manifest of {folder}: it was altered; train again")
    return path


def _matches(path: Path, expected: str) -> bool:
    return path.is_file() and sha256(path) == expected
