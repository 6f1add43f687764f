"""Hashes of the rows that a model was trained on, so that an evaluation recognises them in any file.

Training writes them beside the bundle, and a registered version has them as an artifact of its run. A row's hash
covers its canonical values without the label: a corrected label does not hide a row, a changed value does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.data import tables
from fraud.errors import RegistryError
from fraud.history.records import long_hashes
from fraud.registry import versions
from fraud.registry.models import OpenModel
from fraud.registry.runs import mlflow_client
from fraud.schema import Schema
from fraud.settings import Settings

logger = logging.getLogger(__name__)

NAME = "training_rows.parquet"
MOST = 2_000_000  # hashes kept, 8 bytes each; of more rows, those with the lowest hashes
FORMAT = b"1"
_HASH = "hash"
_FORMAT, _SHA256, _ROWS, _DISTINCT = b"format", b"bundle_sha256", b"rows", b"distinct"
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_STEP = 0x9E3779B97F4A7C15
# Rows that repeat more often than this are not identified by their values.
_FEWEST_DISTINCT = 0.99


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """A model's training rows. hashes: uint64, sorted; all of them up to `largest`. rows: in all; distinct: of them."""

    hashes: np.ndarray
    rows: int
    distinct: int

    @property
    def largest(self) -> int:
        """Hashes above this were not kept."""
        is_sampled = self.distinct > len(self.hashes)
        return int(self.hashes[-1]) if is_sampled and len(self.hashes) else 2**64 - 1

    @property
    def is_complete(self) -> bool:
        """Whether every training row's hash is kept."""
        return self.distinct == len(self.hashes)

    @property
    def identifies(self) -> bool:
        """Whether equal values mean the same row; False if the training rows themselves repeat."""
        return self.distinct >= _FEWEST_DISTINCT * self.rows

    def among(self, rows: pd.DataFrame, schema: Schema) -> tuple[np.ndarray, float]:
        """Which canonical rows were trained on, bool (n_rows,), and their estimated number, also of unkept hashes."""
        hashes = row_hashes(rows, schema)
        positions = np.minimum(np.searchsorted(self.hashes, hashes), max(len(self.hashes) - 1, 0))
        is_known = self.hashes[positions] == hashes if len(self.hashes) else np.zeros(len(hashes), bool)
        comparable = np.count_nonzero(hashes <= np.uint64(self.largest))
        return is_known, float(is_known.sum()) * len(hashes) / comparable if comparable else 0.0


def row_hashes(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """64-bit hashes of canonical rows without their label, uint64 (n_rows,). Stable across processes and machines."""
    out = np.full(len(rows), _STEP, dtype=np.uint64)
    for column in schema.columns:
        if column.kind == "label" or column.name not in rows:
            continue
        values = rows[column.name]
        if column.kind == "timestamp":
            bits = values.to_numpy(dtype="datetime64[us]").astype(np.int64).view(np.uint64)
        elif isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiub":
            numbers = values.to_numpy(dtype=np.float64) + 0.0  # -0.0 becomes 0.0
            bits = np.where(np.isnan(numbers), np.float64(np.nan), numbers).view(np.uint64)
        else:
            bits = long_hashes(values.astype("object").where(values.notna(), "").to_numpy())
        out = _mixed(out ^ bits)
    return out


def write(path: Path, rows: pd.DataFrame, schema: Schema, bundle_sha256: str, *, most: int = MOST) -> None:
    """Write the hashes of the rows that a bundle was trained on. Raises DataError."""
    hashes = np.unique(row_hashes(rows, schema))
    metadata = {_FORMAT: FORMAT, _SHA256: bundle_sha256, _ROWS: str(len(rows)), _DISTINCT: str(len(hashes))}
    table = pa.table({_HASH: hashes[:most]}).replace_schema_metadata(metadata)
    tables.write(str(path), lambda file: pq.write_table(table, file, compression="none", use_dictionary=False))


def find(model: OpenModel, settings: Settings) -> TrainingRows | None:
    """A model's training rows; None if it has none (trained by an older version) or they cannot be fetched.

    Those of a bundle folder are beside it. Fetched ones are cached.
    """
    sha256 = model.bundle.sha256
    if model.number is None:
        return _read(model.folder.parent / NAME, sha256)
    path = settings.state / "references" / f"{settings.model_name}-{model.number}-{sha256[:12]}-rows.parquet"
    if (known := _read(path, sha256)) is not None:
        return known
    try:
        run_id = versions.resolve(model.number, settings).run_id
        with mlflow_client(settings, f"listing the artifacts of version {model.number}") as client:
            # Some stores retry a missing file for minutes.
            if NAME not in {artifact.path for artifact in client.list_artifacts(run_id)}:
                return None
        versions.fetch_artifact(model.number, NAME, path, settings)
    except RegistryError as error:
        logger.warning("the training rows of version %d are not compared: %s", model.number, error)
        return None
    return _read(path, sha256)


def _read(path: Path, bundle_sha256: str) -> TrainingRows | None:
    """The training rows in a file; None if it is missing, unreadable or of another bundle."""
    try:
        table = pq.read_table(path)
        about = table.schema.metadata or {}
        if about[_FORMAT] != FORMAT or about[_SHA256] != bundle_sha256.encode():
            return None
        return TrainingRows(table[_HASH].to_numpy(), int(about[_ROWS]), int(about[_DISTINCT]))
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    values = values + np.uint64(_STEP)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return values ^ (values >> np.uint64(31))
