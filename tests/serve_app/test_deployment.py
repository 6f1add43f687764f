"""The real thing: two Serve replicas answer over HTTP; a deployment that cannot work says why."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pydantic import ValidationError

from fraud.errors import BundleError, ConfigError
from fraud.scoring import bundle
from serve_app.deployment import Options, Scorer, app
from serve_app.model.state import ServedModel

pytestmark = [pytest.mark.ray, pytest.mark.slow]
APPLICATION = "fraud-test"
CONFIG = Path(__file__).resolve().parents[2] / "serve_app" / "config.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(ray_session: None) -> Iterator[str]:
    """Where Serve listens."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(autouse=True)
def dev_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_MODE", "dev")


def fetch(url: str, body: object = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of a GET, or of a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_two_replicas_answer_the_seed_request(
    address: str, bundles: dict[str, Path], models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]]
):
    import ray.util
    from ray import serve

    serve.run(app({"bundle": str(bundles["transactions"])}), name=APPLICATION, route_prefix="/")
    status = serve.status().applications[APPLICATION]
    assert status.status == "RUNNING"
    assert status.deployments["Scorer"].replica_states == {"RUNNING": 2}

    request = dict(requests["transactions"])
    expected = models["transactions"].answer(models["transactions"].reader.parse(json.dumps(request).encode()))
    for _ in range(6):
        code, answer = fetch(f"{address}/score", request)
        assert code == 200
        assert answer == {**expected, "model_version": f"bundle-{models['transactions'].sha256[:12]}"}
    assert fetch(f"{address}/v1/score", request) == (code, answer)
    assert fetch(f"{address}/v1/openapi.json")[1]["servers"] == [{"url": "/v1"}, {"url": "/"}]
    with urllib.request.urlopen(urllib.request.Request(f"{address}/v1/readyz", method="HEAD"), timeout=30) as reply:
        assert (reply.status, reply.read()) == (200, b"")
    assert fetch(f"{address}/healthz") == (200, {"status": "ok"})
    assert fetch(f"{address}/readyz") == (200, {"status": "ready"})
    assert fetch(f"{address}/model")[1]["bundle_sha256"] == bundle.load(bundles["transactions"]).sha256
    code, refusal = fetch(f"{address}/score", {**request, "hour": 24})
    assert (code, refusal["detail"][0]["field"]) == (422, "hour")
    assert fetch(f"{address}/openapi.json")[1]["info"]["title"] == "Fraud score"

    replicas = [p for p in psutil.process_iter(["cmdline"]) if f"ServeReplica:{APPLICATION}" in str(p.info["cmdline"])]
    assert len(replicas) == 2
    for (
        process
    ) in replicas:  # what Ray itself opens is Ray's; the server that unpickles requests is on the node's address
        heard = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert ray.util.get_node_ip_address() in {ip.removeprefix("::ffff:") for ip in heard}


def kept_connection(address: str) -> Callable[[str, object], tuple[int, Any]]:
    """As `fetch` of a POST, over one connection that is kept."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)

    def post(path: str, body: object) -> tuple[int, Any]:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())

    return post


def test_two_replicas_answer_from_one_history_which_outlives_a_redeploy(
    address: str, bundles: dict[str, Path], requests: dict[str, Mapping[str, object]], tmp_path: Path
):
    from ray import serve

    settings = {"FRAUD_MODE": "dev", "FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": str(tmp_path)}
    scorer = Scorer.options(num_replicas=2).bind({**settings, "FRAUD_BUNDLE": str(bundles["handbook"])})
    serve.run(scorer, name="historic", route_prefix="/historic")
    post = kept_connection(address)
    row, answers = {**requests["handbook"], "CUSTOMER_ID": "somebody new"}, []
    for i in range(15):
        body = row | {"TRANSACTION_ID": i, "TX_DATETIME": f"2025-09-01T10:{i:02d}:00"}
        replies = [post("/historic/score", body)] + [fetch(f"{address}/historic/score", body) for _ in range(5)]
        assert replies == [(200, replies[0][1])] * 6 and replies[0][1]["warnings"] == []
        answers.append((body, replies[0]))
    asked = row | {"TRANSACTION_ID": "asks", "TX_DATETIME": "2025-09-01T11:00:00"}
    explained = [fetch(f"{address}/historic/explain", asked) for _ in range(8)]
    assert explained == [explained[0]] * 8
    assert fetch(f"{address}/historic/v1/explain", asked) == explained[0]
    assert fetch(f"{address}/historic/readyz")[1]["history"]["store"] == "node"
    serve.delete("historic")

    serve.run(scorer, name="historic", route_prefix="/historic")
    assert fetch(f"{address}/historic/explain", asked) == explained[0]
    for body, reply in answers[-10:]:
        assert fetch(f"{address}/historic/score", body) == reply
    serve.delete("historic")


def test_several_replicas_with_memory_are_refused(address: str, bundles: dict[str, Path], tmp_path: Path):
    from ray import serve

    settings = {"FRAUD_MODE": "dev", "FRAUD_ROOT": str(tmp_path), "FRAUD_HISTORY_URL": "memory"}
    scorer = Scorer.options(num_replicas=2).bind({**settings, "FRAUD_BUNDLE": str(bundles["handbook"])})
    with pytest.raises(RuntimeError, match="Scorer"):
        serve.run(scorer, name="split", route_prefix="/split")
    message = serve.status().applications["split"].deployments["Scorer"].message
    assert "FRAUD_HISTORY_URL=memory with 2 replicas" in message
    serve.delete("split")


def test_a_replica_that_cannot_work_says_why(address: str, tmp_path: Path):
    from ray import serve

    settings = {"FRAUD_MODE": "dev", "FRAUD_ROOT": str(tmp_path), "FRAUD_BUNDLE": "nowhere"}
    with pytest.raises(RuntimeError, match="Scorer"):
        serve.run(Scorer.bind(settings), name="broken", route_prefix="/broken")
    reason = serve.status().applications["broken"].deployments["Scorer"].message.strip().splitlines()[-1]
    assert "holds no manifest.json: give the folder of a bundle" in reason
    serve.delete("broken")


class OpensAnotherPort(Scorer.func_or_class):  # type: ignore[name-defined,misc]
    """As a Ray that would open one port more, to everybody."""

    async def __init__(self, environment: Mapping[str, str]) -> None:  # type: ignore[misc]
        await super().__init__(environment)
        self._open = socket.create_server(("0.0.0.0", 0))


class BindsElsewhere(Scorer.func_or_class):  # type: ignore[name-defined,misc]
    """As a Ray that would bind its internal port by another function."""

    async def __init__(self, environment: Mapping[str, str]) -> None:  # type: ignore[misc]
        from ray.serve._private import replica

        bind = replica.add_port_to_grpc_server
        await super().__init__(environment)
        replica.add_port_to_grpc_server = bind


@pytest.mark.parametrize(
    ("deployment", "reason"),
    [(OpensAnotherPort, "lets a replica listen on 0.0.0.0 port"), (BindsElsewhere, "did not call add_port_to_grpc")],
)
def test_a_replica_whose_ports_are_not_as_asked_does_not_serve(
    address: str, bundles: dict[str, Path], tmp_path: Path, deployment: type, reason: str
):
    from ray import serve

    settings = {"FRAUD_MODE": "dev", "FRAUD_ROOT": str(tmp_path), "FRAUD_BUNDLE": str(bundles["transactions"])}
    options = {"func_or_class": deployment, "num_replicas": 1, "max_constructor_retry_count": 1}
    with pytest.raises(RuntimeError, match="Scorer"):
        serve.run(Scorer.options(**options).bind(settings), name="open", route_prefix="/open")
    status = serve.status().applications["open"].deployments["Scorer"]
    assert "LibraryChangedError: ray 2.60.0" in status.message and reason in status.message
    assert "RUNNING" not in status.replica_states
    serve.delete("open")


def test_building_the_application_refuses_what_cannot_work(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(BundleError, match="holds no manifest"):
        app({"bundle": str(tmp_path)})
    with pytest.raises(ValidationError, match="bundel"):
        app({"bundel": "x"})
    monkeypatch.setenv("FRAUD_MODE", "production")
    with pytest.raises(ConfigError, match="no API key"):
        app({"bundle": str(bundles["mixed"])})


def test_the_application_takes_the_deployers_settings(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(bundles["mixed"].parent)
    monkeypatch.setenv("FRAUD_BUNDLE", "nowhere")
    (environment,) = app({"bundle": "mixed", "model": "3"})._bound_deployment.init_args
    assert (environment["FRAUD_BUNDLE"], environment["FRAUD_MODEL"]) == ("mixed", "3")
    assert environment["FRAUD_ROOT"] == str(bundles["mixed"].parent)
    assert environment["FRAUD_MODE"] == "dev"
    assert environment["MLFLOW_TRACKING_URI"].startswith("sqlite:///")
    assert not set(environment) & {"PATH", "HOME"}


def test_the_config_file_is_one_that_serve_accepts_and_binds_loopback():
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    assert (config.http_options.host, config.http_options.port) == ("127.0.0.1", 8000)
    (application,) = config.applications
    assert application.import_path == "serve_app.deployment:app"
    (deployment,) = application.deployments
    assert (deployment.name, deployment.num_replicas) == ("Scorer", 2)
    assert deployment.max_queued_requests > 0
    Options.model_validate(application.args)
