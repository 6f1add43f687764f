"""Store of labels that arrive after their transactions: verdicts and chargebacks. The newest label of an id counts.

Each ingestion is one Parquet file below the store's URL. Its name derives from the content, so ingesting a file again
has no effect. A retraction is an entry without a label: from the time it is known, the id has no label again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from fraud.data import filesystems, tables
from fraud.data.files import pieces
from fraud.data.spreadsheets import unescape
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.schema.columns import Column
from fraud.schema.contract import Schema
from fraud.schema.validation import Validator
from fraud.settings import Settings
from fraud.settings.locations import DataStores

ID, IS_FRAUD, KNOWN_AT, SOURCE = COLUMNS = ("id", "is_fraud", "known_at", "source")
INGESTED_AT = "ingested_at"
REASON, BY = "reason", "by"  # of a retraction
_ENTRY = {*COLUMNS, INGESTED_AT}
_IS_RETRACTION = "is_retraction"
RETRACTION = "retraction"  # retractions' files are named after it; no source may be
REVIEW = "review"  # source of verdicts on randomly drawn rows, the only unbiased sample


@dataclass(frozen=True)
class Added:
    """Effect of an ingestion, in ids. new: no label before; changed: label differs now; same: kept their label.

    retracted: without effect, because a later retraction covers the label.
    """

    new: int
    changed: int
    same: int
    retracted: int = 0


@dataclass(frozen=True)
class Retracted:
    """Effect of a retraction, in ids. later: still labelled, because the label became known after the retraction."""

    retracted: int
    without_label: int
    later: int


@dataclass(frozen=True)
class LabelStore:
    """The labels below `url`, a folder or any fsspec URL."""

    url: str

    @classmethod
    def from_environment(cls, settings: Settings, environment: Mapping[str, str]) -> LabelStore:
        """The store that FRAUD_LABELS names (default: `labels` below FRAUD_STATE)."""
        return cls(DataStores.from_environment(environment).labels_url(settings))

    def has(self, name: str) -> bool:
        """Whether an ingestion of this name exists."""
        filesystem, path = filesystems.of(self._file(name))
        return bool(filesystem.exists(path))

    def add(self, labels: pd.DataFrame, name: str, *, ingested_at: dt.datetime) -> Added:
        """Store labels, columns `COLUMNS`, as ingestion `name`; replaces one of that name. Raises DataError."""
        ingestions = self._files()
        before = newest(_concatenated(ingestions.values())).set_index(ID)[IS_FRAUD]
        frame = labels[list(COLUMNS)].assign(**{INGESTED_AT: _microseconds(ingested_at)})
        tables.write_parquet(frame, self._file(name))
        ingestions[name] = frame.assign(**{_IS_RETRACTION: False})
        after = newest(_concatenated(ingestions.values())).set_index(ID)[IS_FRAUD]
        touched = labels[ID].drop_duplicates()
        labelled = touched[touched.isin(after.index)]
        known = labelled[labelled.isin(before.index)]
        changed = int((before.loc[known].to_numpy() != after.loc[known].to_numpy()).sum())
        return Added(
            new=len(labelled) - len(known), changed=changed, same=len(known) - changed,
            retracted=len(touched) - len(labelled),
        )  # fmt: skip

    def retract(
        self, ids: Sequence[str], *, source: str, known_at: dt.datetime, now: dt.datetime, by: str, reason: str
    ) -> Retracted:
        """Make ids unlabelled from `known_at` on. Ids without a label are counted and skipped, so twice is as once.

        Raises DataError.
        """
        requested = pd.Series(list(dict.fromkeys(ids)), dtype="str")
        entries, at = _concatenated(self._files().values()), _microseconds(known_at)
        standing = newest(entries)
        later = requested.isin(standing.loc[standing[KNOWN_AT] > at, ID])
        chosen = requested[requested.isin(newest(entries[entries[KNOWN_AT] <= at])[ID])]
        if len(chosen):
            frame = pd.DataFrame({ID: chosen, IS_FRAUD: pd.Series(None, index=chosen.index, dtype="boolean")})
            frame = frame.assign(**{KNOWN_AT: at, SOURCE: source, REASON: reason, BY: by})
            frame[INGESTED_AT] = _microseconds(now)
            digest = hashlib.sha256(json.dumps([sorted(chosen), str(at), source, by, reason]).encode())
            tables.write_parquet(frame, self._file(f"{RETRACTION}-{digest.hexdigest()[:32]}"))
        n_later, n_retracted = int(later.sum()), int((~later[chosen.index]).sum())
        return Retracted(n_retracted, len(requested) - n_retracted - n_later, n_later)

    def retractions(self) -> pd.DataFrame:
        """All retractions, oldest first: id, known_at, source, reason, by. Raises DataError."""
        filesystem, pattern = filesystems.of(self._file(f"{RETRACTION}-*"))
        columns = [ID, KNOWN_AT, SOURCE, REASON, BY]
        frames = [tables.read(filesystem.unstrip_protocol(path))[columns] for path in filesystem.glob(pattern)]
        if not frames:
            return pd.DataFrame(columns=columns)
        return pd.concat(frames, ignore_index=True).sort_values(KNOWN_AT, kind="stable").reset_index(drop=True)

    def read(self, *, known_until: dt.datetime | None = None) -> pd.DataFrame:
        """The newest label of every id, columns `COLUMNS`; known_until: only labels known at that time (UTC).

        If two became known at the same time, the one ingested later counts. Raises DataError.
        """
        return newest(self.read_by_source(known_until=known_until))

    def read_by_source(self, *, known_until: dt.datetime | None = None) -> pd.DataFrame:
        """The newest label of every id and source, sorted so that the last one counts. Otherwise as `read`."""
        labels = _concatenated(self._files().values())
        if known_until is not None:
            labels = labels[labels[KNOWN_AT] <= _microseconds(known_until)]
        return _standing(labels).drop_duplicates([ID, SOURCE], keep="last")[list(COLUMNS)].reset_index(drop=True)

    def ledger(self) -> pd.DataFrame:
        """Every label ever ingested, columns `COLUMNS`, sorted so that the last one counts. Raises DataError.

        A retraction is a row with is_fraud False: for the entity history, it ends a fraud.
        """
        labels = _concatenated(self._files().values()).sort_values([KNOWN_AT, INGESTED_AT], kind="stable")
        return labels[list(COLUMNS)].reset_index(drop=True)

    def _files(self) -> dict[str, pd.DataFrame]:
        """All ingestions by name, as `read_ingestion`, with the column _IS_RETRACTION."""
        filesystem, folder = filesystems.of(self.url)
        paths = sorted(filesystem.glob(f"{folder}/*.parquet")) if filesystem.exists(folder) else []
        return {PurePosixPath(path).stem: _entries(filesystem.unstrip_protocol(path)) for path in paths}

    def listing(self) -> dict[str, str]:
        """All ingestions by name, each with a stamp that changes with its file. Raises ObjectStoreError."""
        filesystem, folder = filesystems.of(self.url)
        filesystem.invalidate_cache()
        if not filesystem.exists(folder):
            return {}
        versions = {}
        for info in filesystem.ls(folder, detail=True):
            path = PurePosixPath(info["name"])
            if path.suffix == ".parquet" and info.get("type") == "file":
                stamp = next((info[key] for key in ("ETag", "mtime", "created") if key in info), "")
                versions[path.stem] = f"{info.get('size')} {stamp}"
        return versions

    def read_ingestion(self, name: str) -> pd.DataFrame:
        """One ingestion: `COLUMNS` and INGESTED_AT; is_fraud is False in a retraction. Raises DataError."""
        return _entries(self._file(name))[[*COLUMNS, INGESTED_AT]]

    def draw(self, decided: pd.DataFrame, day: dt.date, rows: int, *, flagged: int = 0, seed: int = 7) -> pd.DataFrame:
        """Draw a random sample of a day's rows for a reviewer to label (source `REVIEW`), and save it.

        decided: all rows of the day, from fraud.scoring.decided.read. rows: sample size. flagged: number of additional
        flagged rows. A day is drawn once; a second call returns the same rows.
        Returns id, day, score, is_flagged, and the day's numbers of rows and unflagged rows: n_rows, n_unflagged.
        Raises DataError for a day without rows.
        """
        path = self._drawn(f"{day}")
        filesystem, target = filesystems.of(path)
        if filesystem.exists(target):
            return tables.read(path)
        if not len(decided):
            raise DataError(f"no decided row on {day}: nothing to draw from")
        rng = np.random.default_rng([seed, day.toordinal()])
        in_order = decided.sort_values("id").reset_index(drop=True)  # the draw must not depend on the files' order
        picked = np.sort(rng.choice(len(in_order), min(rows, len(in_order)), replace=False))
        others = np.setdiff1d(np.flatnonzero(in_order["is_flagged"].to_numpy(dtype=bool)), picked)
        picked = np.union1d(picked, rng.choice(others, min(flagged, len(others)), replace=False))
        counts = {"n_rows": len(decided), "n_unflagged": int((~decided["is_flagged"].astype(bool)).sum())}
        drawn = in_order.iloc[picked].assign(day=pd.Timestamp(day), **counts).reset_index(drop=True)
        tables.write_parquet(drawn, path)
        return drawn

    def drawn(self) -> pd.DataFrame:
        """All drawn rows; empty, without columns, if nothing was drawn."""
        filesystem, folder = filesystems.of(self._drawn("*"))
        files = sorted(filesystem.glob(folder))
        if not files:
            return pd.DataFrame()
        return pd.concat([tables.read(filesystem.unstrip_protocol(path)) for path in files], ignore_index=True)

    def _drawn(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/drawn/{name}.parquet"

    def _file(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}.parquet"


def id_of(schema: Schema) -> str:
    """Name of the schema's id column. Raises ConfigError if there is none."""
    if schema.id is None:
        raise ConfigError(f"schema {schema.name!r} has no id column, so no label matches its rows: add one (kind: id)")
    return schema.id.name


def newest(labels: pd.DataFrame) -> pd.DataFrame:
    """The newest label of every id: the last one known; at equal times, the last one ingested.

    labels: from `LabelStore.read_by_source`, or all entries, with the column INGESTED_AT. Returns `COLUMNS`.
    """
    if INGESTED_AT in labels:
        labels = _standing(labels)
    return labels.drop_duplicates(ID, keep="last")[list(COLUMNS)].reset_index(drop=True)


def check(
    path: str, schema: Schema, *, source: str, known_at: dt.datetime | None, now: dt.datetime
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Read labels from CSV or Parquet in chunks. Yields (labels with columns `COLUMNS`, rows for quarantine).

    The file's columns are the schema's id and label, or "id" and "is_fraud". A missing "known_at" becomes `known_at`,
    or `now` (UTC). Rows without id or label and rows from the future go to quarantine. Raises ConfigError for a schema
    without an id, DataError and SchemaError as fraud.data.tables.iter_checked.
    """
    named = id_of(schema)
    theirs = {named: ID, **({schema.label.name: IS_FRAUD} if schema.label else {})}
    validator, total = Validator(_SCHEMA), 0
    for name, frame in pieces(path, tables.CHUNK_ROWS, (named, ID)):
        table = frame.rename(columns={old: new for old, new in theirs.items() if new not in frame})
        if ID in table and not name.endswith((".parquet", ".pq")):
            table[ID] = table[ID].map(unescape)  # undo the spreadsheet escaping of a drawn sheet
        if KNOWN_AT not in table:
            table[KNOWN_AT] = None
        try:
            checked = validator.check(table, first_row=total)
        except SchemaError as error:
            raise SchemaError(f"{name}: {error}") from None
        total += len(frame)
        moments = checked.rows[KNOWN_AT].fillna(_microseconds(known_at or now))
        is_past = moments <= _microseconds(now)
        labels = {ID: checked.rows[ID], IS_FRAUD: checked.rows[IS_FRAUD] == 1, KNOWN_AT: moments, SOURCE: source}
        yield pd.DataFrame(labels)[is_past], pd.concat([checked.quarantine, _future(checked.rows[~is_past])])


def _future(rows: pd.DataFrame) -> pd.DataFrame:
    problem = {"column": KNOWN_AT, "value": rows[KNOWN_AT].astype("str"), "reason": "is in the future; times are UTC"}
    return pd.DataFrame({"row": rows.index, **problem, f"raw_{ID}": rows[ID], f"raw_{KNOWN_AT}": problem["value"]})


# An id may occur twice: a later verdict corrects an earlier one.
_SCHEMA = Schema(
    name="labels",
    columns=(
        Column(name=ID, kind="entity"),
        Column(name=IS_FRAUD, kind="boolean"),
        Column(name=KNOWN_AT, kind="timestamp", nullable=True, oldest="1900-01-01", horizon_days=36_500),
    ),
)


def _entries(path: str) -> pd.DataFrame:
    """The entries of one file, columns `_ENTRY` and _IS_RETRACTION. Raises DataError for another file."""
    entries = tables.read(path)
    if not _ENTRY <= set(entries.columns) <= {*_ENTRY, REASON, BY}:
        raise DataError(f"{path} is a Parquet file without labels: remove it")
    is_retraction = entries[IS_FRAUD].isna()
    is_fraud = entries[IS_FRAUD].eq(True).fillna(False).astype(bool)
    return entries[[*COLUMNS, INGESTED_AT]].assign(**{IS_FRAUD: is_fraud, _IS_RETRACTION: is_retraction})


def _standing(entries: pd.DataFrame) -> pd.DataFrame:
    """The labels in the order in which they count, without retractions and the labels that these end."""
    in_order = entries.sort_values([KNOWN_AT, INGESTED_AT], kind="stable").reset_index(drop=True)
    if not in_order[_IS_RETRACTION].any():
        return in_order
    position = pd.Series(in_order.index[in_order[_IS_RETRACTION]], index=in_order.loc[in_order[_IS_RETRACTION], ID])
    last = position[~position.index.duplicated(keep="last")]
    return in_order[in_order.index.to_numpy() > in_order[ID].map(last).fillna(-1).to_numpy()]


def _concatenated(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    kinds = {ID: "str", IS_FRAUD: "bool", KNOWN_AT: "datetime64[us]", SOURCE: "str", INGESTED_AT: "datetime64[us]"}
    kinds[_IS_RETRACTION] = "bool"
    parts = list(frames)
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    return pd.concat(parts, ignore_index=True)


def _microseconds(moment: dt.datetime) -> np.datetime64:
    """Naive UTC, as in canonical rows."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")
