"""Alerts reach a real webhook and a real mail server, once, grouped, and again when it gets worse."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fraud.errors import ConfigError, DataError
from fraud.settings.operations import AlertChannels
from monitoring import alerts
from monitoring.alerts import Alert, main, of_drift, of_performance, send

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted; answers with the server's `status`."""

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append(content)  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as one message needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        body, in_body = [], False
        for line in self.rfile:
            if in_body:
                body.append(line)
                if line != b".\r\n":
                    continue
                in_body = False
                self.server.got.append(b"".join(body).decode())  # type: ignore[attr-defined]
            in_body = line.upper().startswith(b"DATA")
            self.wfile.write(b"354 go on\r\n" if in_body else b"221 bye\r\n" if line[:4] == b"QUIT" else b"250 ok\r\n")


@pytest.fixture
def hook() -> Iterator[Any]:
    yield from served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook))


@pytest.fixture
def mail() -> Iterator[Any]:
    yield from served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail))


def served(server: Any) -> Iterator[Any]:
    server.got, server.status = [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def channels(hook: Any = None, mail: Any = None, **environment: str) -> AlertChannels:
    if hook is not None:
        environment["FRAUD_ALERT_WEBHOOK"] = f"http://127.0.0.1:{hook.server_address[1]}/secret"
    if mail is not None:
        environment |= {"FRAUD_ALERT_EMAIL": "risk@bank, ops@bank"}
        environment["FRAUD_ALERT_SMTP"] = f"127.0.0.1:{mail.server_address[1]}"
    return AlertChannels.from_environment(environment)


def drift(subject: str, severity: str = "warning") -> Alert:
    return Alert(kind="drift", subject=subject, severity=severity, text=f"{subject} has moved")


def test_alerts_of_a_kind_are_one_message_everywhere(tmp_path: Path, hook: Any, mail: Any):
    failure = Alert(kind="job_failure", subject="scoring", severity="critical", text="exit code 2")
    sent = send([drift("amount"), drift("hour", "critical"), failure], channels(hook, mail), tmp_path, now=NOON)
    assert len(sent) == 3 and [post["kind"] for post in hook.got] == ["drift", "job_failure"]
    first = hook.got[0]
    assert first["severity"] == "critical" and [a["subject"] for a in first["alerts"]] == ["amount", "hour"]
    assert first["runbook"] == "docs/runbook.md#drift" and "amount has moved" in first["text"]
    assert len(mail.got) == 2 and "Subject: critical: drift, amount and 1 more" in mail.got[0]
    assert "To: risk@bank, ops@bank" in mail.got[0] and "hour has moved" in mail.got[0]


def test_the_same_is_told_again_after_the_cooldown_or_when_it_gets_worse(tmp_path: Path, hook: Any):
    once = channels(hook)
    assert send([drift("amount")], once, tmp_path, now=NOON)
    for hours in (1, 2):
        assert not send([drift("amount"), drift("amount")], once, tmp_path, now=NOON + hours * HOUR)
    assert send([drift("amount", "critical")], once, tmp_path, now=NOON + 3 * HOUR)
    assert hook.got[-1]["alerts"][0]["held_back"] == 2
    assert not send([drift("amount")], once, tmp_path, now=NOON + 26 * HOUR)
    assert send([drift("amount")], once, tmp_path, now=NOON + 27 * HOUR) and len(hook.got) == 3
    lines = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [line["told"] for line in lines] == [True, False, False, True, False, True]


def test_a_channel_that_fails_hinders_no_other_and_is_told_without_its_secret(tmp_path: Path, hook: Any, mail: Any):
    hook.status = 500
    with pytest.raises(DataError, match="webhook: HTTPError") as error:
        send([drift("amount")], channels(hook, mail), tmp_path, now=NOON)
    assert "secret" not in str(error.value) and len(mail.got) == 1
    assert not send([drift("amount")], channels(hook, mail), tmp_path, now=NOON + HOUR), "the mail has told it"


def test_what_no_channel_took_is_told_next_time(tmp_path: Path, hook: Any):
    hook.status = 503
    with pytest.raises(DataError, match="webhook"):
        send([drift("amount")], channels(hook), tmp_path, now=NOON)
    hook.status = 200
    assert send([drift("amount")], channels(hook), tmp_path, now=NOON + HOUR)


def test_without_channels_the_file_has_it_and_a_spoilt_memory_is_begun_anew(tmp_path: Path):
    assert send([drift("amount")], channels(), tmp_path, now=NOON)
    (tmp_path / "told.json").write_text("{")
    assert send([drift("amount")], channels(), tmp_path, now=NOON)
    assert len((tmp_path / "alerts.jsonl").read_text().splitlines()) == 2


def test_verdicts_become_alerts():
    verdict = {"verdict": "drift", "reason": "amount moved", "schema": {"name": "handbook"}}
    assert of_drift(verdict)[0].severity == "critical" and of_drift({**verdict, "verdict": "ok"}) == []
    assert of_drift({**verdict, "verdict": "too_few_rows"}) == []
    day = {"day": "2026-01-02", "alerts": 50, "precision": 0.1, "low": 0.05, "high": 0.2}
    days = [day, {**day, "high": 0.4}, {**day, "precision": None, "low": None, "high": None}]
    (low,) = of_performance({"days": days}, least=0.3)
    assert low.subject == "2026-01-02" and "below 30%" in low.text
    usual = [
        {**day, "day": f"2026-02-0{i}", "precision": 0.5, "low": 0.4, "high": 0.6, "is_mature": True}
        for i in (1, 2, 3, 4, 5)
    ]
    young = {**day, "is_mature": False}
    assert [alert.subject for alert in of_performance({"days": [*usual, young]})] == ["2026-01-02"]
    assert of_performance({"days": [*usual[1:], young]}) == [], "four mature days tell nothing"


def test_the_command_reads_what_the_jobs_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hook: Any
):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    monkeypatch.setenv("FRAUD_ALERT_WEBHOOK", f"http://127.0.0.1:{hook.server_address[1]}")
    verdict = {"verdict": "warning", "reason": "amount moved", "schema": {"name": "handbook"}}
    (tmp_path / "d.json").write_text(json.dumps(verdict))
    assert main(["--drift", "d.json"]) == 0 and "1 of 1 alerts sent" in capsys.readouterr().out
    assert main(["--drift", "d.json"]) == 0 and "0 of 1 alerts sent" in capsys.readouterr().out
    (tmp_path / "d.json").write_text(json.dumps({**verdict, "verdict": "ok"}))
    assert main(["--drift", "d.json"]) == 0 and "no alerts" in capsys.readouterr().out
    assert main(["--kind", "volume", "--subject", "today", "--text", "no rows"]) == 0 and len(hook.got) == 2
    for arguments in (
        [],
        ["--performance", "d.json", "--least-precision", "2"],
        ["--kind", "volume", "--text", "no subject"],
    ):
        with pytest.raises(ConfigError):
            main(arguments)
    hook.got.clear()
    alert = {"kind": "volume", "subject": "rows", "severity": "critical", "text": "no rows"}
    (tmp_path / "v.json").write_text(json.dumps({"alerts": [alert]}))
    (tmp_path / "p.json").write_text('{"days": [{}]}')
    assert main(["--drift", "absent.json", "--volume", "v.json", "--performance", "p.json"]) == 0
    posts = {post["kind"]: post["alerts"][0] for post in hook.got}
    assert posts["volume"]["subject"] == "rows"
    assert posts["missing_data"]["subject"] == "drift report" and "absent.json" in posts["missing_data"]["text"]
    assert posts["job_failure"]["subject"] == "performance report" and posts["job_failure"]["severity"] == "critical"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAUD_ALERT_WEBHOOK", "http://elsewhere/secret"), ("FRAUD_ALERT_WEBHOOK", "http://127.0.0.1.x/secret"),
        ("FRAUD_ALERT_SMTP", "mail"), ("FRAUD_ALERT_SMTP", "m:x"),
        ("FRAUD_ALERT_COOLDOWN_H", "-1"), ("FRAUD_ALERT_COOLDOWN_H", "soon"),
    ],
)  # fmt: skip
def test_wrong_settings_name_themselves_and_no_secret(name: str, value: str):
    with pytest.raises(ConfigError, match=name) as error:
        AlertChannels.from_environment({name: value})
    assert "secret" not in str(error.value)


def test_every_kind_has_its_place_in_the_runbook():
    page = (Path(__file__).parents[2] / alerts.RUNBOOK).read_text(encoding="utf-8")
    for kind in alerts.KINDS:
        assert f"\n## {kind.replace('_', ' ').capitalize()}\n" in page
