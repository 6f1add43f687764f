"""Loopback needs nothing; another address needs Ray's token and API keys; a token that others read is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import exposure
from fraud.errors import ConfigError

PUBLIC = ["0.0.0.0", "::", "[::]", "192.0.2.7", "2001:db8::1", "score.example", ""]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_on_loopback_nothing_is_asked_for(host: str):
    assert exposure.is_loopback(host)
    assert exposure.check(host, has_token=False, has_keys=False, what="Serve") == ""


@pytest.mark.parametrize("host", PUBLIC)
def test_elsewhere_token_and_keys_are_both_needed_and_the_remedy_is_named(host: str):
    assert not exposure.is_loopback(host)
    with pytest.raises(ConfigError, match=r"RAY_AUTH_MODE=token.*FRAUD_API_KEY_FILE"):
        exposure.check(host, has_token=False, has_keys=False, what="Serve")
    with pytest.raises(ConfigError, match="no API key"):
        exposure.check(host, has_token=True, has_keys=False, what="Serve")
    with pytest.raises(ConfigError, match="no token"):
        exposure.check(host, has_token=False, has_keys=True, what="Serve")
    warning = exposure.check(host, has_token=True, has_keys=True, what="Serve")
    assert "a public address" in warning and "TLS" in warning


def test_ray_asks_for_a_token_only_in_token_mode():
    assert exposure.requires_token({"RAY_AUTH_MODE": "token"})
    for mode in ({}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x"}):
        assert not exposure.requires_token(mode)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_token_that_others_may_read_or_change_is_refused_with_the_remedy(tmp_path: Path, mode: int):
    path = tmp_path / "ray_token"
    path.write_text("0123456789abcdef")
    path.chmod(0o600)
    assert exposure.read_token(path) == "0123456789abcdef"
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*make down.*remove the file") as refused:
        exposure.read_token(path)
    assert "0123456789abcdef" not in str(refused.value)


def test_a_token_that_is_missing_cut_off_or_anothers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "ray_token"
    with pytest.raises(ConfigError, match="cannot be read"):
        exposure.read_token(path)
    path.write_text("0123")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="shorter than 16"):
        exposure.read_token(path)
    path.write_text("0123456789abcdef")
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(ConfigError, match="another user"):
        exposure.read_token(path)
