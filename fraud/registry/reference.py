"""What later days are compared with: a fixed sample of rows that the model never learnt from, with its scores.

Training draws it from the test window and lays it beside the bundle, whose manifest holds its SHA-256; registered, it
is an artifact of the version's run. So the reference of a version is one file for good, and the scores in it are those
of that very model.
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
    """At most `most` canonical rows, drawn by `seed`, in their order, with their scores, each float64 (n_rows,)."""
    places = np.arange(len(rows))
    if len(places) > most:
        places = np.sort(np.random.default_rng(seed).choice(places, most, replace=False))
    frame = rows.iloc[places].reset_index(drop=True)
    return frame.assign(**{name: values[places] for name, values in scores.items() if name not in frame})


def sha256(path: Path) -> str:
    """Of the file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(model: OpenModel, settings: Settings) -> Path:
    """Where the reference of a model is on this machine, fetched and checked where need be.

    The reference of a bundle folder lies beside it. A reference that was fetched once is used again. Raises
    RegistryError, BundleError, or DataError for a model that was trained without one.
    """
    folder, expected = model.folder, model.bundle.manifest.get("reference_sha256")
    if not expected:
        raise DataError(
            f"model {model.name!r} was trained without a reference for drift: name one (--ref), or train it again"
        )
    if model.number is not None:
        path = settings.state / "references" / f"{settings.model_name}-{model.number}-{expected[:12]}.parquet"
        if not _is(path, expected):
            versions.fetch_artifact(model.number, NAME, path, settings)
    else:
        path = folder.parent / NAME
        if not path.is_file():
            raise DataError(f"{path} is not there: copy it with the bundle, name a reference (--ref), or train again")
    if not _is(path, expected):
        raise BundleError(f"{path} does not match the SHA-256 in the manifest of {folder}: it was altered; train again")
    return path


def _is(path: Path, expected: str) -> bool:
    return path.is_file() and sha256(path) == expected
