"""Clients that are generated from /openapi.json, without a warning, call the live service: Python and TypeScript."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from serve_app.app import create_app
from serve_app.auth import ApiKeys, new_key
from serve_app.model.state import ServedModel, State
from tests.serve_app.live import listening

pytestmark = pytest.mark.slow
TYPESCRIPT = Path(__file__).parent / "typescript"


class Live(NamedTuple):
    """A service with keys. url: of its /v1; document: file of its /openapi.json."""

    url: str
    key: str
    document: Path
    model: ServedModel


@pytest.fixture(scope="module")
def live(models: dict[str, ServedModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    key, digest = new_key()
    with listening(create_app(State(models["handbook"]), ApiKeys([bytes.fromhex(digest)]))) as address:
        reply = httpx.get(f"{address}/v1/openapi.json", headers={"X-API-Key": key})
        document = tmp_path_factory.mktemp("document") / "openapi.json"
        document.write_bytes(reply.raise_for_status().content)
        yield Live(f"{address}/v1", key, document, models["handbook"])


def ran(*command: str | Path, cwd: Path) -> str:
    """The output of a command that succeeds."""
    scripts = sysconfig.get_path("scripts")  # the generator runs ruff
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def generated(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The Python client, imported."""
    folder = tmp_path_factory.mktemp("python")
    options = ("--meta", "none", "--output-path", "fraud_client", "--fail-on-warning")
    said = ran(sys.executable, "-m", "openapi_python_client", "generate", "--path", live.document, *options, cwd=folder)
    assert "arning" not in said
    sys.path.insert(0, str(folder))
    yield importlib.import_module("fraud_client")
    sys.path.remove(str(folder))


def test_a_generated_python_client_scores(live: Live, generated: Any):
    api = {
        name: importlib.import_module(f"fraud_client.api.{tag}.{name}")
        for tag, names in {
            "scoring": ("score", "score_batch", "explain"),
            "model": ("model",),
            "health": ("health", "ready", "metrics"),
        }.items()
        for name in names
    }
    types = importlib.import_module("fraud_client.models")
    client = generated.AuthenticatedClient(live.url, live.key, prefix="", auth_header_name="X-API-Key")
    transaction = types.Transaction.from_dict(live.model.example)
    expected = live.model.answer(live.model.reader.parse(json.dumps(live.model.example).encode()), learn=False)

    answer = api["score"].sync(client=client, body=transaction, learn=False, reasons=True)
    assert isinstance(answer, types.Answer) and answer.score == expected["score"] and answer.reasons
    late = api["score"].sync(client=client, body=transaction, learn=False, x_deadline_ms="0")
    assert isinstance(late, types.FallbackAnswer) and late.score is None
    wrong = types.Transaction.from_dict({**live.model.example, "TX_AMOUNT": -1})
    refusal = api["score"].sync(client=client, body=wrong)
    assert isinstance(refusal, types.Problems) and refusal.detail[0].field == "TX_AMOUNT"

    batch = api["score_batch"].sync(client=client, body=[transaction, wrong], learn=False)
    assert [type(each) for each in batch.results] == [types.BatchAnswer, types.BatchRejection]
    assert (batch.scored, batch.rejected, batch.results[0].score) == (1, 1, expected["score"])
    assert api["explain"].sync(client=client, body=transaction).columns
    assert api["model"].sync(client=client).model_version == live.model.version
    assert api["ready"].sync(client=client).status == "ready"
    assert "fraud_requests_total" in api["metrics"].sync(client=client)
    stranger = generated.Client(live.url)
    assert api["health"].sync(client=stranger).status == "ok"
    assert api["model"].sync_detailed(client=stranger).status_code is HTTPStatus.UNAUTHORIZED

    # A generated function takes a batch of JSON; lines go through its HTTP client.
    lines = f"{json.dumps(live.model.example)}\n" * 2
    reply = client.get_httpx_client().post(
        "/score/batch?learn=false", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert [json.loads(line)["score"] for line in reply.text.splitlines()] == [expected["score"]] * 2


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm and node: apt-get install nodejs npm")
def test_a_generated_typescript_client_scores(live: Live, tmp_path: Path):
    folder = tmp_path / "typescript"
    shutil.copytree(TYPESCRIPT, folder)
    ran("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
    tools = folder / "node_modules" / ".bin"
    ran(tools / "openapi-typescript", live.document, "--output", "api.d.ts", cwd=folder)
    ran(tools / "tsc", "--project", "tsconfig.json", cwd=folder)
    answers = json.loads(ran("node", "call.js", live.url, live.key, cwd=folder))
    body = {
        "TRANSACTION_ID": "17", "TX_DATETIME": "2018-09-01T10:15:00", "CUSTOMER_ID": "5", "TERMINAL_ID": 3,
        "TX_AMOUNT": 57.1,
    }  # fmt: skip
    headers = {"X-API-Key": live.key}
    explained = httpx.post(f"{live.url}/explain", json=body, headers=headers).json()
    assert answers == {
        "score": explained["score"], "problem": "TX_AMOUNT", "evidence": explained["evidence"], "scored": 1,
        "rejected": 1, "version": live.model.version, "health": "ok", "denied": 401,
    }  # fmt: skip
