"""Time and memory of both sides, each run in its own process."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from benchmarks.bench_engine import fit_both
from benchmarks.sweep import processes
from fraud.scoring import bundle
from fraud.thresholds.selection import Threshold
from ray_jobs.generate import generate

DAY = "2026-01-31"
SMALL = 50_000
ALWAYS, NEVER = "0", str(10**12)  # of --rows-on-ray
Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A folder with the model and input files; a shorter file is a prefix of a longer one."""

    folder: Path

    @property
    def model(self) -> str:
        """Path of the bundle."""
        return str(self.folder / "bundle")

    def rows(self, n: int) -> str:
        """Path of a file with the first n rows; generates it if missing."""
        path = self.folder / f"rows_{n}.parquet"
        if not path.exists():
            generate(str(path), n)
        return str(path)


def prepare(folder: Path) -> Workload:
    """Fit the model and save its bundle."""
    engine, _, rows = fit_both()
    cut = float(np.quantile(engine.score_frame(rows)["score"], 0.98))
    detector = dataclasses.replace(engine.detector, threshold=Threshold(cut, "alert_budget", {}, {}, {}, (cut, cut)))
    bundle.save(folder / "bundle", detector)
    return Workload(folder)


def score(
    workload: Workload, n: int, name: str, on_ray: str, *more: str, address: str = "", watch: bool = False
) -> dict[str, Any]:
    """Run `ray_jobs.score` on n rows. address: of a running Ray; "" starts one for the job."""
    out = workload.folder / name
    command = ["ray_jobs.score", "--input", workload.rows(n), "--output", str(out), "--date", DAY, "--force"]
    command += ["--model", workload.model, "--rows-on-ray", on_ray, *more]
    environment = {"FRAUD_STATE": str(workload.folder / "state")} | ({"RAY_ADDRESS": address} if address else {})
    ran = processes.run(command, workload.folder / f"{name}.log", environment, watch=watch)
    manifest = json.loads((out / f"date={DAY}" / "_manifest.json").read_text())
    return {"rows": n, "wall_s": ran.seconds, "peak_mib": ran.peak_mib, "counts": manifest["rows"]}


def peer(workload: Workload, n: int) -> dict[str, Any]:
    """Run the baseline on n rows. Adds wall_s: seconds of its process without the fitting."""
    command = ["benchmarks.scoring.peer", "--data", workload.rows(n), "--out", str(workload.folder / "peer.parquet")]
    ran = processes.run(command, workload.folder / "peer.log", {})
    result = json.loads(ran.output.splitlines()[-1])
    return {**result, "wall_s": ran.seconds - result["fit_s"]}


def stages(workload: Workload, address: str) -> dict[str, float]:
    """Seconds of each stage of a job of SMALL rows on Ray."""
    command = ["benchmarks.scoring.stages", "--data", workload.rows(SMALL), "--model", workload.model]
    command += ["--out", str(workload.folder / "stages")]
    ran = processes.run(command, workload.folder / "stages.log", {"RAY_ADDRESS": address} if address else {})
    return json.loads(ran.output.splitlines()[-1])


def difference(workload: Workload, name: str) -> float:
    """Largest absolute difference between our scores and the baseline's."""
    folders = workload.folder / name / f"date={DAY}", workload.folder / "peer.parquet"
    ours, theirs = (ds.dataset(path, format="parquet").to_table(columns=["score"])["score"] for path in folders)
    return float(np.abs(ours.to_numpy() - theirs.to_numpy()).max())


def measure(workload: Workload, rows: int, sample: int, rounds: int, log: Log) -> dict[str, Any]:
    """Measure speed, memory and fixed costs. This process runs the Ray that some of the jobs join."""
    from cluster.session import connected

    results: dict[str, Any] = {
        "rows": rows, "sample": sample, "small": SMALL, "cpus": os.cpu_count(),
        "ours": [], "ours_sample": [], "reasons": [], "cold": [], "usual": [],
        "memory": {}, "small_runs": {}, "stages": {},
    }  # fmt: skip
    for n in (SMALL, sample, rows):
        workload.rows(n)
    with connected():
        import ray

        address = ray.get_runtime_context().gcs_address
        for i in range(rounds):
            results["usual"].append(peer(workload, rows))
            results["ours_sample"].append(score(workload, sample, "sample", ALWAYS, "--no-reasons", address=address))
            results["ours"].append(score(workload, rows, "ours", ALWAYS, "--no-reasons", address=address))
            log(f"round {i + 1}: {results['usual'][-1]['wall_s']:.1f} s for {rows:,} rows with the baseline, "
                 f"{results['ours'][-1]['wall_s']:.1f} s ours")  # fmt: skip
        results["difference"] = difference(workload, "ours")
        results["reasons"].append(score(workload, rows, "reasons", ALWAYS, address=address))
        few = {"in the job's process": (NEVER, ""), "on a Ray that runs": (ALWAYS, address)}
        for name, (on_ray, where) in few.items():
            results["small_runs"][name] = [
                score(workload, SMALL, "few", on_ray, "--no-reasons", address=where)["wall_s"] for _ in range(rounds)
            ]
        results["stages"]["on a Ray that runs"] = stages(workload, address)
    log("small jobs done")
    name = "on a Ray that it starts"
    results["small_runs"][name] = [
        score(workload, SMALL, "few", ALWAYS, "--no-reasons")["wall_s"] for _ in range(rounds)
    ]
    results["stages"][name] = stages(workload, "")
    results["cold"].append(score(workload, rows, "ours", ALWAYS, "--no-reasons"))
    for n in (sample, rows):
        results["memory"][str(n)] = score(workload, n, "ours", ALWAYS, "--no-reasons", watch=True)["peak_mib"]
        log(f"{n:,} rows: at most {results['memory'][str(n)]:,.0f} MiB")
    return results
