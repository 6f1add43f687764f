"""Kill the head while a client uses the other node, and restart it with its state from Redis."""

from __future__ import annotations

import json
import time
from typing import Any

from deploy.drills.cluster import host_processes, wait_until
from deploy.drills.hosts import DrillError, Host
from deploy.drills.node_serving import BEFORE_S, Client, deploy_on_both, replicas, undisturbed
from deploy.drills.ray_nodes import Nodes

AWAY_S = 15.0  # how long there is no head; deploy/node.sh lets workers wait longer than Ray's 60 s
JOBS = "/api/jobs/"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def submit(nodes: Nodes, entrypoint: str) -> str:
    """Submit a job by the Jobs API; returns its id. Raises DrillError."""
    status, text = nodes.ask(JOBS, {"entrypoint": entrypoint})
    if status != 200:
        raise DrillError(f"the job was refused with {status}: {text[:2000]}")
    return str(json.loads(text)["submission_id"])


def job_status(nodes: Nodes, job: str) -> str:
    """A job's status by the Jobs API; empty if the head does not answer or does not know the job."""
    status, text = nodes.ask(f"{JOBS}{job}")
    return str(json.loads(text)["status"]) if status == 200 else ""


def _scorers(host: Host) -> set[int]:
    return {process.pid for process in host_processes(host) if "ServeReplica" in " ".join(process.cmdline()[:1])}


def head(nodes: Nodes) -> dict[str, Any]:
    """Kill and restart the head; the worker node stays. Raises DrillError."""
    both = deploy_on_both(nodes)
    job = submit(nodes, "python -c 'import time; time.sleep(600)'")
    wait_until(lambda: job_status(nodes, job) == "RUNNING", "a job on the head")
    before = _scorers(nodes.worker)
    with Client(nodes, nodes.serve_ports[1]) as client:
        result: dict[str, Any] = {"undisturbed": undisturbed(client)}
        began = time.monotonic()
        nodes.kill(nodes.head)
        time.sleep(AWAY_S)
        result["without_head"] = client.summary(began)
        began = time.monotonic()
        nodes.start(nodes.head)
        wait_until(lambda: nodes.alive() == set(both), "both nodes known to the new head")
        result["nodes_back_s"] = round(time.monotonic() - began, 1)
        wait_until(lambda: replicas(nodes) == both, "replicas on both nodes again")
        result["serving_back_s"] = round(time.monotonic() - began, 1)
        time.sleep(BEFORE_S)
        result["with_new_head"] = client.summary(began)
    result["same_replica"] = bool(before) and before == _scorers(nodes.worker)
    result["lost_job"] = job_status(nodes, job)
    after = submit(nodes, "python -c 'import ray; ray.init(); print(ray.cluster_resources())'")
    wait_until(lambda: job_status(nodes, after) in ENDED, "a job after the restart")
    result["job_after"] = job_status(nodes, after)
    wait_until(lambda: job_status(nodes, job) in ENDED, "the end of the job whose driver died")
    result["lost_job_after_another"] = job_status(nodes, job)
    if result["undisturbed"]["failed"]:
        raise DrillError(f"requests failed before anything was killed: {result}")
    return result
