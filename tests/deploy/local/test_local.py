"""The local stack for real: up, reuse, a job, a failing job, down; and the demo's answers when a step fails."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from deploy import processes
from deploy.local import score_service, services
from deploy.local.command import main, parser
from deploy.local.demo import SEED_REQUEST, Demo
from deploy.local.services import CODE, Stack, StackError
from fraud.errors import ConfigError
from fraud.settings import Settings, context
from tests.deploy.live_stack import eventually, serve_config


def settings_for(tmp_path: Path) -> Settings:
    return Settings.from_environment({"FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state", "FRAUD_MODE": "dev"})


def demo_for(settings: Settings, messages: list[str], *arguments: str) -> Demo:
    return Demo.from_arguments(parser().parse_args(["demo", *arguments]), settings, messages.append)


@contextmanager
def answering(status: int, text: str) -> Iterator[int]:
    """A server on a free port that answers every GET and POST alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


LISTEN = "import socket, sys, time; s = socket.create_server((sys.argv[1], 0)); sys.stdout.write('x\\n'); " \
         "sys.stdout.flush(); time.sleep(600)"  # fmt: skip


@pytest.mark.parametrize(
    ("status", "host", "reason"),
    [
        (401, "127.0.0.1", r"^$"),
        (403, "127.0.0.1", r"^$"),
        (200, "127.0.0.1", r"^Ray's dashboard answers without its token \(HTTP 200, RAY_AUTH_MODE=token\)$"),
        (401, "0.0.0.0", r"^python\S* listens on 0\.0\.0\.0 port \d+, which was not asked for$"),
    ],
)
def test_a_ray_that_others_reach_is_noticed(tmp_path: Path, status: int, host: str, reason: str):
    settings = settings_for(tmp_path)
    environment = {**os.environ, processes.MARK: str(settings.state)}
    with (
        answering(status, "") as port,
        subprocess.Popen([sys.executable, "-c", LISTEN, host], env=environment, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None and process.stdout.readline() == b"x\n"
        ray = processes.Service(name="ray", pid=process.pid, started=0.0, log="", ports={"dashboard": port})
        assert re.search(reason, services.find_exposure(Stack(settings, {"ray": ray})))
        process.kill()


def listening(state: Path) -> dict[str, set[str]]:
    """{name of one of our processes: addresses it listens on}."""
    ports: dict[str, set[str]] = {}
    for process in processes.find(state):
        with suppress(psutil.NoSuchProcess):  # HAProxy is replaced at a reload
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    ports.setdefault(process.name(), set()).add(connection.laddr.ip.removeprefix("::ffff:"))
    return ports


def haproxies(state: Path, config: str) -> list[psutil.Process]:
    """Those that run with a configuration of this name, oldest first."""
    result = []
    for process in processes.find(state):
        with suppress(psutil.NoSuchProcess):
            if process.name() == "haproxy" and any(part.endswith(config) for part in process.cmdline()):
                result.append((process.create_time(), process))
    return [process for _, process in sorted(result, key=lambda pair: pair[0])]


# Says which Ray, registry and model a command finds, and whether a task there can import our code.
JOINS = """
import os, sys
import fraud
from cluster.session import connected
from fraud.cli import run_command
from fraud.settings import Settings, context

def main(argv):
    import ray
    settings = Settings.from_environment()
    with connected():
        imports = ray.get(ray.remote(lambda: fraud.__name__).remote()) == "fraud"
        print(ray.get_runtime_context().gcs_address, settings.tracking_uri, settings.model_name, imports)
    return 0

run_command(main)
"""


def plain_environment() -> dict[str, str]:
    """The environment of a new terminal."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "MLFLOW_", "RAY_"))}


def decided(state: Path) -> int:
    """Rows in the decision log's Parquet files."""
    files = list((state / "decisions").rglob("*.parquet"))
    return sum(pq.ParquetFile(path).metadata.num_rows for path in files)


def test_missing_files_are_refused_before_anything_starts(tmp_path: Path):
    settings = settings_for(tmp_path)
    for flag in ("--data", "--schema", "--config"):
        with pytest.raises(ConfigError, match=f"{flag} absent.yaml"):
            demo_for(settings, [], flag, "absent.yaml")
    (tmp_path / "mine.csv").write_text("a\n1\n")
    demo = demo_for(settings, [], "--data", "mine.csv", "--schema", "handbook")
    assert (demo.data, demo.schema, demo.config) == (str(tmp_path / "mine.csv"), "handbook", None)


def test_another_schema_gets_a_model_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = settings_for(tmp_path)
    settings.state.mkdir()
    assert demo_for(settings, []).model_name == settings.model_name
    demo = demo_for(settings, [], "--schema", "ulb")
    assert demo.model_name == f"{settings.model_name}-ulb"

    demo.stack = Stack(settings)
    monkeypatch.setattr(score_service, "details", lambda stack: {"http_options": {"port": 8123}})
    config = yaml.safe_load(demo._config().read_text())
    assert config["http_options"]["port"] == demo.stack.serve_port == 8123
    assert config["http_options"]["host"] == "127.0.0.1"
    variables = [application["runtime_env"]["env_vars"] for application in config["applications"]]
    assert variables == [{"FRAUD_MODEL_NAME": demo.model_name}]
    monkeypatch.setenv("FRAUD_MODEL_NAME", "mine")
    assert demo_for(replace(settings, model_name="mine"), [], "--schema", "ulb").model_name == "mine"


def test_the_context_speaks_of_the_last_demo_also_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = settings_for(tmp_path)
    settings.state.mkdir()
    ports = {"ray": {"dashboard": 8301, "gcs": 6401}, "mlflow": {"mlflow": 5001}}
    stack = Stack(
        settings,
        {name: processes.Service(name=name, pid=1, started=0.0, log="", ports=ports[name]) for name in ports},
    )
    monkeypatch.setenv("FRAUD_LABELS", "s3://fraud/labels")
    monkeypatch.setenv("FRAUD_DECISIONS_KEY", "a secret of sixteen bytes")
    stack.write_context()
    of_stack = context.read(settings.state)
    assert of_stack is not None and "secret" not in of_stack.path.read_text()
    expected = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
        "RAY_ADDRESS": "127.0.0.1:6401",
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8301",
        "FRAUD_MODEL_NAME": "fraud-detector",
        "FRAUD_LABELS": "s3://fraud/labels",
    }
    assert expected.items() <= of_stack.variables.items()

    stack.remember({"FRAUD_MODEL_NAME": "fraud-detector-handbook", "FRAUD_SCHEMA": "handbook"})
    monkeypatch.delenv("FRAUD_LABELS")
    stack.write_context()  # as the next `make up` does
    restarted = context.read(settings.state)
    assert restarted is not None and "FRAUD_LABELS" not in restarted.variables
    assert restarted.variables["FRAUD_MODEL_NAME"] == "fraud-detector-handbook"
    assert restarted.variables["FRAUD_SCHEMA"] == "handbook"
    monkeypatch.setenv("FRAUD_MODEL_NAME", "mine")
    assert stack.model_name == "mine"
    assert "FRAUD_MODEL_NAME" not in stack.shell_environment()  # a shell would keep it over the next demo


def test_the_answer_of_score_decides(tmp_path: Path):
    messages: list[str] = []
    demo = demo_for(settings_for(tmp_path), messages)
    answer = '{"score": 0.97, "reasons": [{"text": "amount 9 is above the usual 3"}]}'
    with answering(200, answer) as port:
        demo.stack = Stack(demo.settings, serve_port=port)
        demo._score_one(SEED_REQUEST)
    assert any(answer in line for line in messages)
    assert any("because: amount 9 is above the usual 3" in line for line in messages)
    with answering(422, "amount: not a number") as port:
        demo.stack = Stack(demo.settings, serve_port=port)
        with pytest.raises(StackError, match="422: amount: not a number"):
            demo._score_one(SEED_REQUEST)


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path):
    settings, messages = settings_for(tmp_path), []
    settings.state.mkdir()
    command = [sys.executable, "-c", "raise SystemExit('the disk is full')"]
    service = processes.start("mlflow", command, state=settings.state, environment=dict(os.environ), ports={})
    with pytest.raises(StackError, match="mlflow ended"):
        services.wait(Stack(settings, {"mlflow": service}), "mlflow", lambda: False, messages.append)
    assert "the disk is full" in "\n".join(messages)


def test_status_and_down_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "none"))
    assert main(["status"]) == 1
    assert main(["down"]) == 0
    with pytest.raises(ConfigError, match="does not run: start it with `make up`"):
        main(["shell", "--", "true"])
    assert "make up" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_up_job_serving_and_down(tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    settings, messages = settings_for(tmp_path), []
    environment = {**os.environ, "FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": str(settings.state)}
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

    def local(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.local", *arguments]
        return subprocess.run(
            command, cwd=CODE, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=300
        )

    blocked = processes.free_port(8265)
    try:
        with socket.socket() as other:
            other.bind(("127.0.0.1", blocked))
            other.listen()
            first = local("up")
        assert first.returncode == 0, first.stdout + first.stderr
        assert "(dashboard) is taken by another program: using" in first.stdout
        stack = Stack.read(settings)
        assert stack.port("dashboard") > blocked
        assert stack.url("dashboard") in first.stdout
        assert stack.url("mlflow") in first.stdout
        assert stat.S_IMODE(stack.token_path.stat().st_mode) == 0o600

        # Safe to repeat: nothing starts again.
        assert local("up").returncode == 0
        assert Stack.read(settings).services == stack.services

        # Ray refuses whoever has no token.
        assert services.ask(stack.url("dashboard") + "/api/jobs/")[0] == 401
        assert services.ask_ray(stack, "/api/jobs/")[0] == 200

        # A job runs on Ray with our folder as its root; one that fails stops the demo with the job's own reason.
        demo = demo_for(settings, messages)
        demo.stack = stack
        demo._job("make some", "ray_jobs.generate", "--rows", "20", "--out", "data/some.csv")
        assert len((tmp_path / "data" / "some.csv").read_text().splitlines()) == 21
        with pytest.raises(StackError, match=r"step 'make wrong' failed: error: .*\.csv"):
            demo._job("make wrong", "ray_jobs.generate", "--rows", "20", "--out", "data/some.pdf")
        assert "some.pdf" in "\n".join(messages)

        # A command by itself uses the same Ray, and a shell leads `ray` to it; nothing was exported.
        (tmp_path / "joins.py").write_text(JOINS)
        beside = {**plain_environment(), "FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state"}
        joined = subprocess.run(
            [sys.executable, str(tmp_path / "joins.py")], cwd=CODE, env={**beside, "PYTHONPATH": str(CODE)},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        gcs = f"127.0.0.1:{stack.port('gcs')}"
        assert f"Ray at {gcs} ({settings.state}/context.json)" in joined.stderr, joined.stderr
        assert joined.stdout == f"{gcs} {stack.url('mlflow')} fraud-detector True\n"
        script = "echo $RAY_AUTH_MODE $MLFLOW_TRACKING_URI; ray job list | grep -q SUCCEEDED && echo lists"
        in_shell = local("shell", stdin=script)
        assert in_shell.stdout == f"token {stack.url('mlflow')}\nlists\n", in_shell.stderr

        # HAProxy answers for the replicas, also when Serve's own is killed; all listens on the loopback interface only.
        port = processes.free_port(8123)
        monkeypatch.setattr(demo, "_config", lambda: serve_config(tmp_path, small_bundle, port=port))
        demo.deploy()
        url, body = f"http://127.0.0.1:{port}/score", json.dumps(SEED_REQUEST)
        eventually(lambda: services.ask(url, body=body)[0] == 200)
        request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})

        def answers_directly() -> bool:
            """The id has no hyphens: a replica answered before Serve's own path (serve_app.http.direct)."""
            with suppress(urllib.error.URLError), urllib.request.urlopen(request, timeout=30) as reply:
                return re.fullmatch("[0-9a-f]{32}", reply.headers["X-Request-ID"]) is not None
            return False

        eventually(answers_directly)  # until HAProxy knows the replicas, Serve's own proxy answers behind it
        # HAProxy is replaced by another while Serve tells it new routes.
        eventually(lambda: {"haproxy", "ray::ServeRepl"} <= {name[:14] for name in listening(settings.state)})
        heard = listening(settings.state)
        assert {address for addresses in heard.values() for address in addresses} == {"127.0.0.1"}
        eventually(lambda: len(haproxies(settings.state, "standby.cfg")) == 2)
        killed = haproxies(settings.state, "haproxy.cfg")[-1]
        killed.kill()
        killed.wait(20)  # what connects while the system takes it apart is refused
        assert [services.ask(url, body=body)[0] for _ in range(20)] == [200] * 20

        # What serves ends in order and comes back, with its port and its model, with the logs of before.
        status = local("status").stdout
        assert re.search(r"replicas +2 of 2 running \(fraud: RUNNING\)\n", status), status
        assert re.search(r"model +fraud-detector version \S+\nready +yes\n", status), status
        ended = local("down")
        assert ended.returncode == 0 and "ending /score" in ended.stdout and "warning" not in ended.stdout, ended.stdout
        assert not list((settings.state / "decisions" / "_journal").iterdir()) and decided(settings.state) >= 22
        kept = [path.read_text() for path in (settings.state / "log" / "jobs").iterdir()]
        assert any("python -m ray_jobs.generate" in text for text in kept)
        again = local("up")
        assert again.returncode == 0, again.stdout + again.stderr
        assert "deploying /score with the model fraud-detector again" in again.stdout
        assert services.ask(url, body=body)[0] == 200

        # The record is lost, say with a cleaned folder: down still finds everything by its mark.
        (settings.state / "local.json").write_text("{")
        stopped = local("down")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert processes.find(settings.state) == []
        assert services.ask(stack.url("mlflow") + "/health")[0] == 0
        assert bystander.poll() is None
        assert local("status").returncode == 1
    finally:
        processes.stop(settings.state, [])
        bystander.kill()
        bystander.wait()
