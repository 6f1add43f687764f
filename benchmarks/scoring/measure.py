"""What each side of the benchmark takes, measured in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from benchmarks.bench_engine import build
from benchmarks.sweep import processes
from fraud.scoring import bundle
from fraud.thresholds.selection import Threshold
from ray_jobs.generate import generate

DAY = "2026-01-31"
SMALL = 50_000
ALWAYS, NEVER = "0", str(10**12)  # of --rows-on-ray
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Material:
    """A folder with the model and files of rows, each the beginning of the next."""

    folder: Path

    @property
    def model(self) -> str:
        """The bundle."""
        return str(self.folder / "bundle")

    def rows(self, n: int) -> str:
        """A file of the first n rows."""
        path = self.folder / f"rows_{n}.parquet"
        if not path.exists():
            generate(str(path), n)
        return str(path)


def prepare(folder: Path) -> Material:
    """Fit the model of both sides."""
    engine, _, rows = build()
    cut = float(np.quantile(engine.score_frame(rows)["score"], 0.98))
    detector = dataclasses.replace(engine.detector, threshold=Threshold(cut, "alert_budget", {}, {}, {}, (cut, cut)))
    bundle.save(folder / "bundle", detector)
    return Material(folder)


def score(
    material: Material, n: int, name: str, on_ray: str, *more: str, address: str = "", watch: bool = False
) -> dict[str, Any]:
    """Run `ray_jobs.score` on n rows. address: of a Ray that runs; without one the job starts its own."""
    out = material.folder / name
    told = ["ray_jobs.score", "--input", material.rows(n), "--output", str(out), "--date", DAY, "--force"]
    told += ["--model", material.model, "--rows-on-ray", on_ray, *more]
    environment = {"FRAUD_STATE": str(material.folder / "state")} | ({"RAY_ADDRESS": address} if address else {})
    ran = processes.run(told, material.folder / f"{name}.log", environment, watch=watch)
    manifest = json.loads((out / f"date={DAY}" / "_manifest.json").read_text())
    return {"rows": n, "wall_s": ran.seconds, "peak_mib": ran.peak_mib, "counts": manifest["rows"]}


def peer(material: Material, n: int) -> dict[str, Any]:
    """Run the usual way on n rows: rows, seconds of scoring, and wall_s of its whole process but for the fitting."""
    told = ["benchmarks.scoring.peer", "--data", material.rows(n), "--out", str(material.folder / "peer.parquet")]
    ran = processes.run(told, material.folder / "peer.log", {})
    found = json.loads(ran.output.splitlines()[-1])
    return {**found, "wall_s": ran.seconds - found["fit_s"]}


def stages(material: Material, address: str) -> dict[str, float]:
    """Seconds of each stage of a job of few rows on Ray."""
    told = ["benchmarks.scoring.stages", "--data", material.rows(SMALL), "--model", material.model]
    told += ["--out", str(material.folder / "stages")]
    ran = processes.run(told, material.folder / "stages.log", {"RAY_ADDRESS": address} if address else {})
    return json.loads(ran.output.splitlines()[-1])


def difference(material: Material, name: str) -> float:
    """Largest difference of the scores to the usual way's."""
    folders = material.folder / name / f"date={DAY}", material.folder / "peer.parquet"
    ours, theirs = (ds.dataset(path, format="parquet").to_table(columns=["score"])["score"] for path in folders)
    return float(np.abs(ours.to_numpy() - theirs.to_numpy()).max())


def measure(material: Material, rows: int, sample: int, rounds: int, tell: Tell) -> dict[str, Any]:
    """Speed, memory and fixed costs, with a Ray of this process for the jobs that join one."""
    from cluster.session import connected

    found: dict[str, Any] = {
        "rows": rows, "sample": sample, "small": SMALL, "cpus": os.cpu_count(),
        "ours": [], "ours_sample": [], "reasons": [], "cold": [], "usual": [],
        "memory": {}, "small_runs": {}, "stages": {},
    }  # fmt: skip
    for n in (SMALL, sample, rows):
        material.rows(n)
    with connected():
        import ray

        address = ray.get_runtime_context().gcs_address
        for i in range(rounds):
            found["usual"].append(peer(material, rows))
            found["ours_sample"].append(score(material, sample, "sample", ALWAYS, "--no-reasons", address=address))
            found["ours"].append(score(material, rows, "ours", ALWAYS, "--no-reasons", address=address))
            tell(f"round {i + 1}: {found['usual'][-1]['wall_s']:.1f} s for {rows:,} rows the usual way, "
                 f"{found['ours'][-1]['wall_s']:.1f} s ours")  # fmt: skip
        found["difference"] = difference(material, "ours")
        found["reasons"].append(score(material, rows, "reasons", ALWAYS, address=address))
        few = {"in the job's process": (NEVER, ""), "on a Ray that runs": (ALWAYS, address)}
        for name, (on_ray, where) in few.items():
            found["small_runs"][name] = [
                score(material, SMALL, "few", on_ray, "--no-reasons", address=where)["wall_s"] for _ in range(rounds)
            ]
        found["stages"]["on a Ray that runs"] = stages(material, address)
    tell("few rows are done")
    name = "on a Ray that it starts"
    found["small_runs"][name] = [score(material, SMALL, "few", ALWAYS, "--no-reasons")["wall_s"] for _ in range(rounds)]
    found["stages"][name] = stages(material, "")
    found["cold"].append(score(material, rows, "ours", ALWAYS, "--no-reasons"))
    for n in (sample, rows):
        found["memory"][str(n)] = score(material, n, "ours", ALWAYS, "--no-reasons", watch=True)["peak_mib"]
        tell(f"{n:,} rows: at most {found['memory'][str(n)]:,.0f} MiB")
    return found
