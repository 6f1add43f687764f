"""Model swap, threshold change, redeploy and rollback under load."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.serving_faults.background_load import background_load, drive_once, summarize
from benchmarks.serving_faults.rig import Rig
from fraud.errors import DataError

_THRESHOLD = 0.123
_TIMEOUT_S = 60.0


def measure(rig: Rig, *, rate: float, requests: int, fast: bool) -> dict[str, Any]:
    """Make each change under load; repeat swaps until `requests` are sent. rate: requests per second."""
    rig.serve()
    results: dict[str, Any] = {"rate": rate}
    calm = [drive_once(rig, 10, rate) for _ in range(1 if fast else 3)]
    results["calm"] = summarize(calm)
    total = 0
    for name, change in _CHANGES.items():
        with background_load(rig, rate) as load:
            began = time.monotonic()
            change(rig)
            seconds = time.monotonic() - began
        results[name] = {"seconds": seconds, **summarize(load.loads)}
        total += results[name]["requests"]
        rig.log(f"{name}: {seconds:.1f} s, {results[name]['failed']} of {results[name]['requests']:,} requests failed")
    # Further swaps and rollbacks until the requested number.
    more = []
    while total + sum(load.requests for load in more) < requests:
        with background_load(rig, rate) as load:
            _swap(rig)
            _roll_back(rig)
            rig.promote("--threshold", "0.5", "--reason", "benchmark")
        more += load.loads
        rig.log(f"{total + sum(load.requests for load in more):,} of {requests:,} requests")
    if more:
        results["more swaps and rollbacks"] = summarize(more)
    return results


def _swap(rig: Rig) -> None:
    rig.promote("2", "--override", "--by", "benchmark", "--reason", "benchmark")
    _wait(rig, lambda model: model["model_version"] == "2")


def _threshold(rig: Rig) -> None:
    rig.promote("--threshold", str(_THRESHOLD), "--reason", "benchmark")
    _wait(rig, lambda model: model["threshold"]["value"] == _THRESHOLD)


def _redeploy(rig: Rig) -> None:
    before = {process.pid for process in rig.replicas()}
    # A changed environment is a new version: Serve starts new replicas and drains the old ones.
    rig.deploy(variables={"FRAUD_ACCESS_LOG_SAMPLE": "0.02"})
    rig.wait_ready(2)
    if before & {process.pid for process in rig.replicas()}:
        raise DataError("`serve deploy` did not replace the replicas")


def _roll_back(rig: Rig) -> None:
    rig.promote("--rollback", "--reason", "benchmark")
    _wait(rig, lambda model: model["model_version"] == "1")


_CHANGES: dict[str, Callable[[Rig], None]] = {
    "swap": _swap, "threshold": _threshold, "redeploy": _redeploy, "rollback": _roll_back,
}  # fmt: skip


def _wait(rig: Rig, is_applied: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until both replicas answer /model as required. Raises DataError after _TIMEOUT_S."""
    ends = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends:
        answers = rig.ask_replicas("/model")
        if len(answers) >= 2 and all(code == 200 and is_applied(model) for code, model in answers):
            return
        time.sleep(0.1)
    raise DataError(f"the replicas did not follow the registry within {_TIMEOUT_S:.0f} s: {answers}"[:500])
