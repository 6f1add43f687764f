"""API keys: where their hashes come from, which keys they let in, and that production does not start without one."""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.settings import Settings
from serve_app.app import create_app
from serve_app.auth import ApiKey, ApiKeys, main, new_key
from serve_app.model.state import ServedModel, State


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
    accepted = keys(environment)
    for key in ("first", "second", "third", "fourth"):
        assert accepted.accepts(key.encode())
    for key in (b"fifth", b"", b"First", hash_of("first").encode(), None):
        assert not accepted.accepts(key)
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


def test_a_key_has_its_owners_name_and_may_have_its_own_rate(tmp_path: Path):
    file = tmp_path / "keys.txt"
    lines = ("a  payment gateway rate=50 burst=80", "b rate=0", "c")
    file.write_text("".join(f"{hash_of(line[0])}{line[1:]}\n" for line in lines))
    accepted = keys({"FRAUD_API_KEY_FILE": str(file), "FRAUD_API_KEY_HASHES": f"{hash_of('d')} till rate=2"})
    named = {key: accepted.find(key.encode()) for key in "abcd"}
    assert named["a"] == ApiKey(bytes.fromhex(hash_of("a")), "payment gateway", 50, 80)
    assert named["b"] == ApiKey(bytes.fromhex(hash_of("b")), hash_of("b")[:8], 0)
    assert named["c"] == ApiKey(bytes.fromhex(hash_of("c")), hash_of("c")[:8], None)
    assert named["d"] == ApiKey(bytes.fromhex(hash_of("d")), "till", 2)
    assert accepted.find(b"e") is None and accepted.find(None) is None


@pytest.mark.parametrize("setting", ["rate=fast", "rate=-1", "burst=nan", "rate=1e9", "rat=5"])
def test_a_wrong_setting_of_a_key_is_named(tmp_path: Path, setting: str):
    file = tmp_path / "keys.txt"
    file.write_text(f"{hash_of('a')} gateway {setting}\n")
    with pytest.raises(ConfigError, match=f"line 1: .*{setting.split('=')[0]}"):
        keys({"FRAUD_API_KEY_FILE": str(file)})


def replace_file(file: Path, *lines: str) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text("".join(f"{line}\n" for line in lines))
    draft.replace(file)


def test_keys_are_rotated_without_a_restart(tmp_path: Path):
    file = tmp_path / "keys.txt"
    replace_file(file, f"{hash_of('old')} gateway")
    accepted = keys({"FRAUD_API_KEY_FILE": str(file), "FRAUD_API_KEY_HASHES": hash_of("fixed")})
    replace_file(file, f"{hash_of('old')} gateway", f"{hash_of('new')} gateway")
    accepted.refresh()
    assert [accepted.accepts(key) for key in (b"old", b"new", b"fixed")] == [True, True, True]
    replace_file(file, f"{hash_of('new')} gateway")
    accepted.refresh()
    assert [accepted.accepts(key) for key in (b"old", b"new", b"fixed")] == [False, True, True]


@pytest.mark.parametrize("broken", ["plain-key", "", "# all gone", None])
def test_a_file_that_breaks_keeps_the_old_keys_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str | None
):
    file = tmp_path / "keys.txt"
    replace_file(file, hash_of("old"))
    accepted = keys({"FRAUD_API_KEY_FILE": str(file), "FRAUD_MODE": "dev"})
    file.unlink() if broken is None else replace_file(file, broken)
    for _ in range(3):
        accepted.refresh()
        assert accepted.is_required and accepted.accepts(b"old") and not accepted.accepts(b"else")
    assert caplog.text.count("stay as they were") == 1
    assert "plain-key" not in caplog.text
    replace_file(file, hash_of("new"))
    accepted.refresh()
    assert accepted.accepts(b"new") and not accepted.accepts(b"old")


def test_the_file_is_watched_from_the_first_request_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve_app.auth.CHECK_SECONDS", 0.01)
    file = tmp_path / "keys.txt"
    replace_file(file, hash_of("old"))
    accepted = keys({"FRAUD_API_KEY_FILE": str(file)})
    assert accepted.accepts(b"old")
    replace_file(file, hash_of("new"))
    waits = 0
    while not accepted.accepts(b"new") and waits < 500:
        time.sleep(0.02)
        waits += 1
    assert accepted.accepts(b"new") and not accepted.accepts(b"old")
    gone = weakref.ref(accepted)
    del accepted
    while gone() is not None and waits < 1000:  # the thread does not keep them
        time.sleep(0.02)
        waits += 1
    assert gone() is None


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
    "path", ["/model", "/v1/model", "/openapi.json", "/nothing", "/healthz/../model", "//healthz", "/healthz/"]
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
