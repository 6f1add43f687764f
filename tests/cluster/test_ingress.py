"""The variables that put HAProxy in front of Serve's replicas, and the wrapper that keeps its pages on loopback."""

from __future__ import annotations

import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ingress
from fraud.errors import ConfigError

CONFIG = """global
    stats socket /tmp/admin.sock mode 666 level admin expose-fd listeners
    server-state-base /tmp
    server-state-file server-state
    log 127.0.0.1:514 local0 info
    log 127.0.0.1:1514 local0 info
    maxconn 10
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    errorfile 502 /tmp/500.http
    errorfile 503 /tmp/500.http
    errorfile 504 /tmp/500.http
    load-server-state-from-file none
frontend prometheus
    bind :19101
    http-request return status 200
frontend http_frontend
    bind *:18000
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "{\\"/\\":\\"fraud\\"}" if routes
    http-request return status 200
backend default_backend
    http-request return status 404 content-type text/plain lf-string "no route"
listen stats
  bind *:18404
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="h ") as made:
        yield Path(made) / "a b"


@pytest.fixture
def variables(folder: Path) -> dict[str, str]:
    return ingress.environment(folder, metrics_port=19101, stats_port=18404)


def test_the_wrapper_is_haproxy_with_its_pages_on_loopback(variables: dict[str, str]):
    config = Path(variables["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).with_name("of this node.cfg")
    config.write_text(CONFIG)
    done = subprocess.run(
        [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    returned = [line.strip() for line in config.read_text().splitlines() if "return" in line]
    assert returned[1] == "http-request return status 401 if routes" and returned[0] == returned[2]
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    logs = [line.strip() for line in config.read_text().splitlines() if "log" in line]
    assert logs == ["log 127.0.0.1:1514 local0 info"], "a target of the operator's own stays, Ray's default goes"
    assert binds == ["bind 127.0.0.1:19101", "bind *:18000", "bind 127.0.0.1:18404"], "what serves is Serve's choice"


def test_the_wrapper_lets_a_second_haproxy_listen_and_changes_no_other_argument(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    telling = tmp_path / "haproxy"
    telling.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    telling.chmod(0o700)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(telling))
    variables = ingress.environment(folder, metrics_port=19101, stats_port=18404)
    config = Path(variables["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    config.write_text(CONFIG)
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config), "-dR", "-sf", "12", "-x", "a b"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-c", "-f", str(config), "-sf", "12", "-x", "a b"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("bind *:18404", "bind 0.0.0.0:18404", "with the port of 'listen stats' 0 times instead of 1"),
        ("    mode http\n", "    mode http\n    bind :7000\n", "with a port 4 times instead of 3"),
    ],
)
def test_the_wrapper_starts_no_haproxy_where_ray_changed_its_template(
    variables: dict[str, str], old: str, new: str, reason: str
):
    config = Path(variables["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    config.write_text(CONFIG.replace(old, new))
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-dR"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"ray 2.60.0 writes a HAProxy configuration {reason}; this code was written for ray 2.60.0" in done.stderr
    assert not config.with_name("standby.cfg").exists()


def test_its_folder_is_closed_to_others(variables: dict[str, str], folder: Path):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [value for name, value in variables.items() if name.endswith(("_PATH", "_LOC", "_FILE"))]
    assert len(files) == 4 and {Path(value).parent for value in files} == {folder}


def test_without_haproxy_the_plain_proxy_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "nothing"))
    assert ingress.environment(tmp_path / "haproxy") == {}
    assert "no HAProxy" in caplog.text and not (tmp_path / "haproxy").exists()


def test_a_folder_whose_sockets_would_be_too_deep_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="too long for HAProxy's sockets"):
        ingress.environment(tmp_path / ("x" * 40))


def test_the_command_prints_what_a_shell_takes(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert ingress.main(["--folder", str(folder), "--stats-port", "18404"]) == 0
    script = capsys.readouterr().out + 'echo "$RAY_SERVE_HAPROXY_STATS_PORT"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == "18404\n"
