"""Time per stage of one scoring job on Ray: `python -m benchmarks.scoring.stages --data FILE --model BUNDLE`.

Runs the steps of `ray_jobs.score` and prints their seconds as JSON. Joins the Ray at RAY_ADDRESS if set.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

STAGES = {
    "import": "import the job",
    "model": "load the model, fingerprint the file, find its pieces",
    "ray": "import Ray and start or join it",
    "first": "set up the data set, start actors, first piece",
    "stream": "the other pieces",
    "write": "write and publish",
    "stop": "leave or stop Ray",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Parquet file")
    parser.add_argument("--model", required=True, help="bundle folder")
    parser.add_argument("--out", required=True, help="output folder")
    arguments = parser.parse_args(argv)
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage], last = now - last, now

    import datetime as dt

    from cluster.session import connected
    from fraud.data import tables
    from fraud.scoring import bundle
    from fraud.settings import Settings
    from ray_jobs.score.blocks import Model, Work
    from ray_jobs.score.output import Job
    from ray_jobs.score.partitions import Days
    from ray_jobs.score.source import pieces_of

    mark("import")
    day = dt.date(2026, 1, 31)
    loaded = bundle.load(Path(arguments.model))
    tables.fingerprint(arguments.data)
    pieces, total = pieces_of(arguments.data, loaded.detector.schema)
    model = Model(
        folder=arguments.model, sha256=loaded.sha256, version="1", number=None, settings=Settings.from_environment()
    )
    work = Work(model=model, reasons=False, date=day, in_parts=True, pieces=pieces)
    mark("model")
    with connected():
        mark("ray")
        from ray_jobs.score.stream import stream

        blocks = stream(arguments.data, work, loaded.detector)
        scored_blocks = [next(blocks)]
        mark("first")
        scored_blocks += blocks
        mark("stream")
        job = Job(data=arguments.data, out=arguments.out, date=day, model=arguments.model)
        Days(job, {"date": str(day)}).write(iter(scored_blocks), total, {}, time.monotonic())
        mark("write")
    mark("stop")
    print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
