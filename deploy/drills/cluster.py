"""A cluster on drill hosts from the repository's cluster.yaml: `ray up`, Jobs API through ssh, `ray down`."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from deploy import processes
from deploy.drills.hosts import DrillError, Host, Hosts, drill_hosts
from fraud.settings import TELEMETRY_OFF

CODE = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
PATIENCE_S = 300.0  # for a loaded machine


def fill_in(hosts: Hosts, token: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """cluster.yaml with its FILL IN lines filled in.

    environment: variables for site.sh besides FRAUD_ROOT. The cluster name is set too, because `ray up` names files on
    this machine after it.
    """
    config: dict[str, Any] = yaml.safe_load((CODE / "cluster.yaml").read_text(encoding="utf-8"))
    head, *workers = hosts.hosts
    config["cluster_name"] = hosts.bridge
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    config["file_mounts"] = {
        remote: str(token) if local == "~/.ray/auth_token" else local for remote, local in config["file_mounts"].items()
    }
    site = {"FRAUD_ROOT": "/srv/fraud", **environment}
    lines = " ".join(f"{name}={value}" for name, value in site.items())
    (index,) = (i for i, command in enumerate(config["setup_commands"]) if "> ~/ray-fraud/site.sh" in command)
    config["setup_commands"][index] = f"printf 'export %s\\n' {lines} > ~/ray-fraud/site.sh"
    return config


@dataclass
class Cluster:
    """A running cluster. port: of the head's dashboard and Jobs API on this machine; seconds: duration of `ray up`."""

    hosts: Hosts
    config: Path
    token: Path
    port: int
    seconds: float
    environment: dict[str, str]
    is_down: bool = False

    @property
    def head(self) -> Host:
        """Where GCS, dashboard and drivers run."""
        return self.hosts.hosts[0]

    def ray(self, *arguments: str, timeout_s: float = 2 * PATIENCE_S) -> str:
        """Run `ray` on this machine, as on a laptop. Raises DrillError with the end of its output."""
        done = subprocess.run(
            [RAY, *arguments], cwd=CODE, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s,
        )  # fmt: skip
        if done.returncode:
            raise DrillError(f"ray {' '.join(arguments)} ended with {done.returncode}: {done.stdout[-3000:]}")
        return done.stdout

    def down(self) -> None:
        """Run `ray down`."""
        self.is_down = True
        self.ray("down", str(self.config), "--yes")

    def submit(self, *command: str, name: str | None = None, wait: bool = True) -> str:
        """Run `ray job submit` and return its output. Raises DrillError if the job fails."""
        chosen = [*(["--submission-id", name] if name else []), *([] if wait else ["--no-wait"])]
        return self.ray("job", "submit", "--working-dir", ".", *chosen, "--", *command)

    def job(self, name: str) -> str:
        """The state of a job: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        from ray.job_submission import JobSubmissionClient

        token = self.token.read_text(encoding="utf-8")
        client = JobSubmissionClient(f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {token}"})
        return str(client.get_job_status(name).value)

    def nodes(self) -> dict[str, str]:
        """Ids of the living nodes, by address."""
        script = (
            "import ray; ray.init(address='auto', logging_level='ERROR'); "
            "[print('node', n['NodeManagerAddress'], n['NodeID']) for n in ray.nodes() if n['Alive']]"
        )
        output = self.hosts.ssh(self.head, f'python -c "{script}"').stdout
        return dict(line.split()[1:] for line in output.splitlines() if line.startswith("node "))

    def wait_for_nodes(self, n_nodes: int) -> dict[str, str]:
        """Wait until `n_nodes` nodes live; returns them as `nodes` does."""
        nodes: dict[str, str] = {}

        def are_there() -> bool:
            nodes.clear()
            nodes.update(self.nodes())
            return len(nodes) == n_nodes

        wait_until(are_there, f"{n_nodes} nodes", pause_s=1.0)
        return nodes

    def raylet(self, host: Host) -> psutil.Process:
        """The raylet of a host."""
        (raylet,) = (process for process in host_processes(host) if process.name() == "raylet")
        return raylet


def host_processes(host: Host) -> list[psutil.Process]:
    """Every process of a host, as seen from this machine."""
    return psutil.Process(host.process.pid).children(recursive=True)


@contextmanager
def drill_cluster(names: Sequence[str] = ("head", "worker"), **environment: str) -> Iterator[Cluster]:
    """Run `ray up` on new hosts, the first one as head. At the end, run `ray down` and remove the hosts."""
    with drill_hosts(names) as hosts:
        token = hosts.folder / "ray_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        config = hosts.folder / "cluster.yaml"
        config.write_text(yaml.safe_dump(fill_in(hosts, token, environment), sort_keys=False), encoding="utf-8")
        port = processes.free_port(18265, avoid=())
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FRAUD_"))}
        surroundings |= {
            **TELEMETRY_OFF,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ADDRESS": f"http://127.0.0.1:{port}",
            "RAY_TMPDIR": str(hosts.folder),
        }
        cluster = Cluster(hosts, config, token, port, 0.0, surroundings)
        began = time.monotonic()
        try:
            (hosts.folder / "up.log").write_text(cluster.ray("up", str(config), "--yes", "--no-config-cache"))
            cluster.seconds = time.monotonic() - began
            with _forwarded(cluster):
                yield cluster
        finally:
            if not cluster.is_down:
                cluster.down()
            _remove_ssh_folder(hosts.bridge)


@contextmanager
def _forwarded(cluster: Cluster) -> Iterator[None]:
    """Forward the head's dashboard to our loopback, like `ray dashboard`, but end with this process."""
    command = cluster.hosts.ssh_command(cluster.head)
    command[1:1] = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{cluster.port}:127.0.0.1:8265"]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wait_until(is_true: Callable[[], object], what: str, *, pause_s: float = 0.1) -> float:
    """Poll `is_true`; returns the seconds waited. Raises DrillError after PATIENCE_S."""
    began = time.monotonic()
    while not is_true():
        if time.monotonic() - began > PATIENCE_S:
            raise DrillError(f"no {what} after {PATIENCE_S:.0f} s")
        time.sleep(pause_s)
    return time.monotonic() - began


def _remove_ssh_folder(cluster_name: str) -> None:
    # Where ray/autoscaler/_private/command_runner.py keeps ssh's control sockets.
    import getpass
    import hashlib

    user, name = (hashlib.sha256(text.encode()).hexdigest()[:10] for text in (getpass.getuser(), cluster_name))
    shutil.rmtree(Path("/tmp") / f"ray_ssh_{user}" / name, ignore_errors=True)
