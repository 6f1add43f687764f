"""The model that a replica serves: its engine, its reader of requests, and what it says about itself."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fraud import bundle
from fraud.engine import Engine
from fraud.errors import DataError
from fraud.settings import Settings
from serve_app.history import LiveHistory
from serve_app.problems import Rejected, problem
from serve_app.reader import TransactionReader

logger = logging.getLogger(__name__)

MOST_REASONS = 3
_NO_LIVE_HISTORY = "the store of the live history does not answer: scored with the model's own, as of its training"


@dataclass(frozen=True)
class ServedModel:
    """One loaded bundle, ready to answer. name, version: in the model registry; sha256: of the bundle's manifest."""

    engine: Engine
    reader: TransactionReader
    name: str
    version: str
    sha256: str
    manifest: dict[str, Any]
    history: LiveHistory | None = None

    @classmethod
    def from_bundle(
        cls, loaded: bundle.Bundle, *, name: str, version: str | None = None, history: LiveHistory | None = None
    ) -> ServedModel:
        """Compile the engine, so that no request waits for it. version: default the start of the bundle's SHA-256.

        history: the live one; without it rows are read against the history as of the end of the training data.
        """
        engine = Engine(loaded.detector, store=history.store if history else None)
        engine.warm_up()
        version = version or f"bundle-{loaded.sha256[:12]}"
        return cls(engine, TransactionReader(engine.schema), name, version, loaded.sha256, loaded.manifest, history)

    def answer(self, transaction: dict[str, object], *, learn: bool = True) -> dict[str, Any]:
        """Score one canonical transaction; the content of models.Answer. Raises Rejected (422).

        learn: it enters the live history of its entities for the transactions after it.
        """
        try:
            found, reasons = self.engine.score_and_explain(transaction, top=MOST_REASONS, learn=learn)
        except DataError as error:
            raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
        answer = {
            "score": found.score,
            "is_fraud": bool(found.is_fraud),
            "threshold": self.engine.threshold.value,
            "forest_score": found.forest_score,
            "autoencoder_score": found.autoencoder_score,
            "model_version": self.version,
            "reasons": [vars(reason) for reason in reasons],
            "warnings": [] if found.is_history_live else [_NO_LIVE_HISTORY],
        }
        if found.head_score is not None:
            answer["head_score"] = found.head_score
        if self.engine.schema.id is not None:
            answer["id"] = transaction[self.engine.schema.id.name]
        return answer

    def is_able(self) -> bool:
        """Whether the engine still gives a number for a typical transaction."""
        typical = self.engine.detector.features.typical[None]
        return bool(np.isfinite(self.engine.score_raw(typical)).all())

    def describe(self) -> dict[str, Any]:
        """The content of models.ModelInfo."""
        manifest, schema = self.manifest, self.engine.schema
        described = {
            "model_name": self.name,
            "model_version": self.version,
            "bundle_sha256": self.sha256,
            "created": manifest.get("created"),
            "git_commit": manifest.get("git_commit"),
            "data_fingerprint": manifest.get("data_fingerprint"),
            "schema_fingerprint": schema.fingerprint,
            "data_schema": schema.to_dict(),
            "threshold": self.engine.threshold.to_dict(),
            "metrics": manifest.get("metrics") or {},
            "windows": manifest.get("windows") or [],
            "libraries": manifest.get("libraries") or {},
        }
        return _json_safe(described)


@dataclass
class State:
    """What the routes read. Whoever has a new model ready assigns `model`: the next request sees it, whole."""

    model: ServedModel


def load_model(
    settings: Settings, *, folder: str | None = None, reference: str = "champion", rank: int = 0, replicas: int = 1
) -> ServedModel:
    """Load the bundle in `folder`, or the one that the registry's alias or version `reference` means, and open the live
    history of its entities. rank, replicas: which of how many replicas asks.

    Raises BundleError (missing, altered, unknown format) or RegistryError (no such version, MLflow unreachable).
    """
    if folder is not None:
        loaded, version = bundle.load(settings.locate(folder)), None
    else:
        from fraud import registry  # imports MLflow, which a bundle folder does not need

        path = registry.fetch(reference, settings)
        loaded, version = bundle.load(path), Path(path).name
    history = LiveHistory(loaded.detector, settings, rank=rank, replicas=replicas)
    model = ServedModel.from_bundle(loaded, name=settings.model_name, version=version, history=history)
    logger.info("serving %s version %s, bundle %s", model.name, model.version, model.sha256[:12])
    return model


def _json_safe(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {str(key): _json_safe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
