"""Settings read by programs that cannot import `fraud` (DAGs, compose). A test compares them with their readers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic.dataclasses import dataclass

from fraud.settings.variables import CONFIG, SettingsGroup, Variable

_CONNECTION = "the dag-processor, the workers, the triggerer"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class PipelineSettings(SettingsGroup):
    """Settings of the DAGs. An Airflow variable of the same name in lower case overrides one, from the next task on."""

    TITLE: ClassVar[str] = "Airflow: the DAGs"
    READERS: ClassVar[str] = "the dag-processor"

    daily_data: Annotated[str, Variable(name="FRAUD_DAILY_DATA", meaning="a day's transactions")] = (
        "data/daily/{date}.parquet"
    )
    history_data: Annotated[str, Variable(name="FRAUD_HISTORY_DATA", meaning="training data")] = "data/daily/*.parquet"
    label_files: Annotated[str, Variable(name="FRAUD_LABEL_FILES", meaning="files of new labels")] = (
        "labels/incoming/*.csv"
    )
    schema: Annotated[str, Variable(name="FRAUD_SCHEMA", meaning="schema YAML or a shipped name")] = "transactions"
    scored: Annotated[str, Variable(name="FRAUD_SCORED", meaning="folder of scored days")] = "scored"
    reports: Annotated[str, Variable(name="FRAUD_REPORTS", meaning="folder of drift and performance pages")] = "reports"
    review: Annotated[str, Variable(name="FRAUD_REVIEW", meaning="folder of rows drawn for review")] = "review"
    training: Annotated[str, Variable(name="FRAUD_TRAINING", meaning="folder of training results")] = "training"
    sweep: Annotated[str, Variable(name="FRAUD_SWEEP", meaning="folder of sweep results")] = "sweep"
    artifacts: Annotated[str, Variable(name="FRAUD_ARTIFACTS", meaning="folder of bundles")] = "artifacts"
    evaluation: Annotated[str, Variable(name="FRAUD_EVALUATION", meaning="folder of evaluations")] = "evaluation"
    gate: Annotated[str, Variable(name="FRAUD_GATE", meaning="folder of gate decisions")] = "gate"
    config: Annotated[str, Variable(name="FRAUD_CONFIG", meaning="training configuration YAML")] = ""
    space: Annotated[str, Variable(name="FRAUD_SPACE", meaning="space YAML of the sweep")] = ""
    trials: Annotated[str, Variable(name="FRAUD_TRIALS", meaning="trials of the sweep", unit="trials")] = "24"
    matured_days: Annotated[
        str, Variable(name="FRAUD_MATURED_DAYS", meaning="time until labels are trusted", unit="days")
    ] = "7"
    await_hours: Annotated[
        str, Variable(name="FRAUD_AWAIT_HOURS", meaning="longest wait for a day's file", unit="hours")
    ] = "6"
    other_days: Annotated[
        str,
        Variable(
            name="FRAUD_OTHER_DAYS",
            meaning="skip: leave out rows of a neighbouring day in a day's file; empty: such rows stop the run",
        ),
    ] = ""
    synthetic_drift: Annotated[
        str,
        Variable(
            name="FRAUD_SYNTHETIC_DRIFT",
            meaning="drift of the next synthetic days; auto: 0 for eight days, then 2",
            accepts="auto, or a number from 0 to 10",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SchedulerSettings(SettingsGroup):
    """Schedules of the DAGs, and their connection to Ray."""

    TITLE: ClassVar[str] = "Airflow: schedules and Ray"
    READERS: ClassVar[str] = "the dag-processor"

    daily_schedule: Annotated[
        str, Variable(name="FRAUD_DAILY_SCHEDULE", meaning="cron line of the daily scoring; none: by hand only")
    ] = "0 3 * * *"
    weekly_schedule: Annotated[
        str, Variable(name="FRAUD_WEEKLY_SCHEDULE", meaning="cron line of the weekly retraining; none: by hand only")
    ] = "0 5 * * 1"
    synthetic: Annotated[
        str,
        Variable(
            name="FRAUD_SYNTHETIC",
            meaning="1: the DAGs make their own transactions and labels, below the folder synthetic; `make airflow` "
            "sets it in dev mode where nobody has daily files",
            accepts="0 or 1",
            default="0, or as `make airflow` sets it",
        ),
    ] = ""
    retries: Annotated[str, Variable(name="FRAUD_RETRIES", meaning="retries of a task", unit="retries")] = "2"
    retry_delay_s: Annotated[
        str,
        Variable(name="FRAUD_RETRY_DELAY_S", meaning="delay before the first retry, then doubled", unit="seconds"),
    ] = "120"
    deadlines: Annotated[
        str, Variable(name="FRAUD_DEADLINES", meaning="off: no deadline alerts, which `airflow dags test` needs")
    ] = ""
    ray_address: Annotated[
        str, Variable(name="FRAUD_RAY_ADDRESS", meaning="URL of Ray's dashboard", readers=_CONNECTION)
    ] = "http://127.0.0.1:8265"
    ray_dashboard: Annotated[
        str,
        Variable(
            name="FRAUD_RAY_DASHBOARD",
            meaning="URL of Ray's dashboard for a browser, if it differs",
            default="`FRAUD_RAY_ADDRESS`",
            readers=_CONNECTION,
        ),
    ] = ""
    ray_working_dir: Annotated[
        str,
        Variable(
            name="FRAUD_RAY_WORKING_DIR",
            meaning="URI of a zip with our code, if Ray's image does not contain it",
            readers=_CONNECTION,
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ImageSettings(SettingsGroup):
    """Settings of compose, Grafana and the image test."""

    TITLE: ClassVar[str] = "Images and dashboards"
    READERS: ClassVar[str] = "deploy/compose.yaml"

    version: Annotated[str, Variable(name="FRAUD_VERSION", meaning="tag of our images")] = "0.1.0"
    dashboards: Annotated[
        str,
        Variable(
            name="FRAUD_DASHBOARDS",
            meaning="the folder deploy/grafana/dashboards, as an absolute path",
            default="none: Grafana needs it",
            readers="Grafana",
        ),
    ] = ""
    image: Annotated[
        str,
        Variable(
            name="FRAUD_IMAGE",
            meaning="image to test",
            default="empty: the test is skipped",
            readers="tests/deploy/test_image.py",
        ),
    ] = ""
