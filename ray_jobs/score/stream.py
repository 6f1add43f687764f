"""Batch scoring on Ray Data, in row order and bounded memory.

Without history, actors read, check and score pieces of Parquet files. If rows cannot be checked piece by piece (CSV,
ids, times as text), one task reads and actors score. With history, a score depends on earlier rows of the entities, so
ray_jobs.streaming.history_shuffle first adds the features, in parts of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import ray

from fraud.scoring.detector import Detector
from ray_jobs.score.blocks import PIECE, Scorer, Work
from ray_jobs.score.history import JobHistory
from ray_jobs.streaming.checked_blocks import notes_table
from ray_jobs.streaming.checked_stream import blocks_of, checked_rows, cpus_of_a_task, stream_settings
from ray_jobs.streaming.history_shuffle import with_history


def stream(
    path: str,
    work: Work,
    detector: Detector,
    history_partitions: int | None = None,
    history: JobHistory | None = None,
) -> Iterator[pa.Table]:
    """Yield the output of `Scorer` for a data file, in row order. history: if the schema has one.

    Needs a running Ray. A data error becomes a note (`failure`, `text`). Raises DataError if Ray fails.
    """
    with stream_settings(path):
        cpus, actors = cpus_of_a_task()
        schema = detector.schema
        with_features = None
        if schema.history:
            assert history is not None
            rows = checked_rows(path, schema, work.date, cpus, with_others=True)
            with_features = with_history(
                rows,
                schema,
                begin=history.begin,
                leave=history.snapshots if history.leaves_days else None,
                remembered=history.remembered,
                partitions=history_partitions,
                date=work.date,
                cpus=cpus,
            )
            dataset = with_features.dataset
        elif work.pieces:
            order = [{PIECE: i} for i in range(len(work.pieces))]
            dataset = ray.data.from_items(order, override_num_blocks=len(order))
            actors = max(1, min(len(order), int(ray.available_resources().get("CPU", 0.0))))
        else:
            # Different CPUs prevent Ray Data from fusing the two stages, which would leave the scoring to one actor.
            dataset = checked_rows(path, schema, work.date, cpus / 2)
        if history is not None and history.warnings:
            yield notes_table([({"warning": warning}, None) for warning in history.warnings])
        scores = dataset.map_batches(
            Scorer,
            fn_constructor_args=(work,),
            num_cpus=cpus,
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_format="pyarrow",
            batch_size=None,
        )
        yield from blocks_of(scores)
        if with_features is not None and history is not None:
            history.parts = with_features.parts()
