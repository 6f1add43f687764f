"""Read past decisions, from a decision log or from files of ray_jobs.score."""

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
_INPUTS, _MODEL = "inputs", "model_name"  # columns of a decision log: the request, and who decided


def location(url: str | None, settings: Settings, environment: Mapping[str, str]) -> str:
    """Where to read decisions: `url` of the command line, else the replicas' decision log."""
    return settings.locate(url) if url else DataStores.from_environment(environment).decisions_url(settings)


def read(
    url: str, schema: Schema, *, only_flagged: bool = False, day: dt.date | None = None, model: str | None = None
) -> pd.DataFrame:
    """Rows with a score. Columns: id (text), day (date), score, is_flagged.

    model: name in the registry; of a decision log that several models share, only its decisions. Scored files do not
    name their model, so give each model's files a folder of its own. only_flagged, day: filters, applied while reading.
    The day is in the schema's day_zone: the decision's in a log, the transaction's in scored files. Of duplicate ids
    (after a retry) the last row is used. Raises ConfigError for a schema without id or, for scored files, timestamp;
    DataError if `url` has no decisions.
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
        is_selected = ds.field("score").is_valid()
        if model is not None and _MODEL in files.schema.names and _INPUTS in files.schema.names:
            is_selected &= ds.field(_MODEL) == model
        if only_flagged:
            is_selected &= ds.field("is_fraud")
        if day is not None:
            kind = files.schema.field(time).type
            first, next_ = (pa.scalar(instant, pa.timestamp("us")).cast(kind)
                            for instant in (zone.start_of(day), zone.end_of(day)))  # fmt: skip
            is_selected &= (ds.field(time) >= first) & (ds.field(time) < next_)
        columns = {"id": named, "day": ds.field(time), "score": ds.field("score"), "is_flagged": ds.field("is_fraud")}
        table = files.to_table(columns=columns, filter=is_selected)
    except (OSError, ValueError, KeyError, ImportError, pa.ArrowException) as error:
        raise DataError(f"{url} holds no decisions of schema {schema.name!r} ({error})") from None
    frame = table.set_column(1, "day", pa.array(zone.day_of(table["day"].to_numpy()), pa.date32())).to_pandas()
    return frame.drop_duplicates("id", keep="last").reset_index(drop=True)
