"""The stack under test: MLflow, Ray with HAProxy, two registered versions, replicas of /score."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from deploy import processes
from deploy.local import services
from deploy.local.services import BIN, CODE, HOST, Stack
from fraud.data import simulation
from fraud.errors import DataError
from fraud.registry import runs, versions
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring import bundle
from fraud.settings import Settings, turn_telemetry_off
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping

CONFIG = CODE / "serve_app" / "config.yaml"
APPLICATION, DEPLOYMENT = "fraud", "Scorer"
# First ports to look for a free one from, apart from those of `make up`.
PORTS = {
    "mlflow": 22000, "dashboard": 22010, "gcs": 22020, "client": 22030, "agent": 22040, "autoscaler_metrics": 22050,
    "dashboard_metrics": 22060, "haproxy_metrics": 22070, "haproxy_stats": 22080, "replicas": 33000,
}  # fmt: skip
SERVE_PORT = 22100
LOGS = CODE / "var" / "benchmarks" / "serving_faults_logs"
TRAINING_ROWS, BODIES = 4_000, 2_000
DEPLOY_TIMEOUT_S = 240.0

Log = Callable[[str], None]


@dataclass
class Rig:
    """The stack; create it with `running_stack`.

    port: of /score. bodies: transactions as JSON. is_plain: serve_app/config.yaml is deployed without changes.
    """

    settings: Settings
    stack: Stack
    port: int
    log: Log
    bodies: list[bytes] = field(default_factory=list)
    is_plain: bool = False

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/score"

    # Deployment.

    def register(self, schema: Schema, seed: int) -> int:
        """Fit and register a small model; returns its version number."""
        draw = simulation.cards if schema.name == "handbook" else simulation.transactions
        rows = validate(draw(TRAINING_ROWS, seed=seed, fraud_rate=0.05), schema).rows
        config = from_mapping(
            TrainConfig, {"forest": {"n_estimators": 100}, "autoencoder": {"epochs": 2}, "seed": seed}
        )
        detector, evaluation = fitting.fit_locally(rows, schema, config)
        folder = self.settings.state / f"bundle-{seed}"
        bundle.save(folder, detector, metrics=evaluation.metrics)
        run = runs.start_run(self.settings, f"seed {seed}")
        version = versions.register(self.settings, run, folder)
        run.finish()
        return version.number

    def serve(self) -> None:
        """Deploy serve_app/config.yaml unless it is deployed; wait for both replicas."""
        if not self.is_plain:
            self.deploy()
        self.wait_ready(2)

    def deploy(
        self,
        *,
        options: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        import_path: str | None = None,
    ) -> float:
        """Run `serve deploy` and wait until only the new replicas serve; returns the seconds.

        options: override the deployment options of serve_app/config.yaml; None removes one. variables: environment of
        the replicas. Raises DataError if the application does not run.
        """
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["http_options"].update(host=HOST, port=self.port)
        (application,) = config["applications"]
        application["import_path"] = import_path or application["import_path"]
        application["runtime_env"] = {"env_vars": dict(variables or {})}
        (deployment,) = application["deployments"]
        deployment.update(options or {})
        application["deployments"] = [{name: value for name, value in deployment.items() if value is not None}]
        path = self.settings.state / "serve.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        self.is_plain = not options and import_path is None
        began = time.monotonic()
        self.run([str(BIN / "serve"), "deploy", "--address", self.stack.url("dashboard"), str(path)])
        state: dict[str, Any] = {}
        while time.monotonic() - began < DEPLOY_TIMEOUT_S:
            state = self.application()
            if state.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise DataError(f"the application is {state['status']}: {state.get('message', '')[-2000:]}")
            if state.get("status") == "RUNNING" and {r["state"] for r in self.replica_states(state)} == {"RUNNING"}:
                return time.monotonic() - began
            time.sleep(0.5)
        raise DataError(f"the application does not run after {DEPLOY_TIMEOUT_S:.0f} s: {state.get('status')}")

    def application(self) -> dict[str, Any]:
        """Serve's record of the application; empty without an answer."""
        code, answer = services.ask_ray(self.stack, "/api/serve/applications/")
        return json.loads(answer)["applications"].get(APPLICATION, {}) if code == 200 else {}

    @staticmethod
    def replica_states(application: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Serve's records of the replicas in `application`."""
        return application.get("deployments", {}).get(DEPLOYMENT, {}).get("replicas", [])

    def promote(self, *arguments: str) -> str:
        """Run `python -m ray_jobs.promote`; returns its stdout."""
        return self.run([sys.executable, "-m", "ray_jobs.promote", *arguments])

    def run(self, command: Sequence[str]) -> str:
        """Run a command in the stack's environment; returns its stdout. Raises DataError if it fails."""
        done = subprocess.run(
            command, cwd=CODE, env=self.stack.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise DataError(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout

    def ask(self, path: str, port: int | None = None, body: bytes | None = None) -> tuple[int, Any]:
        """Send a request to HAProxy, or to the replica on `port`. Returns status (0: no answer) and JSON."""
        connection = http.client.HTTPConnection(HOST, port or self.port, timeout=5)
        try:
            connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric over all replicas and all series with these labels."""
        code, text = services.ask(f"http://{HOST}:{self.port}/metrics")
        if code != 200:
            raise DataError(f"/metrics answers {code}")
        required = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in required))

    def ready(self) -> int:
        """Number of replicas that answer /readyz and are up in HAProxy."""
        code, text = services.ask(self.stack.url("haproxy_stats") + "/stats;csv", timeout_s=2)
        if code != 200:
            return 0
        rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
        alive = [row for row in rows if row["svname"].startswith("SERVE_REPLICA") and row["status"].startswith("UP")]
        return min(len(alive), sum(code == 200 for code, _ in self.ask_replicas("/readyz")))

    def ask_replicas(self, path: str) -> list[tuple[int, Any]]:
        """Send a request to every replica directly, without HAProxy."""
        first = self.stack.port("replicas")
        ports = {
            connection.laddr.port
            for process in self.replicas()
            for connection in _connections(process)
            if connection.status == psutil.CONN_LISTEN and first <= connection.laddr.port <= first + 200
        }
        return [self.ask(path, port) for port in sorted(ports)]

    def wait_ready(self, replicas: int, timeout_s: float = 180.0) -> float:
        """Wait until `replicas` replicas answer; returns the seconds. Raises DataError after `timeout_s`."""
        began = time.monotonic()
        while (count := self.ready()) != replicas:
            if time.monotonic() - began > timeout_s:
                raise DataError(f"{count} replicas answer after {timeout_s:.0f} s, not {replicas}")
            time.sleep(0.1)
        return time.monotonic() - began

    # Processes.

    def matching(self, *words: str) -> list[psutil.Process]:
        """Processes of the stack with one of the words in their command line, oldest first."""
        matching = []
        for process in processes.find(self.settings.state):
            with suppress(psutil.Error):
                if any(word in " ".join(process.cmdline()) for word in words):
                    matching.append(process)
        return sorted(matching, key=lambda process: process.create_time())

    def replicas(self) -> list[psutil.Process]:
        return self.matching(f"ServeReplica:{APPLICATION}")

    def proxies(self) -> list[psutil.Process]:
        """Every HAProxy process: Serve's own, the second one's master and worker, and those draining after a reload."""
        return [process for process in self.matching("haproxy.cfg", "standby.cfg") if process.name() == "haproxy"]

    def main_proxy(self) -> list[psutil.Process]:
        """The HAProxy that Serve started last."""
        return [process for process in self.matching("haproxy.cfg") if process.name() == "haproxy"][-1:]

    def second_proxy(self) -> list[psutil.Process]:
        """The worker process of the second HAProxy."""
        return [process for process in self.matching("standby.cfg") if process.name() == "haproxy"][-1:]

    def parts(self) -> dict[str, list[psutil.Process]]:
        """Serving processes by name of the part."""
        return {
            "replicas": self.replicas(),
            "HAProxy": self.proxies(),
            "HAProxyManager": self.matching("HAProxyManager"),
            "controller": self.matching("ServeController"),
        }


@contextmanager
def running_stack(
    folder: Path, log: Log, *, schema: str = "transactions", variables: Mapping[str, str] | None = None
) -> Iterator[Rig]:
    """Run Ray and MLflow below `folder` with two registered versions, the first as champion, while the block runs.

    variables: added to the environment of Ray.
    """
    turn_telemetry_off()
    state = folder / "state"
    own = {"FRAUD_ROOT": str(folder), "FRAUD_STATE": str(state), "FRAUD_MODE": "dev", "FRAUD_MODEL_POLL_S": "1"}
    own |= {"OMP_NUM_THREADS": "1", **(variables or {})}
    for name in [name for name in os.environ if name.startswith(("FRAUD_", "MLFLOW_", "RAY_SERVE_", "RAY_ADDRESS"))]:
        del os.environ[name]
    os.environ.update(own)
    settings = Settings.from_environment()
    try:
        log("starting MLflow and Ray ...")
        stack = services.up(settings, log, PORTS)
        os.environ["MLFLOW_TRACKING_URI"] = stack.url("mlflow")
        rig = Rig(Settings.from_environment(), stack, processes.free_port(SERVE_PORT), log)
        shape = Schema.load(schema)
        log("fitting and registering two versions ...")
        first = rig.register(shape, 1)
        rig.register(shape, 2)
        versions.set_alias("champion", first, rig.settings)
        rig.bodies = list(_bodies(shape))
        yield rig
    except DataError:
        shutil.rmtree(LOGS, ignore_errors=True)
        with suppress(shutil.Error):  # some files, such as sockets, cannot be copied
            shutil.copytree(services.session_folder(state), LOGS, symlinks=True)
        log(f"Ray's logs: {LOGS}")
        raise
    finally:
        services.down(settings, log)


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("tcp")
    except psutil.Error:
        return []


def _bodies(schema: Schema) -> Iterator[bytes]:
    draw = simulation.cards if schema.name == "handbook" else simulation.transactions
    rows = draw(BODIES, seed=11, fraud_rate=0.05)
    names = [column.name for column in schema.inputs if column.name in rows.columns]
    for row in json.loads(rows[names].to_json(orient="records", date_format="iso")):
        yield json.dumps(row).encode()
