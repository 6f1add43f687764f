"""A data file as a Ray Dataset of checked rows, read by one task in row order and bounded memory.

Blocks are those of `ray_jobs.streaming.checked_blocks`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import ray

from fraud.errors import DataError
from fraud.schema import Schema
from ray_jobs.streaming.checked_blocks import checked_tables

logger = logging.getLogger(__name__)

# Small enough to divide a million rows between actors, large enough that the fixed cost per block does not matter.
BLOCK_BYTES = 8 * 2**20
_BUSY = 0.5  # with fewer free CPUs than this we do not wait for one


def cpus_of_a_task() -> tuple[float, int]:
    """CPUs to request per task (0, with a warning, if none is free), and the number of actors that fit beside it."""
    free = ray.available_resources().get("CPU", 0.0)
    if free < 1.0 + _BUSY:
        logger.warning("the cluster has %.1f free CPUs: this job shares them with other work", free)
    return (1.0 if free >= 1.0 + _BUSY else 0.0), max(1, int(free - _BUSY))


def checked_rows(
    path: str, schema: Schema, date: dt.date | None, cpus: float, *, with_others: bool = False
) -> ray.data.Dataset:
    """A dataset of `checked_tables`. cpus: of the reading task.

    A data error becomes a note (`failure`, `text`), since an exception would fill pages of Ray's log.
    """
    source = ray.data.from_items([{"path": path}])
    work = (schema, date, with_others)
    return source.map_batches(_read, fn_args=work, num_cpus=cpus, batch_format="pyarrow", batch_size=None)


def blocks_of(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """Yield the blocks of a dataset in order."""
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


@contextmanager
def stream_settings(path: str) -> Iterator[None]:
    """Ray Data's settings for a stream of `path`, in row order. Raises DataError if Ray fails.

    A dataset keeps the settings from its creation.
    """
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    before = (options.preserve_order, context.enable_progress_bars, context.target_max_block_size)
    options.preserve_order, context.enable_progress_bars, context.target_max_block_size = True, False, BLOCK_BYTES
    chatter = logging.getLogger("ray.data")
    level = chatter.level
    chatter.setLevel(logging.WARNING)
    try:
        yield
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise DataError(f"the work on {path} failed on Ray: {last}; see the log above") from error
    finally:
        chatter.setLevel(level)
        options.preserve_order, context.enable_progress_bars, context.target_max_block_size = before


def _read(block: pa.Table, schema: Schema, date: dt.date | None, with_others: bool) -> Iterator[pa.Table]:
    yield from checked_tables(block["path"][0].as_py(), schema, date, with_others=with_others)
