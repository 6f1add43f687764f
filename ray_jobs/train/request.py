"""The command line of a training, read and checked."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fraud.cli import examples
from fraud.errors import ConfigError, RegistryError
from fraud.schema import Schema, shipped_names
from fraud.schema.zone import agreed
from fraud.settings import Settings
from fraud.training.config import TrainConfig, configure, shipped_configs
from ray_jobs.train.report import check_outdir

logger = logging.getLogger(__name__)

Labels = Literal["data", "store", "both"]
DEFAULT_SCHEMA = "transactions"


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What to train, checked; paths are absolute.

    labels: as in ray_jobs.train.labels; None: by the data and the store.
    """

    data: str
    schema: Schema
    outdir: Path
    config: TrainConfig
    workers: int = 1
    use_gpu: bool = False
    should_register: bool = True
    should_restart: bool = False
    should_bundle_history: bool = False
    labels: Labels | None = "data"


def read_request(argv: Sequence[str] | None, settings: Settings) -> TrainingRequest:
    """Read a command line. Raises ConfigError or SchemaError naming the flag, the key and the remedy."""
    arguments = _parser().parse_args(argv)
    if arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: give 1 or more")
    schema = _schema(arguments, settings)
    agreed(schema, settings.day_zone)
    return TrainingRequest(
        data=settings.locate(arguments.data),
        schema=schema,
        outdir=check_outdir(settings.locate(arguments.outdir)),
        config=configure(arguments.config and settings.locate_yaml(arguments.config), arguments.seed, arguments.set),
        workers=arguments.workers,
        use_gpu=arguments.gpu,
        should_register=not arguments.no_register,
        should_restart=arguments.restart,
        should_bundle_history=arguments.history_in_bundle,
        labels=arguments.labels,
    )


def _schema(arguments: argparse.Namespace, settings: Settings) -> Schema:
    """The schema named on the command line, else the champion's, else `DEFAULT_SCHEMA`."""
    if arguments.schema:
        return Schema.load(settings.locate_yaml(arguments.schema))
    champion = None
    if not arguments.no_register:
        from fraud.registry import models, versions  # imports MLflow

        try:
            champion = versions.champion_version(settings)
            if champion is not None:
                schema = models.schema_of(None, settings)
                logger.info("schema %s: that of champion version %d of %s", schema.name, champion, settings.model_name)
                return schema
        except RegistryError as error:
            logger.warning("%s; the schema is %s, not the champion's", error, DEFAULT_SCHEMA)
    return Schema.load(settings.locate_yaml(DEFAULT_SCHEMA))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.train",
        description="Train IsolationForest and autoencoder on transactions, choose a threshold, evaluate on the newest "
        "rows, write a bundle and register it in MLflow. To resume a killed training, run the same command again.",
        **examples(
            "python -m ray_jobs.train --data data/transactions.csv --schema transactions --outdir artifacts",
            "python -m ray_jobs.train --data cards.parquet --schema handbook --config handbook --set seed=1",
            "python -m ray_jobs.train --data cards.parquet --labels both      with the analysts' verdicts",
            "ray job submit --working-dir . -- python -m ray_jobs.train --data s3://bucket/d.parquet --schema my.yaml",
        ),
    )
    parser.add_argument("--data", required=True, help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--schema", help=f"a shipped name ({', '.join(shipped_names())}) or a .yaml path (default: the "
                        f"champion's, without a champion {DEFAULT_SCHEMA})")  # fmt: skip
    parser.add_argument("--labels", choices=get_args(Labels), help="data: the data's label column; store: only the "
                        "label store's (ray_jobs.labels); both: the store's, else the data's (default: both if the "
                        "store has labels, store for data without a label column)")  # fmt: skip
    parser.add_argument("--outdir", default="artifacts", help="folder for the results (default artifacts)")
    shipped = ", ".join(shipped_configs())
    parser.add_argument("--config", help=f"a shipped name ({shipped}) or a .yaml path; without it, the defaults")
    parser.add_argument("--workers", type=int, default=1, help="workers of the autoencoder's training (default 1)")
    parser.add_argument("--gpu", action=argparse.BooleanOptionalAction, default=False, help="one GPU per worker")
    parser.add_argument("--seed", type=int, help="random seed; replaces the configuration's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace one setting; repeatable"
    )
    parser.add_argument("--no-register", action="store_true", help="write the artifacts without MLflow")
    parser.add_argument(
        "--history-in-bundle",
        action="store_true",
        help="also store the entity history in the bundle, for a service that cannot read the snapshots in "
        "FRAUD_HISTORY; it contains customers' transactions",
    )
    parser.add_argument("--restart", action="store_true", help="start again instead of resuming a killed training")
    return parser
