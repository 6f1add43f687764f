"""Cost of a shadow challenger, and its effect on answers when it raises, is slow or hangs."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.serving_faults import faulty
from benchmarks.serving_faults.background_load import cpu_seconds, drive_once, summarize
from benchmarks.serving_faults.rig import Rig
from fraud.errors import DataError
from fraud.registry import versions

_ROUND_S = 10.0
_FAULTS = ("raise", "slow", "hang")  # last: a hanging call blocks its thread
_FOLLOW_S = 4.0


def measure(rig: Rig, *, rate: float, rounds: int = 5, fault_s: float = 20.0) -> dict[str, Any]:
    """Alternate rounds without and with the shadow at `rate`, then each fault for `fault_s` seconds."""
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
    results: dict[str, Any] = {kind: _summary(runs) for kind, runs in kinds.items()}
    results |= {"rate": rate, "outcomes": _since(rig, before)}
    off, on = results["off"], results["on"]
    results["throughput_cost"] = 1 - on["rate"] / off["rate"]
    results["cpu_cost"] = on["cpu_us"] / off["cpu_us"] - 1
    rig.log(
        f"shadow off {off['rate']:.0f}/s p99 {off['p99_ms']:.1f} ms {off['cpu_us']:.0f} us; on {on['rate']:.0f}/s "
        f"p99 {on['p99_ms']:.1f} ms {on['cpu_us']:.0f} us; {results['outcomes']}"
    )
    fault = rig.settings.state / faulty.FILE
    fault.unlink(missing_ok=True)
    rig.promote("--shadow", "on")
    rig.deploy(import_path="benchmarks.serving_faults.faulty:app")
    rig.wait_ready(2)
    time.sleep(_FOLLOW_S)
    results["faults"] = {}
    for kind in _FAULTS:
        before = _outcomes(rig)
        fault.write_text(kind, encoding="utf-8")
        totals = summarize([drive_once(rig, fault_s, rate)])
        time.sleep(2)  # wait for the last outcomes
        results["faults"][kind] = {**totals, "outcomes": (outcomes := _since(rig, before))}
        if (kind == "raise") != (outcomes["failed"] > 0) or sum(outcomes.values()) == 0:
            raise DataError(f"challenger fault {kind} gave outcomes {outcomes}: see faulty.py")
        rig.log(
            f"challenger fault {kind}: {totals['failed']} of {totals['requests']:,} failed, "
            f"p99 {totals['p99_ms']:.1f} ms; {outcomes}"
        )
    fault.unlink()
    rig.promote("--shadow", "off")
    versions.remove_alias("challenger", rig.settings)
    return results


def _round(rig: Rig, rate: float) -> dict[str, Any]:
    parts = rig.parts()
    before = cpu_seconds(parts)
    load = drive_once(rig, _ROUND_S, rate)
    used = sum(cpu_seconds(parts).values()) - sum(before.values())
    return {**summarize([load]), "cpu_us": used / max(1, load.requests) * 1e6}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {key: statistics.median(run[key] for run in runs) for key in ("rate", "p50_ms", "p99_ms", "cpu_us")}
    return {**medians, **{key: sum(run[key] for run in runs) for key in ("requests", "failed")}, "rounds": len(runs)}


def _outcomes(rig: Rig) -> dict[str, float]:
    return {outcome: rig.metric("fraud_shadow_total", outcome=outcome) for outcome in _OUTCOMES}


_OUTCOMES = ("scored", "shed", "late", "failed")


def _since(rig: Rig, before: dict[str, float]) -> dict[str, int]:
    return {outcome: int(count - before[outcome]) for outcome, count in _outcomes(rig).items()}
