"""What the tests of the running stack share: its keys and secrets, how to ask it, how to wait for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.local import services
from deploy.local.score_service import CONFIG
from deploy.local.services import Stack

KEY = "live-stack-key-7f3a9c51d2"
SECRETS = {
    "FRAUD_DECISIONS_KEY": "decisions-secret-5e1f77aa90c4",
    "FRAUD_ALERT_WEBHOOK": "https://alerts.invalid/webhook-secret-88d1",
    "FRAUD_ALERT_SMTP_PASSWORD": "smtp-secret-31aa7c",
}


@dataclass(frozen=True)
class Live:
    """The running stack. port: of /score."""

    stack: Stack
    port: int

    @property
    def state(self) -> Path:
        return self.stack.settings.state

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Ask /score's server with the API key, or with these headers instead."""
        sent = {"X-API-Key": KEY} if headers is None else headers
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        return services.ask(f"http://127.0.0.1:{self.port}{path}", headers=sent, body=text, timeout_s=30)


def eventually(is_so: Callable[[], Any], seconds: float = 600) -> Any:
    """Wait until it is so, and return what it says. seconds: patience, for a machine with much other work."""
    ends = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < ends, "it did not become so"
        time.sleep(0.2)
    return answer


def serve_config(folder: Path, bundle_folder: Path, **http: Any) -> Path:
    """serve_app/config.yaml with another place to listen on and a bundle."""
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"].update(http)
    config["applications"][0]["args"] = {"bundle": str(bundle_folder)}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    return folder / "serve.yaml"
