"""Join transactions with the labels known by a day, and record what was joined beside the result."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

from fraud.data import filesystems, tables
from fraud.data.partitions import read_json
from fraud.errors import ConfigError
from fraud.labels import join as label_join
from fraud.labels.store import SOURCE, LabelStore
from fraud.schema import Schema

logger = logging.getLogger(__name__)


def record_path(out: str) -> str:
    """The JSON beside a joined Parquet."""
    return f"{out.removesuffix('.parquet')}.labels.json"


def record_of(path: str, fingerprint: str) -> dict[str, Any] | None:
    """What `join` recorded beside `path`; None if nothing, or of data with another fingerprint."""
    content = read_json(*filesystems.of(record_path(path)))
    return content if content.get("output_fingerprint") == fingerprint else None


def join(
    path: str, store: LabelStore, schema: Schema, policy: label_join.Policy, *, out: str, sources: Sequence[str] = (),
    force: bool = False,
) -> tuple[str, label_join.Counts]:  # fmt: skip
    """Write the matured rows with the labels known at `policy.as_of`, and a JSON beside it; return the counts.

    Logs a warning with the reason if no row is a fraud. Raises ConfigError if `out` exists and is not the result of
    an earlier join, unless `force`; ConfigError, DataError and SchemaError as fraud.labels.join.join. `out` then stays
    unchanged.
    """
    if not out.endswith(".parquet"):
        raise ConfigError(f"--out {out!r} must end in .parquet")
    if not force and _exists(out) and not _exists(record_path(out)):
        raise ConfigError(f"--out {out} exists and no join wrote it: name another file, or overwrite it with --force")
    by_source = store.read_by_source(known_until=policy.moment)
    late_sources = set(sources) & set(store.read_by_source()[SOURCE]) - set(by_source[SOURCE])
    if late_sources:
        raise ConfigError(
            f"--sources: every label from {', '.join(sorted(late_sources))} became known after {policy.as_of} began: "
            "give a later --as-of, or --as-of now"
        )
    by_source = label_join.only(by_source, sources)
    counts, source_counts = label_join.join(path, by_source, schema, policy, out)
    document = {
        "output": out,
        "output_fingerprint": tables.fingerprint(out),
        "input": path,
        "schema": schema.name,
        "as_of": policy.as_of.isoformat(),
        "matured_days": policy.matured_days,
        "unlabelled": policy.unlabelled,
        "only_sources": list(sources),
        "rows": dataclasses.asdict(counts),
        "sources": source_counts,
    }
    tables.write_text(json.dumps(document, indent=2) + "\n", record_path(out))
    text = label_join.summary(counts, policy, source_counts)
    labels = store.read()
    n_late, _, day = label_join.late(labels, policy)
    if n_late:
        text += f"  {n_late:,} labels became known after {policy.as_of} began, not used; --as-of {day} uses them\n"
    if not counts.frauds:
        logger.warning("no row is a fraud: %s", label_join.why_no_fraud(labels, counts, policy))
    return f"{text}→ {out}\n", counts


def _exists(path: str) -> bool:
    filesystem, name = filesystems.of(path)
    return bool(filesystem.exists(name))
