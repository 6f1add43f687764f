"""Where the time of one scoring job on Ray goes: `python -m benchmarks.scoring.stages --data FILE --model BUNDLE`.

The steps of `ray_jobs.score`, one after the other; prints seconds as JSON. With RAY_ADDRESS it joins that Ray.
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
    parser.add_argument("--out", required=True, help="folder for a day")
    given = parser.parse_args(argv)
    found: dict[str, float] = {}
    last = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        found[stage], last = now - last, now

    import datetime as dt

    from cluster.session import connected
    from fraud.data import tables
    from fraud.scoring import bundle
    from fraud.settings import Settings
    from ray_jobs.score.blocks import Model, Work
    from ray_jobs.score.output import Job
    from ray_jobs.score.partitions import DayFolders
    from ray_jobs.score.source import pieces_of

    mark("import")
    day = dt.date(2026, 1, 31)
    loaded = bundle.load(Path(given.model))
    tables.fingerprint(given.data)
    pieces, total = pieces_of(given.data, loaded.detector.schema)
    model = Model(
        folder=given.model, sha256=loaded.sha256, version="1", number=None, settings=Settings.from_environment()
    )
    work = Work(model=model, reasons=False, date=day, in_parts=True, pieces=pieces)
    mark("model")
    with connected():
        mark("ray")
        from ray_jobs.score.stream import stream

        blocks = stream(given.data, work, loaded.detector)
        kept = [next(blocks)]
        mark("first")
        kept += blocks
        mark("stream")
        job = Job(data=given.data, out=given.out, date=day, model=given.model)
        DayFolders(job, {"date": str(day)}).write(iter(kept), total, {}, time.monotonic())
        mark("write")
    mark("stop")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
