"""The model that a replica serves: its engine, its reader of requests, and what it says about itself."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fraud.detectors import registry
from fraud.errors import BundleError, DataError, RegistryError, RegistryUnreachableError, SchemaError
from fraud.registry.promotion import LiveThreshold
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.scoring.row_score import RowScore
from fraud.settings import Settings
from serve_app.history.begin import Surroundings
from serve_app.history.live import LiveHistory
from serve_app.model import source
from serve_app.model.canary import CanaryChoice
from serve_app.request.models import example_of
from serve_app.request.problems import Rejected, problem
from serve_app.request.reader import TransactionReader

logger = logging.getLogger(__name__)

MOST_REASONS = 3
_ALWAYS = registry.score_columns(with_optional=False)
NO_LIVE_HISTORY = "the store of the live history does not answer: scored with the model's own, as of its training"
ID_SEEN_BEFORE = (
    "this id was seen before with another time or other values: scored as it is now, but the first one is remembered"
)


@dataclass(frozen=True)
class ServedModel:
    """One loaded bundle, ready to answer. name, version: in the model registry; sha256: of the bundle's manifest.

    live_threshold: what the registry set in place of the bundle's threshold. loaded_at: seconds since 1970.
    """

    engine: Engine
    reader: TransactionReader
    name: str
    version: str
    sha256: str
    manifest: dict[str, Any]
    history: LiveHistory | None = None
    live_threshold: LiveThreshold | None = None
    loaded_at: float = field(default_factory=time.time)

    @classmethod
    def from_bundle(
        cls,
        loaded: bundle.Bundle,
        *,
        name: str,
        version: str | None = None,
        history: LiveHistory | None = None,
        live_threshold: LiveThreshold | None = None,
    ) -> ServedModel:
        """Compile the engine, so that no request waits for it. version: default the start of the bundle's SHA-256.

        history: the live one; without it rows are read against the history as of the end of the training data.
        Raises BundleError for a model that gives no scores.
        """
        engine = Engine(loaded.detector, store=history.store if history else None)
        engine.warm_up()
        version = version or f"bundle-{loaded.sha256[:12]}"
        reader = TransactionReader(engine.schema)
        model = cls(engine, reader, name, version, loaded.sha256, loaded.manifest, history)
        model._check()
        return model.with_threshold(live_threshold)

    def with_threshold(self, live_threshold: LiveThreshold | None) -> ServedModel:
        """The same model deciding by another threshold; None: by the bundle's. Microseconds: nothing is loaded."""
        engine = copy.copy(self.engine)  # shares the arrays, the compiled calls and the history
        threshold = engine.detector.threshold
        engine.threshold = replace(threshold, value=live_threshold.value) if live_threshold else threshold
        return replace(self, engine=engine, live_threshold=live_threshold)

    def answer(
        self, transaction: dict[str, object], *, learn: bool = True, only_flagged: bool = True
    ) -> dict[str, Any]:
        """Score one canonical transaction; the content of models.Answer. Raises Rejected (422).

        learn: it enters the live history of its entities for the transactions after it. only_flagged: reasons are named
        where the transaction is flagged, and only there.
        """
        try:
            found, reasons = self.engine.score_and_explain(
                transaction, top=MOST_REASONS, learn=learn, only_flagged=only_flagged
            )
        except DataError as error:
            raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
        answer = self.content_of(found, transaction)
        answer["reasons"] = [vars(reason) for reason in reasons]
        return answer

    def content_of(self, found: RowScore, transaction: Mapping[str, object]) -> dict[str, Any]:
        """What is answered about a scored transaction, less the reasons."""
        content: dict[str, Any] = {
            "score": found.score,
            "is_fraud": bool(found.is_fraud),
            "threshold": self.engine.threshold.value,
            **{name: found.scores[name] for name in _ALWAYS},
            "model_version": self.version,
            "warnings": self.warnings_of(found.is_history_live, found.is_changed),
        }
        content |= found.scores
        if self.engine.schema.id is not None:
            content["id"] = transaction[self.engine.schema.id.name]
        return content

    def warnings_of(self, is_history_live: bool, is_changed: bool) -> list[str]:
        """What a score had to do without."""
        if is_history_live and not is_changed and (self.history is None or not self.history.warnings):
            return []
        general = self.history.warnings if self.history is not None else ()
        return [*(() if is_history_live else (NO_LIVE_HISTORY,)), *general, *((ID_SEEN_BEFORE,) if is_changed else ())]

    def shares_history_with(self, other: ServedModel) -> bool:
        """Whether both enter the same live history: the one that only watches must then not learn."""
        return self.history is not None and other.history is not None and self.history.shares_with(other.history)

    @cached_property
    def canary(self) -> CanaryChoice:
        """Says which transactions a challenger decides in this model's place."""
        return CanaryChoice(self.engine.schema)

    def is_able(self) -> bool:
        """Whether the engine still gives a number for a typical transaction."""
        typical = self.engine.detector.features.typical[None]
        return bool(np.isfinite(self.engine.score_raw(typical)).all())

    def _check(self) -> None:
        """Answer a typical transaction, and the schema's example. Raises BundleError."""
        if not self.is_able():
            raise BundleError(f"bundle {self.sha256[:12]} scores a typical transaction as no number: train it again")
        try:
            transaction = self.reader.parse(json.dumps(example_of(self.engine.schema)).encode())
        except Rejected:
            return  # the schema does not name an example for every column that must be there
        try:
            json.dumps(self.answer(transaction, learn=False, only_flagged=False), allow_nan=False)
        except (Rejected, ValueError):
            what = f"bundle {self.sha256[:12]} has no answer to its schema's own example"
            raise BundleError(f"{what}: train it again") from None

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
            "threshold": self._describe_threshold(),
            "metrics": manifest.get("metrics") or {},
            "windows": manifest.get("windows") or [],
            "libraries": manifest.get("libraries") or {},
        }
        return _json_safe(described)

    def _describe_threshold(self) -> dict[str, Any]:
        """The bundle's threshold with its provenance; under a live one, that one's, and the bundle's below it."""
        of_bundle = self.engine.detector.threshold.to_dict()
        if self.live_threshold is None:
            return of_bundle
        return {**self.live_threshold.to_dict(), "source": "registry", "bundle": of_bundle}


@dataclass
class State:
    """What the routes read. Whoever has a new model ready assigns it: the next request sees it, complete.

    A request takes one local reference of each, for they may change while it is answered. model: the champion.
    challenger: a model that runs beside it. canary_share: share of the entities, 0 to 1, that the challenger answers.
    shadow: whether the challenger scores what the champion answers.
    """

    model: ServedModel
    challenger: ServedModel | None = None
    canary_share: float = 0.0
    shadow: bool = False

    def choose(self, champion: ServedModel, transaction: Mapping[str, object], request_id: str) -> ServedModel:
        """The challenger for the entities of the canary share, where it reads the same inputs; else the champion."""
        challenger, share = self.challenger, self.canary_share
        if challenger is None or share <= 0.0 or challenger.engine.schema.inputs != champion.engine.schema.inputs:
            return champion
        return challenger if champion.canary(transaction, share, request_id) else champion


def load_model(
    settings: Settings, *, folder: str | None = None, reference: str = "champion", around: Surroundings | None = None
) -> ServedModel:
    """Load the bundle in `folder`, or the one that the registry's alias or version `reference` means, and open the live
    history of its entities. around: what that is begun from; default what `settings` name.

    Where the registry does not answer, or means a bundle that is not sound, the last good one is served, with a
    warning. Raises BundleError (missing, altered, unknown format) or RegistryError (no such version, MLflow
    unreachable) where there is none.
    """
    around = around or Surroundings.from_environment(settings, {})
    if folder is not None:
        return _opened(source.Found(bundle.load(settings.locate(folder))), around)
    kept = source.LastGood(settings, reference)
    try:
        model = _opened(source.from_registry(settings, reference), around)
    except (RegistryError, BundleError, SchemaError) as error:
        last = kept.load()
        if last is not None:
            logger.warning("%s; beginning with the last good model, version %s", error, last.version)
        elif isinstance(error, RegistryUnreachableError):
            last = source.from_cache(settings, reference)
        else:
            raise
        return _opened(last, around)
    kept.keep(model.version, model.sha256, model.live_threshold)
    return model


def _opened(found: source.Found, around: Surroundings) -> ServedModel:
    history = LiveHistory(found.bundle.detector, around)
    model = ServedModel.from_bundle(
        found.bundle,
        name=around.settings.model_name,
        version=found.version,
        history=history,
        live_threshold=found.live_threshold,
    )
    logger.info("serving %s version %s, bundle %s", model.name, model.version, model.sha256[:12])
    return model


def _json_safe(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {str(key): _json_safe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
