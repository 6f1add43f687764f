"""Folders, URLs and names shared by all parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from fraud import days
from fraud.errors import ConfigError
from fraud.settings.variables import CONFIG, SettingsGroup, Variable

HISTORY_URL = "FRAUD_HISTORY_URL"
# Ray unpacks `--working-dir` uploads below a folder of this name and deletes it after the job.
_RAY_JOB_COPY = "working_dir_files"
_STATE = "var"
_STORES = ("redis://", "rediss://", "unix://")


def _history_url(url: str) -> str:
    if url not in ("node", "memory") and not url.startswith(_STORES):
        raise ValueError
    return url


def _day_zone(name: str) -> str:
    try:
        days.Zone(name or days.UTC.name)
    except ConfigError as error:
        raise ConfigError(f"FRAUD_DAY_ZONE: {error}") from None
    return name


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Settings(SettingsGroup):
    """Folders, URLs and names shared by all parts."""

    TITLE: ClassVar[str] = "Locations and names"
    READERS: ClassVar[str] = "everything"

    root: Annotated[
        Path,
        Variable(name="FRAUD_ROOT", meaning="base folder of relative paths", default="the working directory"),
    ]
    state: Annotated[
        Path,
        Variable(
            name="FRAUD_STATE",
            meaning="folder of persistent state: MLflow's database and files, logs, checkpoints, live history",
            default="`var` below `FRAUD_ROOT`",
        ),
    ]
    tracking_uri: Annotated[
        str,
        Variable(
            name="MLFLOW_TRACKING_URI",
            meaning="MLflow's tracking store and model registry",
            default="SQLite below `FRAUD_STATE`",
        ),
    ]
    experiment: Annotated[
        str, Variable(name="FRAUD_EXPERIMENT", meaning="MLflow experiment", readers="training, sweeps, monitoring")
    ] = "fraud"
    model_name: Annotated[str, Variable(name="FRAUD_MODEL_NAME", meaning="name in the model registry")] = (
        "fraud-detector"
    )
    mode: Annotated[
        Literal["production", "trial", "dev"],
        Variable(
            name="FRAUD_MODE",
            meaning="dev: serve without an API key (`make up` sets dev). trial: as production, but where no model, no "
            "registry and no key is configured, deploy.serving makes a key and a small model (the image sets trial)",
            readers="replicas of /score, deploy.serving",
        ),
    ] = "production"
    shared_data: Annotated[
        Path,
        Variable(
            name="FRAUD_SHARED_DATA",
            meaning="folder with the published data sets",
            default="`../shared/data` from `FRAUD_ROOT`",
            readers="benchmarks",
        ),
    ]
    store: Annotated[
        str,
        Variable(
            name="FRAUD_STORE",
            meaning="folder or URL of the demo's data, scored rows and pages",
            default="`FRAUD_ROOT`",
            readers="`make demo`",
        ),
    ] = ""
    history: Annotated[
        str,
        Variable(
            name="FRAUD_HISTORY",
            meaning="folder or URL of the daily snapshots of entity history",
            default="`history` below `FRAUD_STATE`",
            readers="ray_jobs.train, ray_jobs.score, ray_jobs.history, replicas of /score",
        ),
    ] = ""
    history_url: Annotated[
        str,
        BeforeValidator(_history_url),
        Variable(
            name=HISTORY_URL,
            meaning="store of the live entity history: node is a file shared by the replicas of a machine, memory is "
            "private to a replica. A URL contains the password and is never shown or logged",
            accepts="node, memory, redis://..., rediss://... or unix://...",
            readers="replicas of /score",
            is_secret=True,
        ),
    ] = field(default="node", repr=False)
    history_timeout_ms: Annotated[
        float,
        Field(ge=1, le=60_000),
        Variable(
            name="FRAUD_HISTORY_TIMEOUT_MS",
            meaning="timeout of a request to Redis",
            unit="milliseconds",
            readers="replicas of /score",
        ),
    ] = 100.0
    context: Annotated[
        Literal["stack", "off"],
        Variable(
            name="FRAUD_CONTEXT",
            meaning="off: ignore `context.json` below `FRAUD_STATE`, by which commands find the stack of `make up`",
            readers="every command",
        ),
    ] = "stack"
    day_zone: Annotated[
        str,
        BeforeValidator(_day_zone),
        Variable(
            name="FRAUD_DAY_ZONE",
            meaning="time zone of days, unless a schema sets it",
            accepts="an IANA name such as Europe/Berlin",
            default="UTC",
        ),
    ] = ""

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, default_root: Path | None = None
    ) -> Settings:
        """Read `environment` (default os.environ). Raises ConfigError naming the invalid variable.

        default_root: root without FRAUD_ROOT; default: the working directory.
        """
        texts = cls.texts(os.environ if environment is None else environment)
        root = _root(texts.get("root"), default_root)
        state = root / texts.get("state", _STATE)
        return cls.checked(
            texts,
            root=root,
            state=state,
            tracking_uri=texts.get("tracking_uri", f"sqlite:///{state}/mlflow.db"),
            shared_data=root / texts.get("shared_data", "../shared/data"),
            store=texts.get("store", "").rstrip("/"),
            history=_located(texts.get("history", str(state / "history")), root),
        )

    @property
    def live(self) -> Path:
        """Folder of this machine's live entity history."""
        return self.state / "live" / self.model_name

    @property
    def models(self) -> Path:
        """Folder of the fetched versions of this model."""
        return self.state / "models" / self.model_name

    def locate(self, path: str) -> str:
        """Make a relative local path absolute against `root`; absolute paths and URLs are returned unchanged.

        Raises ConfigError if a relative path would point into Ray's temporary copy of the folder, which is deleted.
        """
        if "://" in path or Path(path).is_absolute():
            return path
        if _RAY_JOB_COPY in self.root.parts:
            raise ConfigError(
                f"path {path!r} is relative, and this job runs in a temporary copy of your folder that Ray deletes: "
                "give an absolute path or a URL, or start Ray with FRAUD_ROOT set to your folder (`make up` does)"
            )
        return str(self.root / path)

    def stored(self, name: str) -> str:
        """Path of a file of the demo: below `store`, or `root`."""
        return self.locate(f"{self.store}/{name}" if self.store else name)

    def locate_yaml(self, path_or_name: str) -> str:
        """`locate` a YAML file; the name of a shipped one is returned unchanged."""
        return self.locate(path_or_name) if path_or_name.endswith((".yaml", ".yml")) else path_or_name


def state_folder(environment: Mapping[str, str]) -> Path:
    """Settings.state, for a reader that needs nothing else."""
    return _root(environment.get("FRAUD_ROOT"), None) / (environment.get("FRAUD_STATE") or _STATE)


def _root(root: str | None, default_root: Path | None) -> Path:
    return Path(root or default_root or Path.cwd()).absolute()


def _located(path: str, root: Path) -> str:
    return path.rstrip("/") if "://" in path or Path(path).is_absolute() else str(root / path)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DataStores(SettingsGroup):
    """Folders or URLs shared by several commands. Empty: below FRAUD_STATE."""

    TITLE: ClassVar[str] = "Decisions and labels"
    READERS: ClassVar[str] = "replicas of /score, ray_jobs.labels, ray_jobs.train, ray_jobs.score, monitoring"

    decisions: Annotated[
        str,
        BeforeValidator(str.strip),
        Variable(
            name="FRAUD_DECISIONS",
            meaning="folder or URL (s3://...) of the decision log; off: no log",
            default="`decisions` below `FRAUD_STATE`",
            readers="replicas of /score, ray_jobs.labels, monitoring.performance",
        ),
    ] = ""
    labels: Annotated[
        str,
        Variable(
            name="FRAUD_LABELS",
            meaning="folder or URL of the labels",
            default="`labels` below `FRAUD_STATE`",
        ),
    ] = ""

    def decisions_url(self, settings: Settings) -> str:
        """Folder or URL of the decision log."""
        return settings.locate(self.decisions or str(settings.state / "decisions"))

    def labels_url(self, settings: Settings) -> str:
        """Folder or URL of the labels."""
        return settings.locate(self.labels or str(settings.state / "labels"))
