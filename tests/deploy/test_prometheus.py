"""Debian's Prometheus with our configuration scrapes the running stack; rules and dashboards ask for what it finds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import processes
from deploy.local import services
from deploy.local.demo import SEED_REQUEST
from deploy.local.services import CODE
from monitoring import exports
from serve_app.metrics.page import COUNTERS, GAUGES, HISTOGRAMS
from tests.deploy.live_stack import Live, eventually

HERE = CODE / "deploy" / "prometheus"
BOARDS = sorted((CODE / "deploy" / "grafana" / "dashboards").glob("*.json"))
NODE_EXPORTER = "prometheus-node-exporter"
needs_prometheus = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "promtool", NODE_EXPORTER))),
    reason=f"there is no prometheus or {NODE_EXPORTER}: apt-get install them",
)
# What jobs of the day export and this stack has not run: only fraud_volume_* is written for it.
LATER = {name for name in exports._HELP if name.startswith(("fraud_live", "fraud_drift"))}
_WORD = re.compile(r"\b(?:fraud|ray|haproxy|up)(?:_\w+)?\b(?=\s*(?:\{|\[|\)|$|[-+*/<>=]))")


@dataclass(frozen=True)
class Prometheus:
    """A running one. address: http://host:port."""

    address: str

    def api(self, path: str, **parameters: str) -> Any:
        """What its API answers at `path`."""
        code, text = services.ask(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout_s=20)
        return json.loads(text)["data"] if code == 200 else None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        return list((self.api("query", query=expression) or {"result": []})["result"])

    def names(self) -> set[str]:
        """Every metric that it has."""
        return set(self.api("label/__name__/values") or ())


def expressions() -> dict[str, str]:
    """{where it stands: expression} of every alert and every panel."""
    by_name = {}
    for group in yaml.safe_load((HERE / "alerts.yml").read_text())["groups"]:
        by_name |= {f"alert {rule['alert']}": rule["expr"] for rule in group["rules"]}
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for number, target in enumerate(panel.get("targets", ())):
                by_name[f"{path.name}: {panel['title']} {number}"] = target["expr"]
    return by_name


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression names."""
    without_labels = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    without_labels = re.sub(r"\{[^}]*\}", "{}", without_labels)
    return {word for word in _WORD.findall(without_labels) if word != "up"}


@needs_prometheus
def test_the_rules_are_sound_and_each_alert_fires_when_it_should_and_not_before():
    for command in (["check", "config", "--syntax-only", "prometheus.yml"], ["check", "rules", "alerts.yml"],
                    ["test", "rules", "alerts.test.yml"]):  # fmt: skip
        done = subprocess.run(["promtool", *command], cwd=HERE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_a_page_that_says_what_to_do():
    rules = [rule for group in yaml.safe_load((HERE / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    tried = (HERE / "alerts.test.yml").read_text()
    for rule in rules:
        assert f'alertname="{rule["alert"]}"' in tried
        assert rule["labels"]["severity"] in ("warning", "critical")
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (CODE / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, rule["alert"]


def test_our_metrics_in_alerts_and_dashboards_are_ones_that_we_export():
    ours = {f"{family.name}_total" for family in COUNTERS} | {family.name for family in GAUGES} | set(exports._HELP)
    ours |= {f"{family.name}_{part}" for family in HISTOGRAMS for part in ("bucket", "sum", "count")}
    for where, expression in expressions().items():
        named = metrics_in(expression)
        assert named or "up" in expression, where
        assert {name for name in named if name.startswith("fraud")} <= ours, where


def started(name: str, command: list[str], live: Live) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(live.state)}
    processes.start(name, command, state=live.state, environment=environment, ports={})


@pytest.fixture(scope="module")
def prometheus(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Started with our files; only the addresses, and how often it looks, are the test's."""
    folder = tmp_path_factory.mktemp("prometheus")
    own, node = processes.free_port(19090), processes.free_port(19100)
    config = yaml.safe_load((HERE / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    places = {"fraud": live.port, "haproxy": live.stack.services["ray"].ports["haproxy_metrics"], "monitoring": node}
    for job in config["scrape_configs"]:
        if job["job_name"] in places:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{places[job['job_name']]}"]}]
        for part in (job, *job.get("http_sd_configs", ())):
            if "authorization" in part:
                name = Path(part["authorization"]["credentials_file"]).name
                part["authorization"]["credentials_file"] = str(live.state / name)
        for discovery in job.get("http_sd_configs", ()):
            discovery["url"] = discovery["url"].replace("http://127.0.0.1:8265", live.stack.url("dashboard"))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(HERE / "alerts.yml", folder)
    report = {"date": "2026-01-31", "verdict": "ok", "model_version": "7", "rows": {"all": 9, "scored": 9, "flagged": 1,
             "quarantined": 0}}  # fmt: skip
    (folder / "volume.prom").write_text(exports.prometheus(exports.of_volume(report)))
    exporter = [NODE_EXPORTER, "--web.listen-address", f"127.0.0.1:{node}", "--collector.disable-defaults"]
    started("node-exporter", [*exporter, "--collector.textfile", "--collector.textfile.directory", str(folder)], live)
    command = [
        "prometheus",
        "--config.file",
        str(folder / "prometheus.yml"),
        "--web.listen-address",
        f"127.0.0.1:{own}",
    ]
    started("prometheus", [*command, "--storage.tsdb.path", str(folder / "data")], live)
    server = Prometheus(f"http://127.0.0.1:{own}")
    eventually(lambda: server.api("targets"))
    for _ in range(5):
        assert live.ask("/score", SEED_REQUEST)[0] == 200
    assert live.ask("/score", {})[0] == 422  # a counter of errors has no series before the first
    yield server


@needs_prometheus
@pytest.mark.ray
@pytest.mark.slow
def test_every_target_is_scraped_with_token_and_key(prometheus: Prometheus):
    def all_up() -> bool:
        targets = prometheus.api("targets")["activeTargets"]
        jobs = {target["labels"]["job"] for target in targets if target["health"] == "up"}
        return jobs == {"ray", "fraud", "haproxy", "monitoring"} and {t["health"] for t in targets} == {"up"}

    eventually(all_up)


@needs_prometheus
@pytest.mark.ray
@pytest.mark.slow
def test_queries_find_our_metrics_serves_and_rays(prometheus: Prometheus, live: Live):
    def value(expression: str) -> float:
        series = prometheus.query(expression)
        return float(series[0]["value"][1]) if series else 0.0

    eventually(lambda: value('sum(fraud_requests_total{path="/score", status="200"})') >= 5)
    eventually(lambda: value("sum(fraud_replicas)") == 2)
    eventually(lambda: value("fraud_volume_rows") == 9)
    eventually(lambda: value("sum(ray_node_cpu_count)") >= 1)
    eventually(lambda: value('sum(ray_serve_deployment_replica_healthy{deployment="Scorer"})') == 2)
    eventually(lambda: value('sum(haproxy_frontend_http_requests_total{proxy="http_frontend"})') >= 1)


@needs_prometheus
@pytest.mark.ray
@pytest.mark.slow
def test_every_metric_that_alerts_and_dashboards_name_is_there(prometheus: Prometheus):
    needed = set().union(*map(metrics_in, expressions().values())) - LATER
    with suppress(AssertionError):
        eventually(lambda: needed <= prometheus.names())
    assert not sorted(needed - prometheus.names())
    for where, expression in expressions().items():
        ready = expression.replace("$__rate_interval", "1m").replace("$__range", "1h")
        assert prometheus.api("query", query=ready) is not None, where


@needs_prometheus
@pytest.mark.ray
@pytest.mark.slow
def test_the_alerts_are_loaded_and_a_day_long_past_fires(prometheus: Prometheus):
    def states() -> dict[str, str]:
        groups = (prometheus.api("rules") or {"groups": []})["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    eventually(lambda: states().get("FraudMissingDay") in ("pending", "firing"))
    eventually(lambda: states()["FraudServingDown"] == states()["FraudReplicaDown"] == "inactive")
