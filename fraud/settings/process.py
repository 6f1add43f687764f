"""Process-wide settings of libraries, and the git commit of the running code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TELEMETRY_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


def turn_telemetry_off() -> None:
    """Turn off the usage reports of Ray, MLflow, Evidently and Airflow, unless the user set the variable."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)


def git_commit() -> str | None:
    """The commit of the code, from GIT_COMMIT (images, Ray jobs without .git) or git itself."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()
