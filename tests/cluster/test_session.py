"""How a job joins Ray and leaves it, and how it takes a polite kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.session import connected, terminable

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
def test_the_callers_ray_is_used_and_left_running(ray_session: None):
    import ray

    with connected():
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.slow
def test_a_process_starts_its_own_ray_and_stops_it():
    code = (
        "import ray\nfrom cluster.session import connected\n"
        "with connected():\n assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42\n"
        "assert not ray.is_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("address", ["nonsense", "foo://x"])
def test_an_address_that_is_none_is_the_users_error(address: str):
    """In a process of its own: this one may be joined to a Ray already."""
    code = (
        "from cluster.session import connected\nfrom fraud.errors import ConfigError\n"
        "try:\n with connected(): pass\nexcept ConfigError as error: print(error)\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.stdout.startswith(f"no Ray at RAY_ADDRESS={address!r}"), done.stderr
    assert done.stdout.rstrip().endswith("start it, or unset RAY_ADDRESS") and done.stdout.count("\n") == 1


def test_a_polite_kill_unwinds_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_signals_are_left_alone():
    handlers = []

    def work() -> None:
        with terminable():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


LISTENERS = """
import psutil
from cluster.listeners import listeners
from cluster.session import connected

with connected():
    import ray

    ray.get(ray.remote(lambda: 1).remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    addresses = {each.ip for process in family if process.is_running() for each in listeners(process.pid)}
print(sorted(addresses))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_for_one_command_listens_on_loopback_only():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['127.0.0.1']"
