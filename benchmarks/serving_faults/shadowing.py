"""What a challenger that scores along costs, and what it does to the replies when it raises, is slow or hangs."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.serving_faults import faulty
from benchmarks.serving_faults.pressure import cpu_seconds, figures, once
from benchmarks.serving_faults.rig import Rig
from fraud.errors import DataError
from fraud.registry import versions

_ROUND_S = 10.0
_FAULTS = ("raise", "slow", "hang")  # a call that hangs keeps its thread, so it comes last
_FOLLOW_S = 4.0


def measure(rig: Rig, *, rate: float, rounds: int = 5, fault_s: float = 20.0) -> dict[str, Any]:
    """Rounds without and with the shadow in turn, at `rate`; then each fault for `fault_s` seconds."""
    rig.serve()
    champion = rig.ask("/model")[1]["model_version"]
    versions.set_alias("challenger", 2 if champion == "1" else 1, rig.settings)
    kinds: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
    before = _outcomes(rig)
    for number in range(rounds):
        for kind in ("off", "on") if number % 2 == 0 else ("on", "off"):
            rig.promote("--shadow", kind)
            time.sleep(_FOLLOW_S)
            kinds[kind].append(_round(rig, rate))
    found: dict[str, Any] = {kind: _summary(runs) for kind, runs in kinds.items()}
    found |= {"rate": rate, "outcomes": _since(rig, before)}
    off, on = found["off"], found["on"]
    found["throughput_cost"] = 1 - on["rate"] / off["rate"]
    found["cpu_cost"] = on["cpu_us"] / off["cpu_us"] - 1
    rig.say(
        f"shadow off {off['rate']:.0f}/s p99 {off['p99_ms']:.1f} ms {off['cpu_us']:.0f} us; on {on['rate']:.0f}/s "
        f"p99 {on['p99_ms']:.1f} ms {on['cpu_us']:.0f} us; {found['outcomes']}"
    )
    fault = rig.settings.state / faulty.FILE
    fault.unlink(missing_ok=True)
    rig.promote("--shadow", "on")
    rig.deploy(import_path="benchmarks.serving_faults.faulty:app")
    rig.wait_ready(2)
    time.sleep(_FOLLOW_S)
    found["faults"] = {}
    for kind in _FAULTS:
        before = _outcomes(rig)
        fault.write_text(kind, encoding="utf-8")
        told = figures([once(rig, fault_s, rate)])
        time.sleep(2)  # the last ones' outcomes
        found["faults"][kind] = {**told, "outcomes": (outcomes := _since(rig, before))}
        if (kind == "raise") != (outcomes["failed"] > 0) or sum(outcomes.values()) == 0:
            raise DataError(f"the challenger was to {kind}, but its scores were {outcomes}: see faulty.py")
        rig.say(
            f"a challenger that does {kind}: {told['failed']} of {told['requests']:,} failed, p99 {told['p99_ms']:.1f} "
            f"ms; {outcomes}"
        )
    fault.unlink()
    rig.promote("--shadow", "off")
    versions.remove_alias("challenger", rig.settings)
    return found


def _round(rig: Rig, rate: float) -> dict[str, Any]:
    parts = rig.parts()
    before = cpu_seconds(parts)
    load = once(rig, _ROUND_S, rate)
    used = sum(cpu_seconds(parts).values()) - sum(before.values())
    return {**figures([load]), "cpu_us": used / max(1, load.requests) * 1e6}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    told = {key: statistics.median(run[key] for run in runs) for key in ("rate", "p50_ms", "p99_ms", "cpu_us")}
    return {**told, **{key: sum(run[key] for run in runs) for key in ("requests", "failed")}, "rounds": len(runs)}


def _outcomes(rig: Rig) -> dict[str, float]:
    return {outcome: rig.metric("fraud_shadow_total", outcome=outcome) for outcome in _OUTCOMES}


_OUTCOMES = ("scored", "shed", "late", "failed")


def _since(rig: Rig, before: dict[str, float]) -> dict[str, int]:
    return {outcome: int(count - before[outcome]) for outcome, count in _outcomes(rig).items()}
