"""Tell people: alerts go to a file, a webhook and by e-mail, a message a kind, and not again within a cool-down.

The settings are `fraud.settings.operations.AlertChannels`.

Everything, told or not, is a line of FRAUD_STATE/alerts/alerts.jsonl.
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

from fraud.cli import run_command
from fraud.data import filesystems, tables
from fraud.data.locks import exclusive
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings, turn_telemetry_off
from fraud.settings.operations import AlertChannels

logger = logging.getLogger(__name__)

KINDS = ("drift", "performance", "volume", "missing_data", "job_failure")
SEVERITIES = ("warning", "critical")
TIMEOUT_S = 10.0
_FEWEST_MATURE = 5
RUNBOOK = "docs/runbook.md"
_OWN = (("http", "127.0.0.1"), ("http", "localhost"))


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One thing to tell. kind: of KINDS; subject: what it is about, such as a column or a job; severity: of SEVERITIES.

    Raises ConfigError for a kind or severity that is unknown, or without subject or text.
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
        """What makes two alerts the same."""
        return f"{self.kind} {self.subject}"


def tell(alerts: Sequence[Alert], channels: AlertChannels, folder: Path, *, now: dt.datetime) -> list[Alert]:
    """Tell what was not told lately, a message for all alerts of a kind; returns those. folder: for file and memory.

    A channel that fails hinders no other; what no channel took is told again next time. Raises DataError, at the end,
    naming the channels that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alerts = list({alert.key: alert for alert in alerts}.values())
    with exclusive(folder / "lock"):
        told_before = _memory(folder)
        due = [alert for alert in alerts if _is_due(alert, told_before.get(alert.key), channels.cooldown, now)]
        failed: dict[str, str] = {}
        told: list[Alert] = []
        for kind in dict.fromkeys(alert.kind for alert in due):
            group = [alert for alert in due if alert.kind == kind]
            held_back = {alert.key: told_before.get(alert.key, {}).get("held_back", 0) for alert in group}
            outcomes = _send(group, held_back, channels)
            failed |= {name: why for name, why in outcomes.items() if why}
            if not outcomes or not all(outcomes.values()):
                told += group
        for alert in alerts:
            if alert in told:
                told_before[alert.key] = {"told": now.isoformat(), "severity": alert.severity, "held_back": 0}
            elif alert not in due:
                told_before[alert.key]["held_back"] += 1
        lines = [json.dumps({"time": now.isoformat(), **asdict(alert), "told": alert in told}) for alert in alerts]
        with (folder / "alerts.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        tables.write_text(json.dumps(told_before, indent=2) + "\n", str(folder / "told.json"))
    if failed:
        raise DataError("; ".join(f"alerts cannot go out by {name}: {why}" for name, why in failed.items()))
    return told


def of_drift(verdict: Mapping[str, Any]) -> list[Alert]:
    """What the JSON of monitoring.drift has to tell."""
    if verdict["verdict"] == "ok":
        return []
    severity = "critical" if verdict["verdict"] == "drift" else "warning"
    return [Alert(kind="drift", subject=verdict["schema"]["name"], severity=severity, text=verdict["reason"])]


def of_performance(found: Mapping[str, Any], least: float | None = None) -> list[Alert]:
    """Days whose precision is below `least` beyond doubt: the upper end of their interval is.

    least: by default half the median of the days whose labels have matured; nothing is told while those are too few.
    """
    if least is None:
        mature = [day["precision"] for day in found["days"] if day["is_mature"] and day["precision"] is not None]
        if len(mature) < _FEWEST_MATURE:
            return []
        least = statistics.median(mature) / 2
    low = [day for day in found["days"] if day["high"] is not None and day["high"] < least]
    return [
        Alert(
            kind="performance", subject=day["day"], severity="critical",
            text=f"precision of {day['day']} is {day['precision']:.1%} ({day['low']:.1%} to {day['high']:.1%}) of "
            f"{day['alerts']:,} alerts, below {least:.0%}",
        )
        for day in low
    ]  # fmt: skip


def of_volume(found: Mapping[str, Any]) -> list[Alert]:
    """What the JSON of monitoring.volume has to tell."""
    return [
        Alert(**{name: alert[name] for name in ("kind", "subject", "severity", "text")}) for alert in found["alerts"]
    ]


def of_report(path: str, what: str, tell_of: Callable[[Mapping[str, Any]], list[Alert]]) -> list[Alert]:
    """What a job's JSON has to tell; that it is not there, or is no such report, is an alert itself."""
    try:
        filesystem, place = filesystems.of(path)
        with filesystem.open(place, "rt", encoding="utf-8") as file:
            content = file.read()
    except (OSError, ValueError, ImportError) as error:
        text = f"{path} is not there or cannot be read ({type(error).__name__}): did the job that writes it run?"
        return [Alert(kind="missing_data", subject=f"{what} report", severity="critical", text=text)]
    try:
        return tell_of(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
        text = f"{path} is no report of monitoring.{what}: the job that writes it was cut off, or wrote something else"
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
        logger.warning("%s cannot be read: everything is told anew", folder / "told.json")
        return {}


def _send(alerts: Sequence[Alert], held_back: Mapping[str, int], channels: AlertChannels) -> dict[str, str]:
    """{channel: why it failed, or ""}; a message for all of them, which are of one kind."""
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
    return f" ({held_back} more times since it was last told)" if held_back else ""


def _tried(send: Any) -> str:
    try:
        send()
    except (OSError, smtplib.SMTPException, ValueError) as error:  # their texts hold no secret but a URL: not told
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
        epilog="examples:\n"
        "  python -m monitoring.alerts --drift drift.json --volume volume.json --performance performance.json\n"
        "  python -m monitoring.alerts --performance performance.json --least-precision 0.3\n"
        "  python -m monitoring.alerts --kind job_failure --subject scoring --severity critical --text 'exit code 2'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--drift", help="JSON of monitoring.drift: told unless it says ok")
    parser.add_argument("--volume", help="JSON of monitoring.volume: what it calls a warning or critical is told")
    parser.add_argument("--performance", help="JSON of monitoring.performance: days that are surely too bad are told")
    parser.add_argument(
        "--least-precision", type=float, help="which are too bad (default: below half the median of the mature days)"
    )
    parser.add_argument("--kind", choices=KINDS, help="an alert of your own")
    parser.add_argument("--subject", default="", help="what it is about")
    parser.add_argument("--severity", choices=SEVERITIES, default="warning", help="(default: %(default)s)")
    parser.add_argument("--text", default="", help="what happened")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    given = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    least = given.least_precision
    if least is not None and not 0 < least < 1:
        raise ConfigError(f"--least-precision {least} is no share above 0 and below 1")
    sources: dict[str, Callable[[Mapping[str, Any]], list[Alert]]] = {
        "drift": of_drift, "volume": of_volume, "performance": lambda found: of_performance(found, least),
    }  # fmt: skip
    named = {what: path for what in sources if (path := getattr(given, what))}
    if not named and not given.kind:
        raise ConfigError("there is nothing to tell: give --drift, --volume, --performance or --kind; --help explains")
    alerts = [alert for what, path in named.items() for alert in of_report(settings.locate(path), what, sources[what])]
    if given.kind:
        alerts.append(Alert(kind=given.kind, subject=given.subject, severity=given.severity, text=given.text))
    channels = AlertChannels.from_environment(os.environ)
    told = tell(alerts, channels, settings.state / "alerts", now=dt.datetime.now(dt.UTC))
    sys.stdout.write(
        f"{len(told)} of {len(alerts)} alerts told, the others lately\n" if alerts else "nothing to tell\n"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
