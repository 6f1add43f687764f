"""The model that a replica serves: its engine, its request reader and its description."""

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
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.live import LiveHistory
from serve_app.http.server_timing import HISTORY_S
from serve_app.model import source
from serve_app.model.canary import CanaryChoice
from serve_app.request.examples import example_of
from serve_app.request.problems import Rejected, problem
from serve_app.request.reader import TransactionReader

logger = logging.getLogger(__name__)

MOST_REASONS = 3
_ALWAYS = registry.score_columns(with_optional=False)
NO_LIVE_HISTORY = "the store of the live history does not answer: scored with the model's own, as of its training"
TRIAL_MODEL = "a model made from synthetic transactions for a first try: do not decide by it"
ID_SEEN_BEFORE = (
    "this id was seen before with another time or other values: scored as it is now, but the first one is remembered"
)


@dataclass(frozen=True)
class ServedModel:
    """A loaded bundle, ready to answer. name, version: in the model registry; sha256: of the bundle's manifest.

    live_threshold: overrides the bundle's threshold, from the registry. loaded_at: seconds since 1970.
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
        """Build the model and warm up its engine. version: default the start of the bundle's SHA-256.

        history: the live history; without it, rows see the history at the end of the training data.
        Raises BundleError for a model that does not score.
        """
        engine = Engine(loaded.detector, store=history.store if history else None)
        engine.warm_up()
        version = version or f"bundle-{loaded.sha256[:12]}"
        reader = TransactionReader(engine.schema)
        model = cls(engine, reader, name, version, loaded.sha256, loaded.manifest, history)
        model._check()
        return model.with_threshold(live_threshold)

    def with_threshold(self, live_threshold: LiveThreshold | None) -> ServedModel:
        """A copy with another threshold; None: the bundle's. Takes microseconds and loads nothing."""
        engine = copy.copy(self.engine)  # shares the arrays, the compiled calls and the history
        threshold = engine.detector.threshold
        engine.threshold = replace(threshold, value=live_threshold.value) if live_threshold else threshold
        return replace(self, engine=engine, live_threshold=live_threshold)

    def answer(
        self,
        transaction: dict[str, object],
        *,
        learn: bool = True,
        only_flagged: bool = True,
        timings: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Score one canonical transaction; the content of models.Answer. Raises Rejected (422).

        learn: enter it into the live history of its entities. only_flagged: reasons only for a flagged transaction.
        timings: gets the seconds that the history took.
        """
        try:
            row_score, reasons = self.engine.score_and_explain(
                transaction, top=MOST_REASONS, learn=learn, only_flagged=only_flagged
            )
        except DataError as error:
            raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
        if timings is not None and row_score.history_s:
            timings[HISTORY_S] = row_score.history_s
        answer = self.content_of(row_score, transaction)
        answer["reasons"] = [vars(reason) for reason in reasons]
        return answer

    def content_of(self, row_score: RowScore, transaction: Mapping[str, object]) -> dict[str, Any]:
        """The content of an answer, without the reasons."""
        content: dict[str, Any] = {
            "score": row_score.score,
            "is_fraud": bool(row_score.is_fraud),
            "threshold": self.engine.threshold.value,
            **{name: row_score.scores[name] for name in _ALWAYS},
            "model_version": self.version,
            "warnings": self.warnings_of(row_score.is_history_live, row_score.is_changed),
        }
        content |= row_score.scores
        if self.engine.schema.id is not None:
            content["id"] = transaction[self.engine.schema.id.name]
        return content

    def warnings_of(self, is_history_live: bool, is_changed: bool) -> list[str]:
        """The warnings of an answer."""
        general = self.notices + (self.history.warnings if self.history is not None else ())
        if is_history_live and not is_changed:
            return list(general)
        return [*(() if is_history_live else (NO_LIVE_HISTORY,)), *general, *((ID_SEEN_BEFORE,) if is_changed else ())]

    @cached_property
    def notices(self) -> tuple[str, ...]:
        """What every answer of this model warns of."""
        return (TRIAL_MODEL,) if self.manifest.get(bundle.TRIAL) else ()

    def shares_history_with(self, other: ServedModel) -> bool:
        """Whether both models enter the same live history, so that only one of them may learn."""
        return self.history is not None and other.history is not None and self.history.shares_with(other.history)

    @cached_property
    def example(self) -> dict[str, object]:
        """A transaction that this model accepts, JSON values."""
        return example_of(self.engine.detector)

    @cached_property
    def canary(self) -> CanaryChoice:
        """Chooses the transactions that a challenger decides instead of this model."""
        return CanaryChoice(self.engine.schema)

    def can_score(self) -> bool:
        """Whether the engine gives a finite score for a typical transaction."""
        typical = self.engine.detector.features.typical[None]
        return bool(np.isfinite(self.engine.score_raw(typical)).all())

    def _check(self) -> None:
        """Score a typical transaction and answer an example. Raises BundleError."""
        if not self.can_score():
            raise BundleError(
                f"bundle {self.sha256[:12]} gives no finite score for a typical transaction: train it again"
            )
        try:
            transaction = self.reader.parse(json.dumps(self.example).encode())
        except Rejected:
            return  # no valid value is known for a required column
        try:
            json.dumps(self.answer(transaction, learn=False, only_flagged=False), allow_nan=False)
        except (Rejected, ValueError):
            what = f"bundle {self.sha256[:12]} cannot answer an example of its schema"
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
            "trial": bool(self.notices),
        }
        return _json_safe(described)

    def _describe_threshold(self) -> dict[str, Any]:
        """The threshold and its provenance. A live threshold includes the bundle's as "bundle"."""
        of_bundle = self.engine.detector.threshold.to_dict()
        if self.live_threshold is None:
            return of_bundle
        return {**self.live_threshold.to_dict(), "source": "registry", "bundle": of_bundle}


@dataclass
class State:
    """The models that the routes use. Assigning a new model is atomic: the next request uses it.

    The fields may change during a request, so a request reads each once. model: the champion. challenger: a model that
    runs beside it. canary_share: share of entities, 0 to 1, that the challenger answers. shadow: whether the challenger
    scores what the champion answers.
    """

    model: ServedModel
    challenger: ServedModel | None = None
    canary_share: float = 0.0
    shadow: bool = False

    def choose(self, champion: ServedModel, transaction: Mapping[str, object], request_id: str) -> ServedModel:
        """The challenger for entities in the canary share, if both models have the same inputs; else the champion."""
        challenger, share = self.challenger, self.canary_share
        if challenger is None or share <= 0.0 or challenger.engine.schema.inputs != champion.engine.schema.inputs:
            return champion
        return challenger if champion.canary(transaction, share, request_id) else champion


def load_model(
    settings: Settings, *, folder: str | None = None, reference: str = "champion", context: HistoryContext | None = None
) -> ServedModel:
    """Load the bundle in `folder`, or the registry's alias or version `reference`, and open its live history.

    context: of the live history; default: from `settings`. If the registry is unreachable or has an invalid bundle,
    loads the last good bundle with a warning. Without one, raises BundleError (missing, altered, unknown format) or
    RegistryError (no such version, MLflow unreachable).
    """
    context = context or HistoryContext.from_environment(settings, {})
    if folder is not None:
        return _served(source.LoadedBundle(bundle.load(settings.locate(folder))), context)
    last_good = source.LastGood(settings, reference)
    try:
        model = _served(source.from_registry(settings, reference), context)
    except (RegistryError, BundleError, SchemaError) as error:
        last = last_good.load()
        if last is not None:
            logger.warning("%s; beginning with the last good model, version %s", error, last.version)
        elif isinstance(error, RegistryUnreachableError):
            last = source.from_cache(settings, reference)
        else:
            raise
        return _served(last, context)
    last_good.save(model.version, model.sha256, model.live_threshold)
    return model


def _served(loaded: source.LoadedBundle, context: HistoryContext) -> ServedModel:
    history = LiveHistory(loaded.bundle.detector, context)
    model = ServedModel.from_bundle(
        loaded.bundle,
        name=context.settings.model_name,
        version=loaded.version,
        history=history,
        live_threshold=loaded.live_threshold,
    )
    logger.info("serving %s version %s, bundle %s", model.name, model.version, model.sha256[:12])
    return model


def _json_safe(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {str(key): _json_safe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
