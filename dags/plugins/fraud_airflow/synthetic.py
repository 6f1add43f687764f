"""FRAUD_SYNTHETIC=1: the DAGs make their own transactions and labels, apart from everything real.

All files are below the folder `synthetic` of FRAUD_ROOT, and the model has a name of its own.
"""

from __future__ import annotations

import os

IS_ON = os.environ.get("FRAUD_SYNTHETIC") == "1"
TASK = "synthetic"
FOLDER = "synthetic"
# Of the DAGs' settings (pipeline.DEFAULTS): these become paths below FOLDER, the others have other defaults.
PATHS = (
    "daily_data", "history_data", "label_files", "scored", "reports", "review", "training", "sweep", "artifacts",
    "evaluation", "gate",
)  # fmt: skip
OTHERS = {"schema": "handbook", "trials": "4"}
# Of every job. An empty variable counts as not set, so labels, history and decisions are below this FRAUD_STATE.
JOB_ENVIRONMENT = {
    "FRAUD_STATE": f"{FOLDER}/var",
    "FRAUD_MODEL_NAME": "fraud-synthetic",
    "FRAUD_EXPERIMENT": "fraud-synthetic",
    **dict.fromkeys(
        ("FRAUD_LABELS", "FRAUD_HISTORY", "FRAUD_DECISIONS", "FRAUD_ALERT_WEBHOOK", "FRAUD_ALERT_EMAIL"), ""
    ),
}
# The day that the run's first task made, from the line `day: 2024-03-01` of its log.
DAY = f"(ti.xcom_pull(task_ids='{TASK}')['last_lines'] | join).split('day: ')[-1][:10]"


def defaults(real: dict[str, str]) -> dict[str, str]:
    """The settings' defaults."""
    return {**real, **{name: f"{FOLDER}/{real[name]}" for name in PATHS}, **OTHERS} if IS_ON else real
