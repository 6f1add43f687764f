"""Ray's own HAProxy configuration, as Serve renders it, after our edits; and each edit against a changed template."""

from __future__ import annotations

import asyncio
import re

import pytest

from cluster import haproxy_template
from cluster.listeners import Listener
from fraud.errors import LibraryChangedError

METRICS, STATS, ENTRANCE = 19101, 18404, 18000


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the installed Ray writes for one application with two replicas."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    path = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=ENTRANCE),
        metrics_port=METRICS,
        stats_port=STATS,
        metrics_enabled=False,
        socket_path=str(path.with_name("admin.sock")),
    )
    servers = [ServerConfig(name=f"replica{i}", host="127.0.0.1", port=30000 + i) for i in range(2)]
    backend = BackendConfig(name="fraud", path_prefix="/", app_name="fraud", servers=servers)
    api = HAProxyApi(cfg=config, config_file_path=str(path), backend_configs={"fraud": backend})
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
