"""API keys: where their hashes come from, which keys they let in, and that production does not start without one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.settings import Settings
from serve_app.app import create_app
from serve_app.auth import ApiKeys, main, new_key
from serve_app.state import ServedModel, State


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys(environment: dict[str, str]) -> ApiKeys:
    return ApiKeys.from_environment(Settings.from_environment(environment), environment)


def test_production_refuses_to_start_without_a_key():
    with pytest.raises(
        ConfigError, match=r"no API key: set FRAUD_API_KEY_HASHES or FRAUD_API_KEY_FILE .* FRAUD_MODE=dev"
    ):
        keys({})
    assert not keys({"FRAUD_MODE": "dev"}).is_required
    assert keys({"FRAUD_MODE": "dev"}).accepts(None)


def test_several_keys_from_both_places_are_valid_at_once(tmp_path: Path):
    file = tmp_path / "keys.txt"
    file.write_text(f"# rotated in May\n{hash_of('third')}  gateway\n\n{hash_of('fourth').upper()}\n")
    environment = {
        "FRAUD_API_KEY_HASHES": f"{hash_of('first')}, {hash_of('second')},",
        "FRAUD_API_KEY_FILE": "keys.txt",
        "FRAUD_ROOT": str(tmp_path),
    }
    found = keys(environment)
    for key in ("first", "second", "third", "fourth"):
        assert found.accepts(key.encode())
    for key in (b"fifth", b"", b"First", hash_of("first").encode(), None):
        assert not found.accepts(key)
    assert not keys({"FRAUD_MODE": "dev", **environment}).accepts(None)


@pytest.mark.parametrize("text", ["secret", "0" * 63, "g" * 64])
def test_a_malformed_hash_is_refused_without_repeating_it(text: str):
    with pytest.raises(ConfigError, match="not a SHA-256 hash") as caught:
        keys({"FRAUD_API_KEY_HASHES": text})
    assert text not in str(caught.value)


def test_a_bad_line_of_the_file_is_named(tmp_path: Path):
    file = tmp_path / "keys.txt"
    file.write_text(f"{hash_of('a')}\nplain-key\n")
    with pytest.raises(ConfigError, match="line 2"):
        keys({"FRAUD_API_KEY_FILE": str(file)})
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        keys({"FRAUD_API_KEY_FILE": str(tmp_path / "none.txt")})
    file.write_text("# nobody yet\n")
    with pytest.raises(ConfigError, match="no API key"):
        keys({"FRAUD_API_KEY_FILE": str(file)})


def test_new_keys_differ_and_match_their_hash(capsys: pytest.CaptureFixture[str]):
    first, second = new_key(), new_key()
    assert first != second and len(first[0]) >= 43
    assert main([]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed["hash"] == hash_of(printed["key"])


@pytest.fixture(scope="module")
def guarded(models: dict[str, ServedModel]) -> TestClient:
    digests = tuple(bytes.fromhex(hash_of(key)) for key in ("old", "new"))
    return TestClient(create_app(State(models["transactions"]), ApiKeys(digests)))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_open(guarded: TestClient, path: str):
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}, {"Authorization": "Bearer old"}])
@pytest.mark.parametrize(
    "path", ["/model", "/docs", "/openapi.json", "/nothing", "/healthz/../model", "//healthz", "/healthz/"]
)
def test_everything_else_answers_401(guarded: TestClient, path: str, headers: dict[str, str]):
    reply = guarded.get(path, headers=headers)
    assert reply.status_code == 401
    (problem,) = reply.json()["detail"]
    assert problem["field"] == "X-API-Key" and "send your key" in problem["remedy"]
    assert "www-authenticate" in reply.headers


def test_scoring_needs_a_key(guarded: TestClient, requests: dict[str, Mapping[str, object]]):
    assert guarded.post("/score", json=dict(requests["transactions"])).status_code == 401
    for key in ("old", "new"):
        assert (
            guarded.post("/score", json=dict(requests["transactions"]), headers={"X-API-Key": key}).status_code == 200
        )
    twice = [("X-API-Key", "wrong"), ("X-API-Key", "old")]
    assert guarded.get("/model", headers=twice).status_code == 401


def test_openapi_tells_of_the_key(guarded: TestClient):
    document = guarded.get("/openapi.json", headers={"X-API-Key": "new"}).json()
    assert document["components"]["securitySchemes"]["ApiKey"]["name"] == "X-API-Key"
    assert document["security"] == [{"ApiKey": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
