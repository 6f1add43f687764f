"""Two Ray nodes on drill hosts, started with the commands of cluster.yaml, with the head's state in Redis.

Without `ray up`, only the drill restarts a dead node, so the cost of its death can be measured.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from deploy import processes
from deploy.backends.servers import binary
from deploy.drills.cluster import host_processes, wait_until
from deploy.drills.hosts import CODE, DrillError, Host, Hosts, drill_hosts

PACKAGES = ("fraud", "cluster", "ray_jobs", "tuning", "serve_app", "monitoring", "deploy")
REDIS_PORT, SERVE_PORT = 16379, 8000
CPUS = 2  # per node, independent of the machine


@dataclass
class Nodes:
    """Two running nodes.

    port: the head's dashboard on this machine; serve_ports: the ingresses of head and worker; key: API key of /score.
    """

    hosts: Hosts
    token: str
    key: str
    port: int
    serve_ports: tuple[int, int]
    is_worker_dead: bool = False

    @property
    def head(self) -> Host:
        """Where GCS, dashboard and drivers run."""
        return self.hosts.hosts[0]

    @property
    def worker(self) -> Host:
        """The other node."""
        return self.hosts.hosts[1]

    @property
    def folder(self) -> Path:
        """The nodes' FRAUD_ROOT (/srv/fraud), as a path on this machine."""
        return self.hosts.shared / "fraud"

    def start(self, host: Host) -> None:
        """Run the `ray start` command of cluster.yaml. Raises DrillError with its output."""
        config = yaml.safe_load((CODE / "cluster.yaml").read_text(encoding="utf-8"))
        role = "head" if host is self.head else "worker"
        command = config[f"{role}_start_ray_commands"][-1].replace("$RAY_HEAD_IP", self.head.address)
        # No autoscaler, but Redis, as the comment in cluster.yaml describes.
        command = command.replace(
            "--autoscaling-config=~/ray_bootstrap_config.yaml", '--redis-password="$(cat ~/.fraud-redis-password)"'
        )
        done = self.hosts.ssh(host, f"{command} --node-ip-address={host.address} --num-cpus={CPUS}")
        if done.returncode:
            raise DrillError(f"ray start on {host.name}: {(done.stdout + done.stderr)[:9000]}")

    def kill(self, host: Host) -> None:
        """SIGKILL all Ray processes of a host at once, as when the machine dies."""
        ours = [process for process in host_processes(host) if not _is_shell(process)]
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # so that none sees another one die
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ours, timeout=30)
        self.is_worker_dead |= host is self.worker

    def alive(self) -> set[str]:
        """Addresses of the nodes that the head reports as alive; empty while it does not answer."""
        status, text = self.ask("/nodes?view=summary")
        if status != 200:
            return set()
        summary = json.loads(text)["data"]["summary"]
        return {node["ip"] for node in summary if node["raylet"].get("state") == "ALIVE"}

    def wait_for(self, n_nodes: int) -> float:
        """Wait until `n_nodes` nodes are alive; returns the seconds waited."""
        return wait_until(lambda: len(self.alive()) == n_nodes, f"{n_nodes} nodes", pause_s=0.2)

    def restart_worker(self) -> None:
        """Restart the worker node if it is dead, and wait for both nodes."""
        if self.is_worker_dead:
            self.wait_for(1)  # the head notices a dead node after about 20 s
            self.start(self.worker)
            self.is_worker_dead = False
        self.wait_for(2)

    def ask(self, path: str, body: Any = None, method: str | None = None) -> tuple[int, str]:
        """Send a request with the token to the head's dashboard. Returns (status, text), status 0 without an answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)

    def run_driver(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a driver on the head, connected to this cluster. log: file on this machine for its output."""
        line = f"cd /srv/fraud && RAY_ADDRESS=auto exec {shlex.join(command)}"
        arguments = [*self.hosts.ssh_command(self.head), f"bash -lc {shlex.quote('. ~/.bashrc; ' + line)}"]
        with log.open("wb") as output:
            return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _is_shell(process: psutil.Process) -> bool:
    """Whether the process belongs to the host (its first process, sshd) and not to Ray."""
    with suppress(psutil.NoSuchProcess):
        return process.name() in ("sshd", "sshd-session", "sshd-auth", "unshare")
    return False


@contextmanager
def drill_nodes() -> Iterator[Nodes]:
    """Start two nodes and a Redis; end them afterwards. Raises ConfigError without redis-server."""
    redis = binary("redis-server")
    with drill_hosts(("head", "worker")) as hosts:
        password = secrets.token_hex(16)
        nodes = Nodes(hosts, secrets.token_hex(32), secrets.token_urlsafe(24), *_ports())
        _install(nodes, password)
        to_head = {nodes.port: 8265, nodes.serve_ports[0]: SERVE_PORT}
        with (
            _redis(redis, hosts, password),
            _tunnel(nodes, nodes.head, to_head),
            _tunnel(nodes, nodes.worker, {nodes.serve_ports[1]: SERVE_PORT}),
        ):
            nodes.start(nodes.head)
            wait_until(lambda: len(nodes.alive()) == 1, "head", pause_s=0.2)
            nodes.start(nodes.worker)
            nodes.wait_for(2)
            yield nodes


def _ports() -> tuple[int, tuple[int, int]]:
    dashboard = processes.free_port(18265)
    of_head = processes.free_port(18000, avoid={dashboard})
    return dashboard, (of_head, processes.free_port(18100, avoid={dashboard, of_head}))


def _install(nodes: Nodes, redis_password: str) -> None:
    """Install what `ray up` would copy to a node, in the shared folder."""
    hosts = nodes.hosts
    code = hosts.shared / "ray-fraud"
    for package in PACKAGES:
        shutil.copytree(CODE / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    site = {
        "FRAUD_ROOT": "/srv/fraud",
        "FRAUD_API_KEY_FILE": "/srv/fraud/keys",
        "RAY_REDIS_ADDRESS": f"{hosts.gateway}:{REDIS_PORT}",
        "NUMBA_CACHE_DIR": "/srv/numba",  # compiled once for both
        "OMP_NUM_THREADS": "1",
    }
    (code / "site.sh").write_text("".join(f"export {name}={value}\n" for name, value in site.items()))
    for host in hosts.hosts:
        (host.home / "ray-fraud").symlink_to("/srv/ray-fraud")
        (host.home / ".bashrc").write_text(". ~/ray-fraud/deploy/node.sh\n")
        (host.home / ".ray").mkdir(mode=0o700)
        _write_private(host.home / ".ray" / "auth_token", nodes.token)
        _write_private(host.home / ".fraud-redis-password", redis_password)
    (nodes.folder / "keys").write_text(f"{hashlib.sha256(nodes.key.encode()).hexdigest()} drill\n")


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


@contextmanager
def _redis(program: str, hosts: Hosts, password: str) -> Iterator[None]:
    """A Redis that both nodes reach. It reads its settings from stdin, so no command line has the password."""
    lines = f'bind {hosts.gateway}\nport {REDIS_PORT}\nrequirepass {password}\nsave ""\ndir {hosts.folder}\n'
    with (hosts.folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    assert process.stdin is not None
    process.stdin.write(lines.encode())
    process.stdin.close()
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _tunnel(nodes: Nodes, host: Host, ports: Mapping[int, int]) -> Iterator[None]:
    """Forward ports of this machine's loopback ({here: there}) to a host. The tunnel survives its Ray."""
    command = nodes.hosts.ssh_command(host)
    command[1:1] = ["-N", "-o", "ExitOnForwardFailure=yes"]
    for here, there in ports.items():
        command[1:1] = ["-L", f"127.0.0.1:{here}:127.0.0.1:{there}"]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()
