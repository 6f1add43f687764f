"""Long load at half the peak rate: memory, failures, completeness of the decision log."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil
import pyarrow.dataset as ds

from benchmarks.serving_faults.background_load import BackgroundLoad
from benchmarks.serving_faults.rig import Rig
from deploy.local.services import BIN
from fraud.errors import DataError
from serve_app.decisions.journal import SUFFIX

WARM_UP_S = 180.0
_SAMPLE_S = 10.0
_ROUND_S = 60.0
_STOP_TIMEOUT_S = 150.0


def measure(rig: Rig, *, rate: float, minutes: float) -> dict[str, Any]:
    """Load for `minutes`, shut Serve down, count the rows of the decision log."""
    decisions = rig.settings.state / f"soak-{int(time.time())}"
    rig.deploy(variables={"FRAUD_DECISIONS": str(decisions)})
    rig.wait_ready(2)
    answered = rig.metric("fraud_requests_total", path="/score", status="200")
    samples: list[dict[str, float]] = []
    load = BackgroundLoad(rig, rate, min(_ROUND_S, minutes * 60 / 3))
    began = time.monotonic()
    load.start()
    try:
        logged_s = 0.0
        while (seconds := time.monotonic() - began) < minutes * 60:
            samples.append({"s": seconds, **_memory(rig)})
            if seconds - logged_s >= 60:
                logged_s = seconds
                rig.log(f"{seconds / 60:.0f} min, {load.requests:,} requests, MiB: {_format(samples[-1])}")
            time.sleep(_SAMPLE_S)
    finally:
        figures = load.stop()
    time.sleep(3)  # replicas publish their counters every second
    answered = rig.metric("fraud_requests_total", path="/score", status="200") - answered
    _stop(rig)
    files = sorted(decisions.glob("date=*/*.parquet"))
    rows = ds.dataset([str(path) for path in files]).count_rows() if files else 0
    journals = [path for path in decisions.parent.glob("decisions/_journal/**/*") if path.suffix == SUFFIX]
    slopes = slope_mib_per_hour(samples, min(WARM_UP_S, minutes * 60 / 3))
    results = {
        "minutes": minutes, "rate": rate, **figures, "samples": samples, "slope_mib_per_hour": slopes,
        "answered_200": int(answered), "decisions": rows, "files": len(files), "journals_left": len(journals),
    }  # fmt: skip
    rig.log(f"{rows:,} decisions of {int(answered):,} answers; MiB/h: {_format(slopes)}; {figures['failed']} failed")
    return results


def slope_mib_per_hour(samples: list[dict[str, float]], warm_up_s: float) -> dict[str, float]:
    """Slope of each part's resident memory after `warm_up_s`, by least squares; MiB per hour."""
    later = [sample for sample in samples if sample["s"] >= warm_up_s]
    if len(later) < 3:
        return {}
    hours = np.array([sample["s"] for sample in later]) / 3600
    names = [name for name in later[0] if name != "s"]
    return {name: float(np.polyfit(hours, [sample[name] for sample in later], 1)[0]) for name in names}


def _memory(rig: Rig) -> dict[str, float]:
    """Resident MiB by part."""
    memory = {}
    for name, group in rig.parts().items():
        memory[name] = 0.0
        for process in group:
            try:
                memory[name] += process.memory_info().rss / 2**20
            except psutil.Error:
                continue
    return memory


def _format(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items() if name != "s")


def _stop(rig: Rig) -> None:
    """Run `serve shutdown` and wait until no replica runs."""
    rig.run([str(BIN / "serve"), "shutdown", "--yes", "--address", rig.stack.url("dashboard")])
    rig.is_plain = False
    began = time.monotonic()
    while rig.replicas():
        if time.monotonic() - began > _STOP_TIMEOUT_S:
            raise DataError(f"replicas still run {_STOP_TIMEOUT_S:.0f} s after `serve shutdown`")
        time.sleep(0.5)
