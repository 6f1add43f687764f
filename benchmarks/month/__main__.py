"""Thirty simulated days through the real commands: scoring, late labels, monitoring, retraining, gate; one picture.

    python -m benchmarks.month                       # three months with different seeds, two at a time; minutes
    python -m benchmarks.month --seeds 1 --rows 600  # one, smaller
    python -m benchmarks.month --small               # smoke test: 13 days of few rows

Exits with 1 if a month fails a criterion (benchmarks/month/criteria.py). The picture shows the first seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from benchmarks.month import picture
from benchmarks.month.replay import CONFIG, Plan, month
from benchmarks.month.world import World
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.settings import Settings

SMALL = Plan(
    world=World(rows=300, days=13, before=35, drift_day=4),
    retrain=(13,), bad=(13,), train_days=14, validate_days=1, judge_days=1, warm_up=9, gate=("--min-frauds", "5"),
    config=replace(CONFIG, forest=ForestConfig(n_estimators=20), autoencoder=AutoencoderConfig(epochs=2)),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.month", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="one month per seed (default: 1 2 3)")
    parser.add_argument("--rows", type=int, default=1200, help="transactions per day (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="smoke test: 13 days of few rows, one seed")
    parser.add_argument("--out", default="benchmarks/results/month.json", help="(default: %(default)s)")
    parser.add_argument("--picture", default="docs/images/month.png", help="(default: %(default)s)")
    parser.add_argument("--redraw", action="store_true", help="only redraw the picture from --out")
    arguments = parser.parse_args(argv)
    settings = Settings.from_environment()
    out, image = Path(settings.locate(arguments.out)), Path(settings.locate(arguments.picture))
    if arguments.redraw:
        document = json.loads(out.read_text())
        picture.draw(document["months"][0], document["world"]["drift_day"], image)
        return 0
    plan = SMALL if arguments.small else Plan(world=World(rows=arguments.rows))
    seeds = arguments.seeds[:1] if arguments.small else arguments.seeds
    began = time.monotonic()
    # One process per month: each sets its own environment variables.
    with ProcessPoolExecutor(min(2, len(seeds)), mp_context=multiprocessing.get_context("spawn")) as pool:
        months = list(pool.map(partial(month, plan=plan), seeds))
    seconds = round(time.monotonic() - began, 1)
    document = {"world": asdict(plan.world), "seconds": seconds, "months": months}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    picture.draw(months[0], plan.world.drift_day, image)
    for one in months:
        judged = one["judged"]
        sys.stdout.write(
            f"seed {one['seed']}: alarm on day {judged['alarm_day']}, {len(judged['false_alarms'])} false alarms, "
            f"{judged['covered']:.0%} of days covered\n"
        )
        for name, holds in judged["demands"].items():
            sys.stdout.write(f"  {'yes' if holds else 'NO '}  {name}\n")
    sys.stdout.write(f"{seconds:.0f} s → {out}, {image}\n")
    return 0 if all(holds for one in months for holds in one["judged"]["demands"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
