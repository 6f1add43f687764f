"""Where things are: one frozen object read from the environment (FRAUD_* variables, and MLflow's own)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fraud import days
from fraud.errors import ConfigError

# Ray unpacks `--working-dir` uploads below a folder of this name and deletes it after the job.
_RAY_JOB_COPY = "working_dir_files"

TELEMETRY_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Places and names; build with `Settings.from_environment()`.

    root: folder that relative paths on a command line are relative to (FRAUD_ROOT; default the working directory).
    state: folder for what we keep between runs: MLflow's database and artifacts, logs, checkpoints (FRAUD_STATE).
    tracking_uri: MLflow tracking and registry store (MLFLOW_TRACKING_URI; default SQLite below `state`).
    experiment: MLflow experiment (FRAUD_EXPERIMENT).
    model_name: name in the model registry (FRAUD_MODEL_NAME).
    mode: "production" or "dev" (FRAUD_MODE); only dev serves without an API key.
    shared_data: folder with the published data sets, for benchmarks (FRAUD_SHARED_DATA).
    store: folder or URL below which `make demo` keeps data, scored rows, pages (FRAUD_STORE; default `root`).
    history: folder or URL of the daily snapshots of entity history (FRAUD_HISTORY; default `history` below `state`).
    history_url: where serving keeps the live entity history: "node" (a file that the replicas of a machine share),
        "memory" (of one replica), or redis://, rediss:// or unix:// with the password in it (FRAUD_HISTORY_URL). Never
        shown nor logged.
    history_timeout_ms: longest wait of a request for it (FRAUD_HISTORY_TIMEOUT_MS).
    day_zone: the time zone of days where no schema says it, an IANA name; empty where it is not set (FRAUD_DAY_ZONE).
    """

    root: Path
    state: Path
    tracking_uri: str
    experiment: str = "fraud"
    model_name: str = "fraud-detector"
    mode: str = "production"
    shared_data: Path
    store: str = ""
    history: str = ""
    history_url: str = field(default="node", repr=False)
    history_timeout_ms: float = 100.0
    day_zone: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read settings from `environment` (default os.environ). Raises ConfigError naming a variable that is wrong."""
        env = os.environ if environment is None else environment
        root = Path(env.get("FRAUD_ROOT") or Path.cwd()).absolute()
        state = root / (env.get("FRAUD_STATE") or "var")
        mode = env.get("FRAUD_MODE") or "production"
        if mode not in ("production", "dev"):
            raise ConfigError(f"FRAUD_MODE={mode!r} is unknown: set it to 'production' or 'dev'")
        history_url = env.get("FRAUD_HISTORY_URL") or "node"
        if history_url not in ("node", "memory") and not history_url.startswith(("redis://", "rediss://", "unix://")):
            # Not shown: it may hold a password.
            raise ConfigError("FRAUD_HISTORY_URL is none of node, memory, redis://..., rediss://... and unix://...")
        timeout = env.get("FRAUD_HISTORY_TIMEOUT_MS") or "100"
        try:
            timeout_ms = float(timeout)
        except ValueError:
            timeout_ms = 0.0
        if not 1 <= timeout_ms <= 60_000:
            raise ConfigError(f"FRAUD_HISTORY_TIMEOUT_MS={timeout!r} is not a number of milliseconds, 1 to 60000")
        day_zone = env.get(days.VARIABLE) or ""
        try:
            days.Zone(day_zone or days.UTC.name)
        except ConfigError as error:
            raise ConfigError(f"{days.VARIABLE}: {error}") from None
        return cls(
            root=root,
            state=state,
            tracking_uri=env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state}/mlflow.db",
            experiment=env.get("FRAUD_EXPERIMENT") or "fraud",
            model_name=env.get("FRAUD_MODEL_NAME") or "fraud-detector",
            mode=mode,
            shared_data=root / (env.get("FRAUD_SHARED_DATA") or "../shared/data"),
            store=(env.get("FRAUD_STORE") or "").rstrip("/"),
            history=_located(env.get("FRAUD_HISTORY") or str(state / "history"), root),
            history_url=history_url,
            history_timeout_ms=timeout_ms,
            day_zone=day_zone,
        )

    @property
    def live(self) -> Path:
        """The folder of the live entity history that this machine keeps."""
        return self.state / "live" / self.model_name

    def locate(self, path: str) -> str:
        """Make a relative local path absolute against `root`; leave absolute paths and URLs as they are.

        Raises ConfigError where a relative path would land in Ray's temporary copy of the folder and be lost.
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
        """Where the demo keeps a file: below `store`, or `root`."""
        return self.locate(f"{self.store}/{name}" if self.store else name)

    def locate_yaml(self, path_or_name: str) -> str:
        """`locate` for what may be a YAML file or the name of a shipped one."""
        return self.locate(path_or_name) if path_or_name.endswith((".yaml", ".yml")) else path_or_name


def _located(path: str, root: Path) -> str:
    return path.rstrip("/") if "://" in path or Path(path).is_absolute() else str(root / path)


def turn_telemetry_off() -> None:
    """Switch off the usage reports of Ray, MLflow, Evidently and Airflow, unless the user set the variable already."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)


def git_commit() -> str | None:
    """The commit of the code, from GIT_COMMIT (images, Ray jobs without .git) or git itself."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
