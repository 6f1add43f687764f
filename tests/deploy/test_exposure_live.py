"""What runs is closed: who has neither token nor key gets nothing, other machines reach nothing, no secret shows."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from deploy import processes
from deploy.local import services
from deploy.local.demo import SEED_REQUEST
from deploy.local.services import BIN
from tests.deploy.live_stack import KEY, SECRETS, Live, eventually

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PRIVATE = "4929-private-amount"
# Method and service of each of Ray's gRPC servers that would let a stranger read or run something.
RAY_CALLS = {
    "gcs": ["ray.rpc.InternalKVGcsService/InternalKVGet", "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
            "ray.rpc.ActorInfoGcsService/RegisterActor", "ray.rpc.JobInfoGcsService/AddJob"],
    "client": ["ray.rpc.RayletDriver/ClusterInfo", "ray.rpc.RayletDriver/Schedule", "ray.rpc.RayletDriver/PutObject"],
}  # fmt: skip
ANY_GRPC = ["ray.rpc.NodeManagerService/GetNodeStats", "ray.rpc.CoreWorkerService/PushTask",
            "ray.rpc.ObjectManagerService/Push", "ray.rpc.ReporterService/GetTraceback"]  # fmt: skip


def listeners(live: Live) -> list[tuple[str, str, int]]:
    """(program, address, port) of every TCP socket that a process of ours listens on."""
    result = []
    for process in processes.find(live.state):
        try:
            sockets = process.net_connections(kind="tcp")
            name = process.name()
        except psutil.NoSuchProcess:  # HAProxy is replaced at a reload
            continue
        result += [(name, c.laddr.ip, c.laddr.port) for c in sockets if c.status == psutil.CONN_LISTEN]
    return result


def test_no_socket_listens_on_an_address_that_others_reach(live: Live):
    # HAProxy is replaced by another while Serve tells it new routes.
    eventually(lambda: {name[:14] for name, _, _ in listeners(live)} >= {"haproxy", "gcs_server"})
    sockets = listeners(live)
    assert {ip.removeprefix("::ffff:") for _, ip, _ in sockets} == {"127.0.0.1"}, sockets
    assert {live.port, live.stack.port("dashboard"), live.stack.port("mlflow")} <= {port for _, _, port in sockets}


def test_what_kubernetes_probes_answers_without_token_and_says_nothing_more(live: Live):
    status, text = services.ask(f"http://127.0.0.1:{live.stack.port('agent')}/api/healthz")
    assert (status, text.split()) == (200, ["raylet:", "success", "gcs:", "success"])
    assert services.ask(f"http://127.0.0.1:{live.port}/-/healthz") == (200, "success")


@pytest.mark.skipif(shutil.which("ss") is None, reason="there is no ss (Debian: iproute2)")
def test_ss_shows_our_listeners_on_loopback_only(live: Live):
    pids = {str(process.pid) for process in processes.find(live.state)}
    shown = subprocess.run(["ss", "-H", "-ltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line.split()[3] for line in shown if pids & set(re.findall(r"pid=(\d+)", line))]
    assert len(ours) > 10
    assert {address.rpartition(":")[0] for address in ours} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}, ours


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/jobs/", {"entrypoint": "touch owned"}),
        ("GET", "/api/jobs/", None),
        ("GET", "/api/cluster_status", None),
        ("GET", "/api/v0/actors", None),
        ("GET", "/nodes?view=summary", None),
        ("GET", "/logs", None),
        ("GET", "/metrics", None),
        ("GET", "/api/prometheus/sd", None),
        ("GET", "/api/packages/gcs/package.zip", None),
        ("GET", "/api/serve/applications/", None),
        ("PUT", "/api/serve/applications/", {"applications": []}),
        ("DELETE", "/api/serve/applications/", None),
    ],
)
def test_the_dashboard_refuses_who_has_no_token_or_a_wrong_one(live: Live, method: str, path: str, body: Any):
    url, text = live.stack.url("dashboard") + path, None if body is None else json.dumps(body)
    assert services.ask(url, method=method, body=text)[0] == 401
    wrong = {"Authorization": f"Bearer {'0' * 64}"}
    assert services.ask(url, method=method, body=text, headers=wrong)[0] in (401, 403)
    assert live.ask("/score", SEED_REQUEST)[0] == 200  # nothing was taken away


def test_the_nodes_agent_refuses_to_start_a_job(live: Live):
    url = f"{live.stack.url('agent')}/api/job_agent/jobs/"
    assert services.ask(url, body=json.dumps({"entrypoint": "touch owned"}))[0] == 401


def test_rays_commands_are_refused_without_a_token(live: Live, tmp_path: Path):
    bare = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    owned = tmp_path / "owned"
    command = ["job", "submit", "--address", live.stack.url("dashboard"), "--", "touch", str(owned)]
    refused = subprocess.run([str(BIN / "ray"), *command], env=bare, capture_output=True, text=True, timeout=120)
    assert refused.returncode != 0 and "uthenticat" in refused.stdout + refused.stderr
    assert not owned.exists()


def refusal(port: int, method: str) -> str:
    """What a gRPC server says to a call without a token; "" where it answers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(f"/{method}")(b"", timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
    return ""


def test_rays_own_protocol_refuses_calls_without_a_token(live: Live):
    for purpose, methods in RAY_CALLS.items():
        for method in methods:
            assert refusal(live.stack.port(purpose), method) == "UNAUTHENTICATED", method
    # Raylets, workers and their object stores listen on ports that nobody chose.
    answered = set()
    for name, _, port in listeners(live):
        if name.startswith(("raylet", "ray::")):
            refusals = {method: refusal(port, method) for method in ANY_GRPC}
            assert "" not in refusals.values(), (name, port, refusals)
            answered |= {method for method, code in refusals.items() if code == "UNAUTHENTICATED"}
    assert "ray.rpc.NodeManagerService/GetNodeStats" in answered


def test_score_refuses_who_has_no_key(live: Live):
    for path, body in (("/score", SEED_REQUEST), ("/score/batch", [SEED_REQUEST]), ("/explain", SEED_REQUEST),
                       ("/model", None), ("/metrics", None), ("/openapi.json", None)):  # fmt: skip
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": f"Bearer {'0' * 64}"}):
            assert live.ask(path, body, headers)[0] == 401, (path, headers)
    assert live.ask("/-/routes")[0] == 401


def test_mlflow_refuses_a_page_of_another_site(live: Live):
    """A browser on this machine reaches loopback; a foreign page must not, by name or by request."""
    url = f"{live.stack.url('mlflow')}/api/2.0/mlflow/experiments/search"
    query = json.dumps({"max_results": 1})
    assert services.ask(url, body=query)[0] == 200
    assert services.ask(url, body=query, headers={"Host": "evil.example"})[0] == 403
    assert services.ask(url, body=query, headers={"Origin": "https://evil.example"})[0] == 403


def test_files_that_hold_secrets_are_ours_alone(live: Live):
    for path in (live.stack.token_path, live.stack.metrics_key_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (live.state, services.session_folder(live.state)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_no_secret_and_no_transaction_shows_in_arguments_or_logs(live: Live):
    token = live.stack.token_path.read_text()
    assert live.ask("/score", {**SEED_REQUEST, "amount": PRIVATE})[0] == 422
    assert live.ask("/score", {**SEED_REQUEST, "amount": 7391.1537})[0] == 200
    assert live.ask("/score", "{" + PRIVATE)[0] == 422
    assert live.ask(f"/score/{PRIVATE}", SEED_REQUEST)[0] in (404, 405)
    assert live.ask("/score", SEED_REQUEST, {"X-API-Key": PRIVATE})[0] == 401
    services.ask(live.stack.url("dashboard") + "/api/jobs/", headers={"Authorization": f"Bearer {PRIVATE}"})
    hidden = {"the token": token, "the API key": KEY, "a transaction": PRIVATE, "an amount": "7391.15", **SECRETS}

    arguments = []
    for process in processes.find(live.state):
        try:
            arguments.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    folders = [live.state / "log", services.session_folder(live.state)]
    logs = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("replica" in path.name for path in logs) and len(arguments) > 5
    for name, secret in hidden.items():
        assert not [line[:200] for line in arguments if secret in line], name
        assert not [path for path in logs if secret.encode() in path.read_bytes()], name
