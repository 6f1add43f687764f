"""Kill one of two serving nodes while a client sends requests."""

from __future__ import annotations

import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import yaml

from deploy.drills.cluster import wait_until
from deploy.drills.hosts import CODE, DrillError
from deploy.drills.node_jobs import save_bundle
from deploy.drills.ray_nodes import Nodes

APPLICATIONS = "/api/serve/applications/"
TRANSACTION = {"amount": 42.5, "hour": 13, "distance": 3.2, "device_score": 0.8, "country_mismatch": 0}
PAUSE_S, TIMEOUT_S = 0.02, 5.0
BEFORE_S = 3.0  # of requests between two steps of a drill


@dataclass
class Client:
    """A client that sends one request after the other and records (time, status); status 0 is no answer.

    port: port of the ingress on this machine.
    """

    nodes: Nodes
    port: int
    answers: list[tuple[float, int]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Client:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(PAUSE_S):
            self.answers.append((time.monotonic(), scored(self.nodes, self.port)))

    def summary(self, since: float) -> dict[str, Any]:
        """Requests since `since`, how many did not get a 200, and the longest gap between two 200."""
        asked = [(at, status) for at, status in self.answers if at >= since]
        good = [since, *(at for at, status in asked if status == 200)]
        gaps = [later - sooner for sooner, later in itertools.pairwise(good)]
        return {
            "requests": len(asked),
            "failed": sum(status != 200 for _, status in asked),
            "statuses": sorted({status for _, status in asked}),
            "longest_gap_s": round(max(gaps, default=0.0), 2),
        }


def scored(nodes: Nodes, port: int) -> int:
    """Send one /score request to an ingress; returns the status, or 0 without an answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/score",
        data=json.dumps(TRANSACTION).encode(),
        headers={"Content-Type": "application/json", "X-API-Key": nodes.key},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def deploy(nodes: Nodes) -> None:
    """Deploy serve_app/config.yaml with a replica on each node, by the dashboard's API."""
    config = yaml.safe_load((CODE / "serve_app" / "config.yaml").read_text(encoding="utf-8"))
    (application,) = config["applications"]
    application["args"] = {"bundle": "/srv/fraud/bundle"}
    (scorer,) = application["deployments"]
    scorer |= {"num_replicas": 2, "max_replicas_per_node": 1}
    status, text = nodes.ask(APPLICATIONS, config, "PUT")
    if status != 200:
        raise DrillError(f"Serve refused the application with {status}: {text[:2000]}")


def replicas(nodes: Nodes) -> list[str]:
    """Addresses of the nodes with a running replica; empty if the head does not answer."""
    status, text = nodes.ask(APPLICATIONS)
    if status != 200:
        return []
    application = json.loads(text)["applications"].get("fraud", {})
    entries = application.get("deployments", {}).get("Scorer", {}).get("replicas", [])
    return sorted(entry["node_ip"] for entry in entries if entry["state"] == "RUNNING")


def _answer(nodes: Nodes) -> bool:
    return all(scored(nodes, port) == 200 for port in nodes.serve_ports)


def deploy_on_both(nodes: Nodes) -> list[str]:
    """Deploy a replica on each node and wait until both ingresses answer. Returns the addresses. Raises DrillError."""
    nodes.restart_worker()
    save_bundle(nodes.folder / "bundle")
    deploy(nodes)
    both = sorted(host.address for host in nodes.hosts.hosts)
    wait_until(lambda: replicas(nodes) == both and _answer(nodes), "replicas on both nodes")
    return both


def undisturbed(client: Client) -> dict[str, Any]:
    """The client's summary while nothing is killed."""
    began = time.monotonic()
    time.sleep(BEFORE_S)
    return client.summary(began)


def serve(nodes: Nodes) -> dict[str, Any]:
    """Kill and restart the worker node with a replica on each node. Raises DrillError."""
    both = deploy_on_both(nodes)
    with Client(nodes, nodes.serve_ports[0]) as client:
        result: dict[str, Any] = {"undisturbed": undisturbed(client)}
        began = time.monotonic()
        nodes.kill(nodes.worker)
        wait_until(lambda: replicas(nodes) == [nodes.head.address], "end of the dead replica")
        result["noticed_s"] = round(time.monotonic() - began, 1)
        nodes.wait_for(1)
        result["node_dead_s"] = round(time.monotonic() - began, 1)
        time.sleep(BEFORE_S)
        result["killed"] = client.summary(began)
        began = time.monotonic()
        nodes.restart_worker()
        wait_until(lambda: replicas(nodes) == both, "replicas on both nodes again")
        result["back_s"] = round(time.monotonic() - began, 1)
        time.sleep(BEFORE_S)
        result["mended"] = client.summary(began)
    if result["undisturbed"]["failed"]:
        raise DrillError(f"requests failed before anything was killed: {result}")
    return result
