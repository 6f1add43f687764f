"""A sweep's request, from the command line or from the journal of a sweep that is resumed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fraud.cli import check_outdir, examples
from fraud.errors import ConfigError
from fraud.schema import Schema, shipped_names
from fraud.schema.zone import agreed
from fraud.settings import Settings
from fraud.training.config import TrainConfig, configure, from_mapping, shipped_configs
from tuning.record.journal import REQUEST, Detector, Journal, folder_of
from tuning.space import reader
from tuning.space.definition import Space

REPORT, BEST, PLOTS = "sweep_report.html", "best.yaml", "plots"
DETECTORS: tuple[Detector, ...] = ("forest", "autoencoder")
OBJECTIVES = {"ap": ("average_precision",), "ap,cost": ("average_precision", "scoring_cost")}
_FIXED_KEYS = ("data", "schema_yaml", "config", "space", "detector", "folds", "seed", "objectives", "scheduler")
_NEW_SWEEP_FLAGS = (
    "name", "data", "schema", "config", "space", "detector", "folds", "seed", "set", "objectives", "scheduler",
)  # fmt: skip
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """One sweep, checked; paths are absolute.

    detectors: those searched. objectives: ("average_precision",) or with "scoring_cost". max_concurrent: trials at
    once, None for as many as the CPUs allow. time_budget_s: of this call; a resumed sweep has its own. should_retry:
    run failed trials again. created: seconds since 1970. schema_source: the schema's name or path. fingerprint: of the
    data; objective_name: what trials are judged by; both are known once the data are read.
    """

    sweep_id: str
    is_resumed: bool
    data: str
    schema: Schema
    config: TrainConfig
    space: Space
    outdir: Path
    trials: int = 40
    detectors: tuple[Detector, ...] = DETECTORS
    objectives: tuple[str, ...] = ("average_precision",)
    scheduler: str = "asha"
    folds: int = 1
    max_concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    time_budget_s: float | None = None
    should_track: bool = True
    should_retry: bool = False
    created: float = 0.0
    schema_source: str = ""
    fingerprint: str | None = None
    objective_name: str = "average_precision"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for the journal."""
        plain = {
            name: getattr(self, name)
            for name in (
                "data", "trials", "scheduler", "folds", "max_concurrent", "cpus_per_trial", "gpus_per_trial",
                "time_budget_s", "should_track", "created", "schema_source", "fingerprint", "objective_name",
            )
        }  # fmt: skip
        detector = "both" if len(self.detectors) > 1 else self.detectors[0]
        named = {"id": self.sweep_id, "detector": detector, "seed": self.config.seed}
        texts = {"schema": self.schema.name, "schema_yaml": self.schema.to_yaml(), "space": self.space.text}
        named |= {"objectives": list(self.objectives), "config": self.config.to_dict(), "outdir": str(self.outdir)}
        return named | plain | texts | {"space_name": self.space.name}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SweepRequest:
        """Read what `to_dict` wrote. Raises ConfigError when another version wrote it."""
        try:
            config = from_mapping(TrainConfig, raw["config"], where=f"sweep {raw['id']}: config")
            names = {f.name for f in dataclasses.fields(cls)} - {"schema", "config", "space", "outdir", "objectives"}
            plain = {name: raw[name] for name in names if name in raw}
            return cls(
                **plain, sweep_id=raw["id"], is_resumed=True, config=config, outdir=Path(raw["outdir"]),
                schema=Schema.from_dict(yaml.safe_load(raw["schema_yaml"])), objectives=tuple(raw["objectives"]),
                space=reader.read(raw["space"], raw["space_name"], config),
                detectors=DETECTORS if raw["detector"] == "both" else (raw["detector"],),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"sweep {raw.get('id')!r} was written by another version ({error}): start a new one"
            ) from None


@dataclass(frozen=True)
class Resume:
    """Resume a sweep. changes: new values of the request's fields; None keeps the old value.

    should_retry: run failed trials again.
    """

    sweep_id: str
    changes: dict[str, Any]
    should_retry: bool

    def applied_to(self, request: SweepRequest) -> SweepRequest:
        """The request with the changes. Raises ConfigError for fewer trials than before."""
        trials = self.changes["trials"]
        if trials is not None and trials < request.trials:
            raise ConfigError(f"--trials {trials} is fewer than the {request.trials} this sweep was started with")
        changed = {name: value for name, value in self.changes.items() if value is not None}
        # The budget is for one call: with the old one, a sweep that used it up would stop at once.
        return dataclasses.replace(request, **{"time_budget_s": None, **changed}, should_retry=self.should_retry)


def read_command(argv: Sequence[str] | None, settings: Settings) -> SweepRequest | Resume:
    """Read a command line. Raises ConfigError or SchemaError naming the flag, the key and the remedy."""
    arguments = _parser().parse_args(argv)
    for name, least in (("trials", 1), ("max_concurrent", 1), ("folds", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: give {least} or more")
    if arguments.cpus_per_trial is not None and not 0 < arguments.cpus_per_trial < math.inf:
        raise ConfigError(
            f"--cpus-per-trial {arguments.cpus_per_trial}: give a share above 0, e.g. 0.5 for two trials a CPU"
        )
    if arguments.gpus_per_trial is not None and not 0 <= arguments.gpus_per_trial < math.inf:
        raise ConfigError(
            f"--gpus-per-trial {arguments.gpus_per_trial}: give 0 or a share, e.g. 0.25 for four trials a GPU"
        )
    outdir = (
        None if arguments.outdir is None else check_outdir(settings.locate(arguments.outdir), {REPORT, BEST, PLOTS})
    )
    changes = {
        "trials": arguments.trials,
        "max_concurrent": arguments.max_concurrent,
        "cpus_per_trial": arguments.cpus_per_trial,
        "gpus_per_trial": arguments.gpus_per_trial,
        "time_budget_s": None if arguments.time_budget is None else _seconds(arguments.time_budget),
        "outdir": outdir,
        "should_track": False if arguments.no_mlflow else None,
    }
    if arguments.resume:
        if named := [name for name in _NEW_SWEEP_FLAGS if getattr(arguments, name) not in (None, [])]:
            raise ConfigError(
                f"--resume {arguments.resume} continues the sweep with its original settings: leave out --{named[0]}, "
                "or start a new sweep"
            )
        return Resume(arguments.resume, changes, arguments.retry_failed)
    if arguments.retry_failed and not arguments.name:
        raise ConfigError("--retry-failed runs the failed trials of an earlier sweep again: name it with --resume")
    request = _new(arguments, settings, changes)
    folder = folder_of(settings.state / "sweeps", request.sweep_id)
    if arguments.name is None or not (folder / REQUEST).exists():
        return request
    recorded = Journal(folder).read_request()
    for key, value in json.loads(json.dumps(request.to_dict())).items():
        if key in _FIXED_KEYS and value != recorded.get(key):
            raise ConfigError(
                f"--name {request.sweep_id}: that sweep was started with another {key}: repeat the original, or use "
                "another name"
            )
    return Resume(request.sweep_id, changes, arguments.retry_failed)


def _new(arguments: argparse.Namespace, settings: Settings, changes: Mapping[str, Any]) -> SweepRequest:
    if not arguments.data:
        raise ConfigError("--data is missing: name the transactions to train on, or --resume a sweep")
    config = configure(arguments.config and settings.locate_yaml(arguments.config), arguments.seed, arguments.set)
    space = reader.load(arguments.space and settings.locate(arguments.space), config)
    detectors = DETECTORS if arguments.detector in (None, "both") else (arguments.detector,)
    for detector in detectors:
        space.parameters_of(detector)  # raises if there is nothing to search
    schema_source = settings.locate_yaml(arguments.schema or "transactions")
    schema = Schema.load(schema_source)
    agreed(schema, settings.day_zone)
    generated = f"{schema.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    named = {name: value for name, value in changes.items() if value is not None}
    if "outdir" not in named:
        named["outdir"] = check_outdir(settings.locate("sweep"), {REPORT, BEST, PLOTS})
    return SweepRequest(
        **named,
        sweep_id=arguments.name or re.sub(r"[^A-Za-z0-9._-]", "_", generated).lstrip("._-"),
        is_resumed=False,
        data=settings.locate(arguments.data),
        schema=schema,
        schema_source=schema_source,
        config=config,
        space=space,
        detectors=detectors,
        objectives=OBJECTIVES[arguments.objectives or "ap"],
        scheduler=arguments.scheduler or "asha",
        folds=arguments.folds or 1,
        created=time.time(),
    )


def training_command(request: Mapping[str, Any], best: Path) -> str:
    """The command that trains what the sweep chose. request: as the journal has it."""
    schema = request.get("schema_source") or request["schema"]  # sweeps of 0.2.0 have the name only
    flags = ["--data", request["data"], "--schema", schema, "--config", str(best)]
    return shlex.join(["python", "-m", "ray_jobs.train", *flags])


def resume_command(sweep_id: str) -> str:
    """The command that runs the trials that are left."""
    return shlex.join(["python", "-m", "tuning.sweep", "--resume", sweep_id])


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"--time-budget {text!r}: write a number and s, m, h or d, e.g. 15m")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tuning.sweep",
        description="Tune IsolationForest, autoencoder, their weights and the threshold in parallel trials on Ray, "
        "with every trial in MLflow. Writes a report and best.yaml for `python -m ray_jobs.train --config`. After "
        "Ctrl-C, a kill or the time budget, --resume continues the sweep. The sweep never reads the test window.",
        **examples(
            "python -m tuning.sweep --data data/transactions.csv --trials 40",
            "python -m tuning.sweep --data cards.parquet --schema my.yaml --config handbook --time-budget 15m",
            "python -m tuning.sweep --resume transactions-20261123-101500-3fa2",
            "ray job submit --working-dir . -- python -m tuning.sweep --data s3://bucket/day.parquet --schema my.yaml",
        ),
    )
    add = parser.add_argument
    schemas, configs = ", ".join(shipped_names()), ", ".join(shipped_configs())
    add("--data", help="CSV or Parquet: a file, folder, glob or URL")
    add("--schema", help=f"a shipped name ({schemas}) or a .yaml path (default transactions)")
    add("--config", help=f"everything that the space does not set: a shipped name ({configs}) or a .yaml path")
    add("--space", help="YAML file of the search space (default tuning/spaces/default.yaml; docs/sweeps.md)")
    add("--trials", type=int, help="trials, both detectors together (default 40); with --resume: the new total")
    add("--detector", choices=["forest", "autoencoder", "both"], help="what to search (default both)")
    add("--max-concurrent", type=int, metavar="N", help="trials at once (default: as many as the CPUs allow)")
    add("--cpus-per-trial", type=float, metavar="F", help="CPU share of a trial (default 1)")
    add("--gpus-per-trial", type=float, metavar="F", help="GPU share of a trial (default 0)")
    add("--time-budget", metavar="T", help="stop after this long, e.g. 15m; the sweep can be resumed")
    add("--objectives", choices=list(OBJECTIVES), help="average precision alone, or with scoring cost (default ap)")
    add("--scheduler", choices=["asha", "none"], help="stop weak trials early, or run all to the end (default asha)")
    add("--folds", type=int, help="prequential folds per trial (default 1: the validation window)")
    add("--seed", type=int, help="random seed; replaces the configuration's")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one setting; repeatable")
    add("--outdir", help="folder for the report and best.yaml (default sweep)")
    add("--no-mlflow", action="store_true", help="write the report without MLflow")
    add("--name", metavar="ID", help="the sweep's id; the same command again resumes the sweep")
    add("--resume", metavar="ID", help="resume a sweep that was stopped or killed")
    add("--retry-failed", action="store_true", help="with --resume: run failed trials again")
    return parser
