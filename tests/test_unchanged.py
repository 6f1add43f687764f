"""What users hold stays as it was: saved bundles load and save to the same bytes, and the service answers the same.

`tests/unchanged` was recorded with version 0.1. After a change that is meant to change an answer, look at the
difference and record the answers anew:

    python -m tests.test_unchanged

The bundles are never recorded anew: they are files of users.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from fraud.data import simulation
from fraud.scoring import bundle
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State

FOLDER = Path(__file__).parent / "unchanged"
ANSWERS = FOLDER / "answers.json"
SCHEMAS = ("transactions", "handbook", "mixed")
ARROW = "application/vnd.apache.arrow.stream"
WRONG: dict[str, dict[str, Any]] = {
    "transactions": {"amount": "a lot", "hour": 99, "distance": None, "surplus": 1},
    "handbook": {"TX_DATETIME": "yesterday", "TX_AMOUNT": -5, "CUSTOMER_ID": []},
    "mixed": {"seconds": "soon", "class": "none", "_score": 2.5, "is_new": "perhaps"},
}
LINES = {"surplus comma": b'{"a": 1,}', "no object": b"[1, 2]", "empty": b"", "not UTF-8": b"\xff\xfe"}


def rows_of(schema: str, n: int = 12) -> list[dict[str, Any]]:
    """Raw rows of a schema, JSON types."""
    if schema == "mixed":
        rng = np.random.default_rng(3)
        return [
            {
                "reference": str(row),
                "seconds": 1_000_000 + 60 * row,
                "class": ("atm", "shop", "web")[row % 3],
                "Unnamed: 0": (None, "a", "z")[row % 3],
                "model_config": None if row % 4 == 0 else float(rng.normal()),
                "_score": int(rng.integers(-5, 6)),
                "is_new": (True, False, None)[row % 3],
            }
            for row in range(n)
        ]
    frame = simulation.transactions(n, seed=9) if schema == "transactions" else simulation.cards(n, seed=9)
    return json.loads(
        frame.drop(columns=["is_fraud", "TX_FRAUD"], errors="ignore").to_json(orient="records", date_format="iso")
    )


def calls(schema: str) -> Iterator[tuple[str, str, str, dict[str, str], bytes]]:
    """(name, method, path, headers, body) of every recorded request."""
    rows = rows_of(schema)
    as_json = {"content-type": "application/json"}
    for index, row in enumerate(rows):
        yield f"score {index}", "POST", "/score", as_json, json.dumps(row).encode()
    yield "score with reasons", "POST", "/score?reasons=true", as_json, json.dumps(rows[-1]).encode()
    yield "score wrong", "POST", "/score", as_json, json.dumps(WRONG[schema]).encode()
    for name, line in LINES.items():
        yield f"score {name}", "POST", "/score", as_json, line
    yield "explain", "POST", "/explain", as_json, json.dumps(rows[-1]).encode()
    yield "explain wrong", "POST", "/explain", as_json, json.dumps(WRONG[schema]).encode()
    some = [*rows[:3], WRONG[schema], *rows[3:5]]
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    for path in ("/score/batch", "/score/batch?reasons=true", "/score/batch?learn=false"):
        yield f"{path} rows", "POST", path, as_json, json.dumps(some).encode()
        yield f"{path} columns", "POST", path, as_json, json.dumps(columns).encode()
        lines = "\n".join(json.dumps(row) for row in some).encode()
        yield f"{path} lines", "POST", path, {"content-type": "application/x-ndjson"}, lines
        yield f"{path} Arrow", "POST", path, {"content-type": ARROW, "accept": ARROW}, arrow(rows)
    for path in ("/model", "/openapi.json", "/healthz", "/readyz", "/docs", "/nowhere", "/score"):
        yield f"GET {path}", "GET", path, {}, b""


def arrow(rows: list[dict[str, Any]]) -> bytes:
    """Rows as an Arrow IPC stream."""
    table = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def answers(schema: str) -> dict[str, dict[str, Any]]:
    """{request: status, type and body}, of an app around the recorded bundle, asked in order."""
    model = ServedModel.from_bundle(bundle.load(FOLDER / schema), name="fraud-detector", version="7")
    client = TestClient(create_app(State(model), ApiKeys()), raise_server_exceptions=False)
    recorded = {}
    for name, method, path, headers, body in calls(schema):
        headers = {"x-request-id": "of-the-test", **headers}
        answer = client.request(method, path, headers=headers, content=body)
        kind = answer.headers.get("content-type", "")
        is_text = kind.startswith(("application/json", "application/x-ndjson", "text/"))
        content = answer.text if is_text else base64.b64encode(answer.content).decode()
        recorded[name] = {"status": answer.status_code, "type": kind, "body": content}
    return recorded


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ; numbers may by what another processor's rounding moves."""
    if isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=1e-5, abs_tol=1e-6):
            yield f"{where}: {old} -> {new}"
    elif isinstance(old, dict) and isinstance(new, dict):
        if list(old) != list(new):
            yield f"{where}: {list(old)} -> {list(new)}"
        for key in old.keys() & new.keys():
            yield from differences(old[key], new[key], f"{where}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{where}/{index}")
    elif old != new:
        yield f"{where}: {old!r} -> {new!r}"


def content(answer: dict[str, Any]) -> Any:
    """The body as data, where it is JSON or Arrow."""
    body = answer["body"]
    if answer["type"].startswith("application/json"):
        return json.loads(body)
    if answer["type"].startswith("application/x-ndjson"):
        return [json.loads(line) for line in body.splitlines()]
    if answer["type"].startswith(ARROW):
        return pa.ipc.open_stream(base64.b64decode(body)).read_all().to_pylist()
    return body


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_service_answers_as_it_did(schema: str) -> None:
    old, new = json.loads(ANSWERS.read_text(encoding="utf-8"))[schema], answers(schema)
    assert list(new) == list(old)
    changed = [
        difference
        for name in old
        for difference in differences(
            {**old[name], "body": content(old[name])}, {**new[name], "body": content(new[name])}, name
        )
    ]
    assert not changed, "record them anew only if this is meant: python -m tests.test_unchanged"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_bundle_of_before_loads_and_saves_to_the_same_bytes(schema: str, tmp_path: Path) -> None:
    loaded = bundle.load(FOLDER / schema)
    bundle.save(tmp_path / "again", loaded.detector)
    for name in ("schema.yaml", "threshold.json", "detector.json", "arrays.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (FOLDER / schema / name).read_bytes(), name


def write() -> None:
    """Record the answers as they are now, and say which bytes changed."""
    old = json.loads(ANSWERS.read_text(encoding="utf-8")) if ANSWERS.exists() else {}
    new = {schema: answers(schema) for schema in SCHEMAS}
    for schema in SCHEMAS:
        for name, answer in new[schema].items():
            if old.get(schema, {}).get(name) != answer:
                sys.stdout.write(f"changed: {schema}: {name}\n")
    ANSWERS.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
