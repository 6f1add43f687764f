"""Choose the labels of a training: the data's label column, those of the label store, or both."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import os

from fraud.data import tables
from fraud.data.files import pieces
from fraud.errors import ConfigError
from fraud.labels.join import Policy
from fraud.labels.store import LabelStore
from fraud.schema.zone import zone_of
from fraud.settings import Settings
from ray_jobs.labels import join as label_join
from ray_jobs.train.report import TRAINING
from ray_jobs.train.request import Labels, TrainingRequest

logger = logging.getLogger(__name__)


def with_labels(request: TrainingRequest, settings: Settings) -> TrainingRequest:
    """The request with the data to train on: with labels of the store, `training.parquet` in the output folder.

    request.labels: "data" uses the data's label column only. "store": only labels of the store; matured rows without
    one count as legitimate, younger rows are left out. "both": labels of the store, and the data's own for rows without
    one. None: "data" for the output of `labels join` and while the store is empty, otherwise "both", or "store" for
    data without a label column. Raises ConfigError, DataError and SchemaError as fraud.labels.join.join.
    """
    schema, store = request.schema, LabelStore.from_environment(settings, os.environ)
    n_labels = 0 if schema.id is None or schema.label is None else len(store.read())
    choice, reason = request.labels, "as --labels says"
    if choice is None:
        choice, reason = _default(request, n_labels)
    if choice == "data":
        if n_labels:
            logger.warning(
                "labels: the data's own column; the store's %s labels are not used (%s)", f"{n_labels:,}", reason
            )
        return request
    if not n_labels:
        if schema.id is None or schema.label is None:
            raise ConfigError(f"--labels {choice} needs a schema with an id and a label: {schema.name!r} lacks one")
        raise ConfigError(
            f"--labels {choice}: there are no labels in {store.url}; add some with "
            "`python -m ray_jobs.labels ingest FILE`"
        )
    zone = zone_of(schema)
    policy = Policy(
        as_of=zone.today(dt.datetime.now(dt.UTC)) + dt.timedelta(days=1),  # with every label that is known by now
        zone=zone,
        keep_own=choice == "both",
        matured_days=0 if choice == "both" or schema.timestamp is None else schema.label_delay_days,
        unlabelled="unknown" if choice == "both" else "legitimate",
    )
    if choice == "store" and _has_own(request):
        logger.warning("labels: the data's own label column is not used (%s); --labels both uses it too", reason)
    out = str(request.outdir / TRAINING)
    text, _ = label_join.join(request.data, store, schema, policy, out=out)
    for line in text.splitlines():
        logger.info("labels of the store (%s): %s", choice, line.strip())
    return dataclasses.replace(request, data=out)


def _default(request: TrainingRequest, n_labels: int) -> tuple[Labels, str]:
    """The labels of a training that names none, and why."""
    if not n_labels:
        return "data", "the label store is empty"
    if label_join.record_of(request.data, tables.fingerprint(request.data)) is not None:
        return "data", "labels join has written these data"
    return ("both", "the default") if _has_own(request) else ("store", "the data have no label column")


def _has_own(request: TrainingRequest) -> bool:
    """Whether the first file of the data has the label column. Raises DataError."""
    label = request.schema.label
    return label is not None and label.name in next(pieces(request.data, 1, ()))[1]
