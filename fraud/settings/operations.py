"""Settings of alerts, monitoring and the local stack."""

from __future__ import annotations

import datetime as dt
import urllib.parse
from dataclasses import field
from typing import Annotated, ClassVar

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from fraud.settings.variables import CONFIG, Names, SettingsGroup, Variable

MLFLOW_BACKEND, MLFLOW_ARTIFACTS = "FRAUD_MLFLOW_BACKEND", "FRAUD_MLFLOW_ARTIFACTS"
MONITORING_MLFLOW = "FRAUD_MONITORING_MLFLOW"
LOOPBACK = "127.0.0.1"
_OWN = (("http", LOOPBACK), ("http", "localhost"))


def _webhook(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if url and parts.scheme != "https" and (parts.scheme, parts.hostname) not in _OWN:
        raise ValueError
    return url


def _host_and_port(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError
    return host, int(port)


def _hours(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        hours = dt.timedelta(hours=float(value))
    except OverflowError:
        raise ValueError from None
    if hours < dt.timedelta():
        raise ValueError
    return hours


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AlertChannels(SettingsGroup):
    """Where alerts are sent, in addition to the file `alerts/MODEL/alerts.jsonl` below FRAUD_STATE."""

    TITLE: ClassVar[str] = "Alerts"
    READERS: ClassVar[str] = "monitoring.alerts"

    webhook: Annotated[
        str,
        BeforeValidator(_webhook),
        Variable(
            name="FRAUD_ALERT_WEBHOOK",
            meaning="URL that receives each message as JSON; may contain a secret and is never shown",
            accepts="an https:// URL; plain http:// to this machine only",
            is_secret=True,
        ),
    ] = field(default="", repr=False)
    email: Annotated[
        Names, Variable(name="FRAUD_ALERT_EMAIL", meaning="recipients of each message, separated by commas")
    ] = ()
    smtp: Annotated[
        tuple[str, int],
        BeforeValidator(_host_and_port),
        Variable(name="FRAUD_ALERT_SMTP", meaning="the mail server", accepts="host:port", default="127.0.0.1:25"),
    ] = (LOOPBACK, 25)
    user: Annotated[
        str, Variable(name="FRAUD_ALERT_SMTP_USER", meaning="user of the mail server; requires STARTTLS")
    ] = ""
    password: Annotated[
        str,
        Variable(name="FRAUD_ALERT_SMTP_PASSWORD", meaning="password of the mail server", is_secret=True),
    ] = field(default="", repr=False)
    cooldown: Annotated[
        dt.timedelta,
        BeforeValidator(_hours),
        Variable(
            name="FRAUD_ALERT_COOLDOWN_H",
            meaning="time before an alert is repeated, unless it gets worse",
            unit="hours",
            accepts="a number of hours, 0 or more",
            default="24",
        ),
    ] = dt.timedelta(hours=24)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class MonitoringSettings(SettingsGroup):
    """Where monitoring results are logged, in addition to their files."""

    TITLE: ClassVar[str] = "Monitoring"
    READERS: ClassVar[str] = "monitoring.drift, monitoring.performance, monitoring.volume"

    logs_to_mlflow: Annotated[
        bool,
        BeforeValidator(lambda value: value == "1" if isinstance(value, str) else value),
        Variable(name=MONITORING_MLFLOW, meaning="1: same as the flag --mlflow"),
    ] = False


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class StackSettings(SettingsGroup):
    """Settings of `make up`."""

    TITLE: ClassVar[str] = "The local stack"
    READERS: ClassVar[str] = "`make up`, deploy.serving"

    host: Annotated[
        str,
        Variable(
            name="FRAUD_HOST",
            meaning="IP address on which Ray's dashboard and /score listen; beyond loopback only with token and keys",
        ),
    ] = LOOPBACK
    mlflow_backend: Annotated[
        str,
        Variable(
            name=MLFLOW_BACKEND,
            meaning="database of MLflow's server: postgresql://USER:PASSWORD@HOST:5432/NAME; without a password, libpq "
            "reads it from PGPASSFILE",
            default="SQLite below `FRAUD_STATE`",
            is_secret=True,
        ),
    ] = field(default="", repr=False)
    mlflow_artifacts: Annotated[
        str,
        Variable(
            name=MLFLOW_ARTIFACTS,
            meaning="folder or s3://BUCKET/PREFIX of MLflow's files; only the server accesses it",
            default="`mlartifacts` below `FRAUD_STATE`",
        ),
    ] = ""
