"""What was decided on live rows, for those who judge it later: a decision log, or files that ray_jobs.score wrote."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from fraud.data import filesystems
from fraud.data.partitions import published
from fraud.errors import ConfigError, DataError
from fraud.labels.store import id_of
from fraud.schema.contract import Schema
from fraud.schema.zone import zone_of
from fraud.scoring.scored import name_of
from fraud.settings import Settings
from fraud.settings.locations import DataStores

COLUMNS = ("id", "day", "score", "is_flagged")
_INPUTS = "inputs"  # the column of a decision log with what was asked


def location(given: str | None, settings: Settings, environment: Mapping[str, str]) -> str:
    """Where to read: what a command was given, else where replicas write their decision log."""
    return settings.locate(given) if given else DataStores.from_environment(environment).decisions_url(settings)


def read(url: str, schema: Schema, *, only_flagged: bool = False, day: dt.date | None = None) -> pd.DataFrame:
    """Decided rows, the columns `COLUMNS`: id (text), day (date), score, is_flagged; none without a score.

    only_flagged, day: which rows; the others are not read into memory. The day, in the schema's day_zone, is that of
    the decision in a log, of the transaction in scored files. Of an id that was decided twice, as after a retry, the
    last counts. Raises ConfigError for a schema without id or, for scored files, timestamp; DataError where `url` is
    neither.
    """
    row_id, zone = id_of(schema), zone_of(schema)
    try:
        filesystem, root = filesystems.of(url)
        files = ds.dataset(root, filesystem=filesystem, format="parquet", exclude_invalid_files=True)
        counting = published(filesystem, files.files)
        if len(counting) < len(files.files):
            files = ds.dataset(counting, schema=files.schema, filesystem=filesystem, format="parquet")
        if _INPUTS in files.schema.names:
            named, time = ds.field(_INPUTS, row_id), "time"
        elif schema.timestamp is None:
            raise ConfigError(f"schema {schema.name!r} has no timestamp, so scored files have no days")
        else:
            named, time = ds.field(name_of(row_id)), name_of(schema.timestamp.name)
        wanted = ds.field("score").is_valid()
        if only_flagged:
            wanted &= ds.field("is_fraud")
        if day is not None:
            kind = files.schema.field(time).type
            first, next_ = (pa.scalar(instant, pa.timestamp("us")).cast(kind)
                            for instant in (zone.start_of(day), zone.end_of(day)))  # fmt: skip
            wanted &= (ds.field(time) >= first) & (ds.field(time) < next_)
        columns = {"id": named, "day": ds.field(time), "score": ds.field("score"), "is_flagged": ds.field("is_fraud")}
        table = files.to_table(columns=columns, filter=wanted)
    except (OSError, ValueError, KeyError, ImportError, pa.ArrowException) as error:
        raise DataError(f"{url} holds no decisions of schema {schema.name!r} ({error})") from None
    found = table.set_column(1, "day", pa.array(zone.day_of(table["day"].to_numpy()), pa.date32())).to_pandas()
    return found.drop_duplicates("id", keep="last").reset_index(drop=True)
