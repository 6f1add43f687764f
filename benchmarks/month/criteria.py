"""Acceptance criteria of a simulated month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALARM = "drift"
LATEST_ALARM = 2  # days after the drift began
MOST_FALSE_ALARMS = 1
LEAST_COVERED = 0.9


def judge(result: Mapping[str, Any], drift_day: int) -> dict[str, Any]:
    """Figures of one month, and its criteria under `demands`: {name: is met}."""
    days, gates = result["days"], result["gates"]
    alarms = [one["day"] for one in days if one["verdict"] == ALARM]
    first = next((day for day in alarms if day >= drift_day), None)
    false_alarms = [day for day in alarms if day < drift_day]
    measured = [one for one in days if one["precision"] is not None]
    covered = [
        one["day"]
        for one in measured
        if one["low"] is not None and one["low"] - 1e-9 <= one["precision"] <= one["high"] + 1e-9
    ]
    bad = [gate for gate in gates if gate["kind"] != "weekly"]
    last = [gate for gate in gates if gate["kind"] == "weekly"][-1:]
    before = [one for one in days if one["day"] < drift_day]
    after = [one for one in days if one["day"] >= drift_day and one["champion"] == days[0]["champion"]]
    return {
        "alarm_day": first,
        "false_alarms": false_alarms,
        "warnings": [one["day"] for one in days if one["verdict"] == "warning"],
        "covered": len(covered) / len(measured),
        "not_covered": [one["day"] for one in measured if one["day"] not in covered],
        "mean_width": _mean([one["high"] - one["low"] for one in measured if one["low"] is not None]),
        "precision_before": _mean([one["precision"] for one in before if one["precision"] is not None]),
        "precision_after": _mean([one["precision"] for one in after if one["precision"] is not None]),
        "demands": {
            f"drift alarm within {LATEST_ALARM} days": first is not None and first <= drift_day + LATEST_ALARM,
            f"at most {MOST_FALSE_ALARMS} false alarm before": len(false_alarms) <= MOST_FALSE_ALARMS,
            f"precision's interval holds the truth on {LEAST_COVERED:.0%} of days": len(covered)
            >= LEAST_COVERED * len(measured),
            "worse and poisoned models refused": bool(bad) and all(gate["decision"] == "refused" for gate in bad),
            "the model that handles the drift promoted": all(gate["decision"] == "promoted" for gate in last),
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
