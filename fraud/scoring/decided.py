"""Read past decisions, from a decision log or from files of ray_jobs.score."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from fraud.data import partitions
from fraud.data.files import find
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

    def table(files: Any) -> pa.Table:
        if _INPUTS in files.schema.names:
            time = "time"
        elif schema.timestamp is None:
            raise ConfigError(f"schema {schema.name!r} has no timestamp, so scored files have no days")
        else:
            time = name_of(schema.timestamp.name)
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
        columns = {"id": _id_in(files, row_id), "day": ds.field(time)}
        columns |= {"score": ds.field("score"), "is_flagged": ds.field("is_fraud")}
        return files.to_table(columns=columns, filter=is_selected)

    with _reading(url, schema):
        decisions = partitions.relisting(lambda: pa.concat_tables(map(table, _datasets(url, row_id, day))))
    frame = decisions.set_column(1, "day", pa.array(zone.day_of(decisions["day"].to_numpy()), pa.date32())).to_pandas()
    return frame.drop_duplicates("id", keep="last").reset_index(drop=True)


def known_ids(url: str, schema: Schema, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that have a decision, in bounded memory. Raises DataError if `url` has no decisions."""
    requested = pa.array(list(ids), pa.string())

    def known() -> set[str]:
        known_ones: set[str] = set()
        for files in _datasets(url, id_of(schema)):
            named = _id_in(files, id_of(schema))
            for batch in files.scanner(columns={"id": named}, filter=named.isin(requested)).to_batches():
                known_ones.update(batch["id"].to_pylist())
        return known_ones

    with _reading(url, schema):
        return partitions.relisting(known)


def _datasets(url: str, row_id: str, day: dt.date | None = None) -> list[Any]:
    """The files that count and have the id; with `day`, those that may have rows of it, or else any. Never empty.

    Files whose inputs differ, as those of two models, are datasets of their own. Raises DataError if none has the id.
    """
    filesystem, paths = find(url)
    paths = [path for path in paths if path.endswith(".parquet")]
    if not paths:
        raise DataError("no Parquet file")
    fragments = list(ds.dataset(paths, filesystem=filesystem).get_fragments())
    of_day = [fragment for fragment in fragments if day is None or _may_hold(fragment.path, day)]
    groups: dict[str, list[Any]] = {}
    for number, fragment in enumerate([*of_day, *fragments]):
        if groups and number >= len(of_day):
            break
        inputs = _inputs_of(fragment.physical_schema, row_id)
        if inputs is not None:
            groups.setdefault(inputs, []).append(fragment)
    if not groups:
        raise DataError(f"no file has the id {row_id!r}")
    return [
        ds.FileSystemDataset(files, files[0].physical_schema, ds.ParquetFileFormat(), files[0].filesystem)
        for files in groups.values()
    ]


def _inputs_of(columns: pa.Schema, row_id: str) -> str | None:
    """The inputs of a file of decisions, "" of a scored file; None if it has no id."""
    if _INPUTS not in columns.names:
        return "" if name_of(row_id) in columns.names else None
    inputs = columns.field(_INPUTS).type
    return str(inputs) if inputs.get_field_index(row_id) >= 0 else None


def _may_hold(path: str, day: dt.date) -> bool:
    """Whether a file may have rows of a day, by the day of its folder, which may be of another time zone."""
    of_folder = partitions.day_of(path)
    return of_folder is None or abs(of_folder - day) <= dt.timedelta(days=1)


def _id_in(files: Any, row_id: str) -> Any:
    """The id as text, as an expression: in a decision log it is among the inputs."""
    named = ds.field(_INPUTS, row_id) if _INPUTS in files.schema.names else ds.field(name_of(row_id))
    return named.cast(pa.string())


@contextmanager
def _reading(url: str, schema: Schema) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, DataError, pa.ArrowException) as error:
        raise DataError(f"{url} holds no decisions of schema {schema.name!r} ({error})") from None
