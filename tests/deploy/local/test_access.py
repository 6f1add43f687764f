"""The local stack does not start where others would reach it without token and keys, or know its token."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deploy import processes
from deploy.local import access, services
from deploy.local.command import main
from deploy.local.services import Stack
from fraud.errors import ConfigError
from fraud.settings import Settings


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", "state")
    return tmp_path / "state"


def test_a_public_address_without_keys_is_refused_before_anything_starts(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_HOST", "0.0.0.0")
    with pytest.raises(ConfigError, match=r"listen on 0.0.0.0.*no API key.*FRAUD_API_KEY_FILE"):
        main(["up"])
    assert processes.find(state) == [] and not (state / "log").exists()


def test_with_keys_it_is_a_warning(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_HOST", "192.0.2.7")
    monkeypatch.setenv("FRAUD_API_KEY_HASHES", "0" * 64)
    stack = Stack(Settings.from_environment())
    assert "a public address" in access.check(stack.environment())
    assert access.local_address() == "192.0.2.7"
    monkeypatch.setenv("FRAUD_HOST", "0.0.0.0")
    assert access.local_address() == "127.0.0.1"
    monkeypatch.delenv("FRAUD_HOST")
    assert access.check(stack.environment()) == ""


def test_the_first_start_makes_a_token_that_only_we_can_read_and_a_leaked_one_is_refused(state: Path):
    state.mkdir()
    path = state / "ray_token"
    access.make_token(path)
    token = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(token) == 64
    access.make_token(path)
    assert path.read_text() == token
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"mode 0644.*new token"):
        main(["up"])
    assert processes.find(state) == []


def test_rays_session_lies_in_a_folder_that_is_closed_to_others(tmp_path: Path):
    folder = tmp_path / "session"
    folder.mkdir(mode=0o777)
    (folder / "left.txt").touch()
    assert access.make_private_folder(folder) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not list(folder.iterdir())


def test_a_strangers_folder_in_its_place_is_refused(tmp_path: Path):
    """Say a link, as another user of the machine might lay one: neither followed nor written to."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "session").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="cannot be removed"):
        access.make_private_folder(tmp_path / "session")


def test_the_state_folder_is_ours_alone(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_HOST", "0.0.0.0")  # so that it ends before anything starts
    with pytest.raises(ConfigError):
        services.up(Settings.from_environment(), lambda line: None)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
