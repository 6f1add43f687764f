"""Send alerts to a webhook and by e-mail: one message per kind, not repeated within the cool-down.

`fraud.settings.operations.AlertChannels` has the settings. Every alert, sent or not, becomes a line of
FRAUD_STATE/alerts/MODEL/alerts.jsonl.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import os
import smtplib
import statistics
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from fraud.cli import examples, run_command
from fraud.counts import counted
from fraud.data import filesystems, tables
from fraud.data.locks import exclusive
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings, turn_telemetry_off
from fraud.settings.operations import AlertChannels
from monitoring.drift.verdict import TOO_FEW_ROWS

logger = logging.getLogger(__name__)

KINDS = ("drift", "performance", "volume", "missing_data", "job_failure")
SEVERITIES = ("warning", "critical")
TIMEOUT_S = 10.0
_FEWEST_MATURE = 5
RUNBOOK = "docs/runbook.md"
_OWN = (("http", "127.0.0.1"), ("http", "localhost"))


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert. kind: one of KINDS; subject: e.g. a column or a job; severity: one of SEVERITIES.

    Raises ConfigError for an unknown kind or severity, or an empty subject or text.
    """

    kind: str
    subject: str
    severity: str
    text: str

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("severity", SEVERITIES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"alert's {name} {getattr(self, name)!r} is unknown: use one of {', '.join(allowed)}")
        if not self.subject.strip() or not self.text.strip():
            raise ConfigError("an alert needs a subject and a text")

    @property
    def key(self) -> str:
        """Alerts with equal keys are the same alert."""
        return f"{self.kind} {self.subject}"


def send(alerts: Sequence[Alert], channels: AlertChannels, folder: Path, *, now: dt.datetime) -> list[Alert]:
    """Send the alerts that are due, one message per kind, and return them. folder: holds the log and the state.

    An alert is due if it was not sent within the cool-down, or if its severity rose. A failed channel does not stop the
    others. If all channels fail, the alert is due again next time. Raises DataError at the end, naming the failed
    channels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alerts = list({alert.key: alert for alert in alerts}.values())
    with exclusive(folder / "lock"):
        memory = _memory(folder)
        due = [alert for alert in alerts if _is_due(alert, memory.get(alert.key), channels.cooldown, now)]
        failed: dict[str, str] = {}
        sent: list[Alert] = []
        for kind in dict.fromkeys(alert.kind for alert in due):
            group = [alert for alert in due if alert.kind == kind]
            held_back = {alert.key: memory.get(alert.key, {}).get("held_back", 0) for alert in group}
            outcomes = _send_group(group, held_back, channels)
            failed |= {name: why for name, why in outcomes.items() if why}
            if not outcomes or not all(outcomes.values()):
                sent += group
        for alert in alerts:
            if alert in sent:
                memory[alert.key] = {"told": now.isoformat(), "severity": alert.severity, "held_back": 0}
            elif alert not in due:
                memory[alert.key]["held_back"] += 1
        lines = [json.dumps({"time": now.isoformat(), **asdict(alert), "told": alert in sent}) for alert in alerts]
        with (folder / "alerts.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        tables.write_text(json.dumps(memory, indent=2) + "\n", str(folder / "told.json"))
    if failed:
        raise DataError("; ".join(f"alerts cannot go out by {name}: {why}" for name, why in failed.items()))
    return sent


def of_drift(verdict: Mapping[str, Any]) -> list[Alert]:
    """Alerts from the JSON of monitoring.drift. Too few rows give none: `volume` judges their number."""
    if verdict["verdict"] in ("ok", TOO_FEW_ROWS):
        return []
    severity = "critical" if verdict["verdict"] == "drift" else "warning"
    return [Alert(kind="drift", subject=verdict["schema"]["name"], severity=severity, text=verdict["reason"])]


def of_performance(report: Mapping[str, Any], least: float | None = None) -> list[Alert]:
    """Alerts for days whose precision is surely below `least`: the upper end of their interval is.

    least: default is half the median precision of the mature days; no alerts while there are fewer than 5 of those.
    """
    if least is None:
        mature = [day["precision"] for day in report["days"] if day["is_mature"] and day["precision"] is not None]
        if len(mature) < _FEWEST_MATURE:
            return []
        least = statistics.median(mature) / 2
    low = [day for day in report["days"] if day["high"] is not None and day["high"] < least]
    return [
        Alert(
            kind="performance", subject=day["day"], severity="critical",
            text=f"precision of {day['day']} is {day['precision']:.1%} ({day['low']:.1%} to {day['high']:.1%}) of "
            f"{counted(day['alerts'], 'alert')}, below {least:.0%}",
        )
        for day in low
    ]  # fmt: skip


def of_volume(report: Mapping[str, Any]) -> list[Alert]:
    """Alerts from the JSON of monitoring.volume."""
    return [
        Alert(**{name: alert[name] for name in ("kind", "subject", "severity", "text")}) for alert in report["alerts"]
    ]


def of_report(path: str, what: str, alerts_of: Callable[[Mapping[str, Any]], list[Alert]]) -> list[Alert]:
    """Alerts from a job's JSON. A missing or malformed report is an alert itself."""
    try:
        filesystem, remote_path = filesystems.of(path)
        with filesystem.open(remote_path, "rt", encoding="utf-8") as file:
            content = file.read()
    except (OSError, ValueError, ImportError) as error:
        text = f"{path} is missing or cannot be read ({type(error).__name__}): did the job that writes it run?"
        return [Alert(kind="missing_data", subject=f"{what} report", severity="critical", text=text)]
    try:
        return alerts_of(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
        text = f"{path} is not a report of monitoring.{what}: the job that writes it was interrupted or failed"
        return [Alert(kind="job_failure", subject=f"{what} report", severity="critical", text=text)]


def _is_due(alert: Alert, before: Mapping[str, Any] | None, cooldown: dt.timedelta, now: dt.datetime) -> bool:
    if before is None or now - dt.datetime.fromisoformat(before["told"]) >= cooldown:
        return True
    return SEVERITIES.index(alert.severity) > SEVERITIES.index(before["severity"])


def _memory(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads((folder / "told.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError:
        logger.warning("%s cannot be read: every alert is sent again", folder / "told.json")
        return {}


def _send_group(alerts: Sequence[Alert], held_back: Mapping[str, int], channels: AlertChannels) -> dict[str, str]:
    """Send one message for alerts of one kind. Returns {channel: why it failed, or ""}."""
    kind, worst = alerts[0].kind, max((alert.severity for alert in alerts), key=SEVERITIES.index)
    again = {key: n for key, n in held_back.items() if n}
    title = f"{worst}: {kind.replace('_', ' ')}, {alerts[0].subject}" + (
        f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    )
    lines = [f"[{a.severity}] {a.subject}: {a.text}{_again(again.get(a.key, 0))}" for a in alerts]
    runbook = f"{RUNBOOK}#{kind.replace('_', '-')}"
    outcomes = {}
    if channels.webhook:
        content = {"text": "\n".join([title, *lines]), "kind": kind, "severity": worst, "runbook": runbook,
                   "alerts": [{**asdict(a), "held_back": again.get(a.key, 0)} for a in alerts]}  # fmt: skip
        outcomes["webhook"] = _tried(lambda: _post(channels.webhook, content))
    if channels.email:
        outcomes["e-mail"] = _tried(lambda: _mail(channels, title, "\n".join([*lines, "", f"What to do: {runbook}"])))
    return outcomes


def _again(held_back: int) -> str:
    return f" ({held_back} more times since it was last sent)" if held_back else ""


def _tried(send: Any) -> str:
    try:
        send()
    except (OSError, smtplib.SMTPException, ValueError) as error:  # a URL may hold a secret
        return type(error).__name__ if "://" in str(error) else f"{type(error).__name__}: {error}"
    return ""


def _post(url: str, content: Mapping[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        answer.read(1)


def _mail(channels: AlertChannels, title: str, text: str) -> None:
    message = EmailMessage()
    message["Subject"] = " ".join(title.split())
    message["From"], message["To"] = channels.user or channels.email[0], ", ".join(channels.email)
    message.set_content(text)
    with smtplib.SMTP(*channels.smtp, timeout=TIMEOUT_S) as server:
        if channels.user:
            server.starttls()
            server.login(channels.user, channels.password)
        server.send_message(message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.alerts", description=__doc__,
        **examples(
            "python -m monitoring.alerts --drift drift.json --volume volume.json --performance performance.json",
            "python -m monitoring.alerts --performance performance.json --least-precision 0.3",
            "python -m monitoring.alerts --kind job_failure --subject scoring --severity critical --text 'exit code 2'",
        ),
    )  # fmt: skip
    parser.add_argument("--drift", help="JSON of monitoring.drift: alerts on warning and drift")
    parser.add_argument("--volume", help="JSON of monitoring.volume: alerts on its warnings and critical findings")
    parser.add_argument("--performance", help="JSON of monitoring.performance: alerts on days with low precision")
    parser.add_argument(
        "--least-precision",
        type=float,
        help="low precision (default: half the median of the mature days)",
    )
    parser.add_argument("--kind", choices=KINDS, help="send an alert of your own")
    parser.add_argument("--subject", default="", help="what the alert is about")
    parser.add_argument("--severity", choices=SEVERITIES, default="warning", help="(default: %(default)s)")
    parser.add_argument("--text", default="", help="what happened")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    least = arguments.least_precision
    if least is not None and not 0 < least < 1:
        raise ConfigError(f"--least-precision {least} is out of range: give a share above 0 and below 1")
    sources: dict[str, Callable[[Mapping[str, Any]], list[Alert]]] = {
        "drift": of_drift, "volume": of_volume, "performance": lambda report: of_performance(report, least),
    }  # fmt: skip
    named = {what: path for what in sources if (path := getattr(arguments, what))}
    if not named and not arguments.kind:
        raise ConfigError("no report and no alert: give --drift, --volume, --performance or --kind (see --help)")
    alerts = [alert for what, path in named.items() for alert in of_report(settings.locate(path), what, sources[what])]
    if arguments.kind:
        alerts.append(
            Alert(kind=arguments.kind, subject=arguments.subject, severity=arguments.severity, text=arguments.text)
        )
    channels = AlertChannels.from_environment(os.environ)
    sent = send(alerts, channels, settings.state / "alerts" / settings.model_name, now=dt.datetime.now(dt.UTC))
    sys.stdout.write(
        f"{len(sent)} of {len(alerts)} alerts sent, the others were sent recently\n" if alerts else "no alerts\n"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
