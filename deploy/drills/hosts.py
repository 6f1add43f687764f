"""Hosts for drills: Linux namespaces on one machine, each with its own network, processes, home and sshd.

`ray stop` and `ray down` stop every Ray of a host; in a namespace they see only its own processes. The hosts share the
machine's programs, the installed environment and one folder, like the shared folder of a cluster. Needs root, Linux,
ip, unshare, setpriv, sshd and rsync. The end of the `with` block, or of this process, removes everything.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fraud.errors import FraudError

CODE = Path(__file__).resolve().parents[2]
PROGRAMS = ("ip", "unshare", "setpriv", "sshd", "ssh", "ssh-keygen", "rsync")
START_TIMEOUT_S = 60.0
_BRIDGE = "frd"
# Runs as root inside the namespaces. The host's folders hide the machine's. /tmp is last: the other folders are in it.
_INSIDE = r"""
set -e
folder=$1 shared=$2 name=$3 address=$4 gateway=$5
mount --bind "$folder/home" /home
mount --bind "$shared" /srv
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/hosts" /etc/hosts
mkdir -p /run/sshd
mount --bind "$folder/tmp" /tmp
hostname "$name"
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
cd /home/fraud
exec env -i HOME=/home/fraud PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "$6" -D -e -f /home/.sshd/config
"""
_SSHD = """Port 22
HostKey /home/.sshd/host_key
PidFile none
AuthorizedKeysFile /home/fraud/.ssh/authorized_keys
PasswordAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
MaxStartups 100
MaxSessions 100
"""


class DrillError(FraudError):
    """A drill cannot run on this machine, or it failed."""


@dataclass
class Host:
    """One host. address: IPv4 address; folder: its home and /tmp on the machine."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        """The home of its only user, as a path on the machine."""
        return self.folder / "home" / "fraud"

    def power_off(self) -> None:
        """Kill every process of the host and remove its network."""
        self.process.kill()
        self.process.wait()


@dataclass
class Hosts:
    """The hosts of a drill. gateway: this machine's address in their network; shared: /srv of every host."""

    folder: Path
    gateway: str
    key: Path
    shared: Path
    bridge: str
    hosts: list[Host] = field(default_factory=list)

    def ssh(self, host: Host, command: str, *, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command in a login shell of `host`, as a person would."""
        arguments = [*self.ssh_command(host), f"bash -lc {shlex.quote('. ~/.bashrc; ' + command)}"]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)

    def ssh_command(self, host: Host) -> list[str]:
        """`ssh` with the key, to `host`."""
        quiet = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ControlPath=none"]
        options = [word for option in quiet for word in ("-o", option)]
        return ["ssh", "-i", str(self.key), *options, f"root@{host.address}"]

    def add(self, name: str) -> Host:
        """Make a host and wait for its sshd. Raises DrillError with the end of its log."""
        number = len(self.hosts) + 2
        folder, address = self.folder / f"{name}-{number}", self.gateway.rsplit(".", 1)[0] + f".{number}"
        for part in ("home/fraud/.ssh", "home/.sshd", "tmp"):
            (folder / part).mkdir(parents=True, mode=0o700)
        (folder / "tmp").chmod(0o1777)
        passwd = re.sub(r"(?m)^root:.*$", "root:*:0:0:root:/home/fraud:/bin/bash", Path("/etc/passwd").read_text())
        (folder / "passwd").write_text(passwd)
        # As Debian installs it: the host's own name leads to loopback.
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        (folder / "home/.sshd/config").write_text(_SSHD)
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "home/.sshd/host_key"))
        shutil.copy(self.key.with_suffix(".pub"), folder / "home/fraud/.ssh/authorized_keys")
        (folder / "home/fraud/.bashrc").touch()
        # The environment is installed already: this lock makes the setup commands skip it.
        shutil.copy(CODE / "requirements.lock", folder / "home/fraud/.fraud-venv.lock")
        (folder / "home/fraud/fraud-venv").symlink_to(sys.prefix)
        sshd = str(shutil.which("sshd"))
        inside = ["bash", "-c", _INSIDE, "host", str(folder), str(self.shared), name, address, self.gateway, sshd]
        namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *inside],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        host = Host(name, address, folder, process)
        self.hosts.append(host)
        self._connect(host, number)
        _until(lambda: self.ssh(host, "true").returncode == 0, f"sshd of {name}", process, folder / "log")
        return host

    def _connect(self, host: Host, number: int) -> None:
        outside = f"{self.bridge}v{number}"
        _call("ip", "link", "add", outside, "type", "veth", "peer", "name", f"{self.bridge}p{number}")
        _call("ip", "link", "set", outside, "master", self.bridge, "up")

        def moved() -> bool:
            with suppress(OSError, IndexError, DrillError):
                pid = host.process.pid
                child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
                if Path(f"/proc/{child}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
                    _call("ip", "link", "set", f"{self.bridge}p{number}", "netns", child, "name", "eth0")
                    return True
            return False

        _until(moved, f"namespaces of {host.name}", host.process, host.folder / "log")


def missing_requirement() -> str | None:
    """What this machine lacks for drill hosts; None if it lacks nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "drill hosts need Linux and root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"drill hosts need {', '.join(missing)} (Debian: openssh-server, rsync, iproute2, util-linux)"
    hidden = [folder for folder in ("/tmp", "/home", "/srv") for path in (sys.prefix, sys.base_prefix)
              if Path(path).is_relative_to(folder)]  # fmt: skip
    if hidden:
        return f"drill hosts have their own {hidden[0]}, which would hide the Python environment they share"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True)
    made = subprocess.run(["ip", "link", "add", f"{_BRIDGE}0", "type", "bridge"], capture_output=True, text=True)
    subprocess.run(["ip", "link", "delete", f"{_BRIDGE}0"], capture_output=True)
    if tried.returncode or made.returncode:
        return f"no namespaces or bridges here: {(tried.stderr.decode() + made.stderr).strip()[:200]}"
    return None


@contextmanager
def drill_hosts(names: Sequence[str]) -> Iterator[Hosts]:
    """Hosts with these names in one network. Raises DrillError if this machine cannot make them."""
    if lacking := missing_requirement():
        raise DrillError(lacking)
    _remove_stale()
    bridge = f"{_BRIDGE}{os.getpid()}"
    subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    folder = Path(tempfile.mkdtemp(prefix="frd-"))
    hosts = Hosts(folder, f"{subnet}.1", folder / "key", folder / "shared", bridge)
    try:
        (hosts.shared / "fraud").mkdir(parents=True)
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(hosts.key))
        _call("ip", "link", "add", bridge, "type", "bridge")
        _call("ip", "address", "add", f"{hosts.gateway}/24", "dev", bridge)
        _call("ip", "link", "set", bridge, "up")
        for name in names:
            hosts.add(name)
        yield hosts
    finally:
        for host in hosts.hosts:
            host.power_off()
        _remove_links(bridge)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_links(bridge: str) -> None:
    """Delete a bridge and its hosts' links now. The kernel would delete them some time after the hosts end."""
    for link in list(Path("/sys/class/net").iterdir()):
        if re.fullmatch(rf"{bridge}([vp]\d+)?", link.name):
            subprocess.run(["ip", "link", "delete", link.name], capture_output=True)


def _remove_stale() -> None:
    """Remove the links of killed drills; their hosts ended with them."""
    for link in list(Path("/sys/class/net").iterdir()):
        match = re.fullmatch(rf"({_BRIDGE}(\d+))([vp]\d+)?", link.name)
        if match and not Path(f"/proc/{match[2]}").exists():
            _remove_links(match[1])


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DrillError(f"{' '.join(command)}: {done.stderr.strip()}")


def _until(is_true: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not is_true():
        if process.poll() is not None or time.monotonic() > end:
            raise DrillError(f"no {what}: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.1)
