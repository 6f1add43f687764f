"""The page at /docs: self-contained, and drawn from openapi.json by a real browser."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import pytest
import uvicorn
from starlette.testclient import TestClient

from fraud.schema.columns import Column
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State
from serve_app.request.fields import json_schema_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000",
)  # fmt: skip


def test_the_page_asks_no_other_host_for_anything(client: TestClient):
    reply = client.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|innerHTML", reply.text)


@pytest.fixture
def address(models: dict[str, ServedModel]) -> Iterator[str]:
    """Where the app of the handbook's schema listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(State(models["handbook"]), ApiKeys())
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_the_fields_and_an_example(address: str, tmp_path: Path):
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{address}/docs"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    text = re.sub(r"<[^>]+>", " ", page)
    assert "TX_AMOUNT" in text and "Amount of the transaction" in text
    assert "TX_FRAUD" not in text
    assert f"curl -X POST {address}/score" in text
    assert text.count("Send ") >= 3  # a button for each endpoint


def test_no_text_that_the_document_allows_is_taken_for_empty():
    schema = json_schema_of(Column(name="id", kind="id"))
    allows = jsonschema_rs.validator_for(schema).is_valid
    blanks = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    assert len(blanks) > 25 and not any(map(allows, blanks)) and allows(" a\x1f")
