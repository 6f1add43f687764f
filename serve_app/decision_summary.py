"""Summarises the decision log: decisions by model and version, and champion against challenger.

python -m serve_app.decision_summary
python -m serve_app.decision_summary s3://bucket/decisions --since 2026-01-31
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fraud.cli import examples, run_command
from fraud.counts import counted
from fraud.data import filesystems, partitions
from fraud.days import UTC, Zone
from fraud.errors import DataError
from fraud.settings import Settings
from fraud.settings.locations import DataStores

_COLUMNS = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")), ("model_name", pa.string()), ("version", pa.string()),
        ("role", pa.string()), ("is_fraud", pa.bool_()), ("fallback", pa.string()), ("shadow_version", pa.string()),
        ("shadow_is_fraud", pa.bool_()), ("shadow_outcome", pa.string()),
    ]
)  # fmt: skip


def read(url: str, since: dt.date | None = None, zone: Zone = UTC) -> pa.Table:
    """Load the decisions under a folder or URL, without inputs and reasons. since: first day, in `zone`.

    Raises DataError if there is none or the log cannot be read.
    """
    condition = None
    if since is not None:
        condition = ds.field("time") >= pa.scalar(zone.start_of(since), _COLUMNS.field("time").type)

    def decisions() -> pa.Table:
        filesystem, root = filesystems.of(url)
        listed = ds.dataset(root, filesystem=filesystem, format="parquet", schema=_COLUMNS).files
        counting = partitions.counted(filesystem, listed)
        return ds.dataset(counting, filesystem=filesystem, format="parquet", schema=_COLUMNS).to_table(filter=condition)

    try:
        table = partitions.relisting(decisions)
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise DataError(
            f"{url} cannot be read as a decision log ({error}); name the folder of FRAUD_DECISIONS"
        ) from None
    if not len(table):
        when = f" since {since}" if since else ""
        raise DataError(f"{url} holds no decision{when} yet; files appear up to a minute after the decisions")
    return table


def summary(table: pa.Table) -> str:
    """Format decisions, flags and fallbacks by model, version and role, and the agreement with each challenger."""
    span = pc.min_max(table["time"]).as_py()
    lines = [f"{counted(len(table), 'decision')}, {span['min']:%Y-%m-%d %H:%M} to {span['max']:%Y-%m-%d %H:%M} UTC", ""]
    width = 2 + max(len("model"), *map(len, pc.unique(table["model_name"].drop_null()).to_pylist()))
    lines.append(
        f"{'model':<{width}}{'version':<12}{'role':<10}{'decisions':>12}{'flagged':>10}{'share':>9}{'fallback':>10}"
    )
    groups = table.group_by(["model_name", "version", "role"]).aggregate(
        [("is_fraud", "sum"), ("fallback", "count"), ("time", "count")]
    )
    by_model = [("model_name", "ascending"), ("version", "ascending")]
    for row in groups.sort_by([*by_model, ("role", "ascending")]).to_pylist():
        n, flagged, fallback = row["time_count"], row["is_fraud_sum"] or 0, row["fallback_count"]
        share = flagged / max(1, n - fallback)
        model = f"{row['model_name'] or '-':<{width}}"
        lines.append(f"{model}{row['version']:<12}{row['role']:<10}{n:>12,}{flagged:>10,}{share:>9.2%}{fallback:>10,}")
    pairs = table.filter(pc.and_(pc.is_valid(table["shadow_version"]), pc.is_valid(table["shadow_outcome"])))
    together = ("model_name", "version", "shadow_version")
    groups = pairs.group_by(together).aggregate([("time", "count")])
    for row in groups.sort_by([(name, "ascending") for name in together]).to_pylist():
        here = pairs
        for name in together:
            here = here.filter(pc.equal(here[name], row[name]))
        model = f"{row['model_name']}: " if len(pc.unique(table["model_name"])) > 1 else ""
        lines += ["", *_compared(here, f"{model}champion {row['version']}", row["shadow_version"])]
    return "\n".join(lines) + "\n"


def _compared(pairs: pa.Table, champion: str, challenger: str) -> list[str]:
    outcomes = {row["values"]: row["counts"] for row in pc.value_counts(pairs["shadow_outcome"]).to_pylist()}
    scored = pairs.filter(pc.equal(pairs["shadow_outcome"], "scored"))
    first, second = scored["is_fraud"], scored["shadow_is_fraud"]

    def count(by_champion: bool, by_challenger: bool) -> int:
        return pc.sum(pc.and_(pc.equal(first, by_champion), pc.equal(second, by_challenger))).as_py() or 0

    missing = ", ".join(f"{outcomes.get(name, 0):,} {name}" for name in ("shed", "late", "failed"))
    return [
        f"{champion} beside challenger {challenger}: {len(scored):,} pairs ({missing})",
        f"  both flag {count(True, True):,}, neither {count(False, False):,}, "
        f"only the champion {count(True, False):,}, only the challenger {count(False, True):,}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary of a decision log. Raises DataError or ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.decision_summary",
        description="Count the decisions of a decision log by model and version, and compare champion and challenger.",
        **examples("python -m serve_app.decision_summary --since 2026-01-31"),
    )
    parser.add_argument("folder", nargs="?", help="folder or URL of the log (default: FRAUD_DECISIONS)")
    parser.add_argument(
        "--since",
        metavar="DATE",
        help="only decisions from this day on (in FRAUD_DAY_ZONE, UTC by default), e.g. 2026-01-31",
    )
    arguments = parser.parse_args(argv)
    since = partitions.day_named(arguments.since, "--since") if arguments.since else None
    settings = Settings.from_environment()
    folder = arguments.folder or DataStores.from_environment(os.environ).decisions_url(settings)
    table = read(settings.locate(folder), since, Zone(settings.day_zone or UTC.name))
    sys.stdout.write(summary(table))
    return 0


if __name__ == "__main__":
    run_command(main)
