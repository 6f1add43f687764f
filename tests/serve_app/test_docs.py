"""The page at /docs: self-contained, and drawn from openapi.json by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import jsonschema_rs
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fraud.schema.columns import Column
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State
from serve_app.request.fields import json_schema_of
from tests.serve_app.http.test_guard import KEYS
from tests.serve_app.live import listening

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


def drawn(app: FastAPI, tmp_path: Path) -> str:
    """What a browser draws of the page."""
    with listening(app) as address:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [str(CHROMIUM), *QUIET, profile, "--dump-dom", f"{address}/docs"]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return page.partition("<script>")[0]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["handbook", "guessed"])
def test_a_browser_draws_every_path_with_its_fields_parameters_and_examples(
    models: dict[str, ServedModel], guessed: ServedModel, tmp_path: Path, name: str
):
    model = guessed if name == "guessed" else models[name]
    page = drawn(create_app(State(model), ApiKeys()), tmp_path)
    text = re.sub(r"<[^>]+>", " ", page)
    document = create_app(State(model), ApiKeys()).openapi()
    assert len(document["paths"]) == 7
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page, path
    for column in model.engine.schema.inputs:
        assert column.name in text
    assert "TX_FRAUD" not in text and "Guessed" not in text
    assert "X-Deadline-Ms" in text and "does not enter the history" in text
    assert re.search(r"curl -X POST http://127\.0\.0\.1:\d+/v1/score", text)
    assert text.count("Send ") >= 3 and "TypeError" not in text and "undefined" not in text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_where_a_key_is_needed_the_page_asks_for_it(models: dict[str, ServedModel], tmp_path: Path):
    page = drawn(create_app(State(models["handbook"]), KEYS), tmp_path)
    assert "asks for an API key" in page and 'type="password"' in page
    assert "TX_AMOUNT" not in page and "not valid" not in page


def test_no_text_that_the_document_allows_is_taken_for_empty():
    schema = json_schema_of(Column(name="id", kind="id"))
    allows = jsonschema_rs.validator_for(schema).is_valid
    blanks = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    assert len(blanks) > 25 and not any(map(allows, blanks)) and allows(" a\x1f")
