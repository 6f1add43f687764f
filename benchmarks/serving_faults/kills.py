"""SIGKILL a replica, HAProxy and Serve's actors under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks.serving_faults.background_load import background_load, summarize
from benchmarks.serving_faults.rig import Rig
from fraud.errors import DataError

_TIMEOUT_S = 180.0
_AFTER_S = 15.0
_PROBE_EVERY_S = 0.02


class Prober:
    """Sends requests one by one, each on a new connection; records failures and the longest gap between answers."""

    def __init__(self, rig: Rig) -> None:
        self.asked = self.failed = 0
        self.longest_gap_s = 0.0
        self._rig, self._over = rig, threading.Event()
        self._thread = threading.Thread(target=self._probe, name="prober")

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _probe(self) -> None:
        last = time.monotonic()
        while not self._over.wait(_PROBE_EVERY_S):
            code, _ = self._rig.ask("/score", body=self._rig.bodies[self.asked % len(self._rig.bodies)])
            self.asked += 1
            if code == 200:
                now = time.monotonic()
                self.longest_gap_s, last = max(self.longest_gap_s, now - last), now
            else:
                self.failed += 1


def measure(rig: Rig, *, rate: float, kills: int = 3) -> dict[str, Any]:
    """Kill each kind of process `kills` times; wait for recovery each time. rate: requests per second."""
    rig.serve()
    results: dict[str, Any] = {"rate": rate}
    for name, victim in _VICTIMS.items():
        times, loads, probes = [], [], []
        for _ in range(kills):
            with background_load(rig, rate) as load, Prober(rig) as prober:
                times.append(_kill(rig, victim))
                time.sleep(_AFTER_S)
            loads += load.loads
            probes.append(prober)
        totals = summarize(loads)
        results[name] = {
            "kills": kills,
            "failed_share": totals["failed"] / max(1, totals["requests"] + totals["failed"]),
            "recovered_s": times,
            "longest_gap_s": max(prober.longest_gap_s for prober in probes),
            "new_connections": sum(prober.asked for prober in probes),
            "new_connections_failed": sum(prober.failed for prober in probes),
            **totals,
        }
        rig.log(
            f"{name}: {totals['failed']} of {totals['requests']:,} failed {totals['statuses']} "
            f"{totals['socket_errors']}, recovered after {', '.join(f'{t:.1f}' for t in times)} s, "
            f"longest gap without an answer {results[name]['longest_gap_s'] * 1000:.0f} ms"
        )
    return results


def _kill(rig: Rig, victim: Callable[[Rig], list[psutil.Process]]) -> float:
    """Kill the newest process; returns the seconds until it is replaced and both replicas answer."""
    before = victim(rig)
    if not before:
        raise DataError("no process to kill is running")
    before[-1].kill()
    killed, began = {process.pid for process in before}, time.monotonic()
    while time.monotonic() - began < _TIMEOUT_S:
        now = [process.pid for process in victim(rig)]
        if set(now) - killed and len(now) >= len(before) and rig.ready() == 2:
            return time.monotonic() - began
        time.sleep(0.1)
    raise DataError(f"the stack did not recover within {_TIMEOUT_S:.0f} s")


_VICTIMS: dict[str, Callable[[Rig], list[psutil.Process]]] = {
    "replica": Rig.replicas,
    "HAProxy": Rig.main_proxy,
    "second HAProxy": Rig.second_proxy,
    "HAProxyManager": lambda rig: rig.matching("HAProxyManager"),
    "controller": lambda rig: rig.matching("ServeController"),
}
