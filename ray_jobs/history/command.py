"""Build, show, verify, prune and erase daily snapshots of entity history. See docs/history.md."""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
from collections.abc import Sequence

from fraud.cli import examples, next_step
from fraud.counts import counted
from fraud.data.partitions import day_named
from fraud.errors import ConfigError, DataError
from fraud.history.snapshots.build import build
from fraud.history.snapshots.catalog import Catalog
from fraud.history.snapshots.days import Snapshots
from fraud.history.snapshots.erase import erase
from fraud.registry.models import schema_of
from fraud.schema import shipped_names
from fraud.schema.zone import zone_of
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.history.verify import verify

logger = logging.getLogger(__name__)

_DAY = dt.timedelta(days=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.history",
        description="Manage the daily snapshots of entity history in FRAUD_HISTORY. Daily scoring and live histories "
        "start from them. `ray_jobs.train` and `ray_jobs.score` write them; use this command to build, list, check and "
        "remove them by hand.",
        **examples(
            "python -m ray_jobs.history build --data 'daily/*.parquet' --through 2026-01-31",
            "python -m ray_jobs.history build --data 's3://bucket/*.parquet' --through 2026-01-31 --schema my.yaml",
            "python -m ray_jobs.history show",
            "python -m ray_jobs.history verify --data 'daily/*.parquet' --through 2026-01-31",
            "python -m ray_jobs.history prune --keep-days 60",
            "python -m ray_jobs.history erase --entity card=4242424242424242",
        ),
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|show|verify|prune|erase")

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        verb_parser = verbs.add_parser(
            name, help=text, description=text, **examples(f"python -m ray_jobs.history {example}")
        )
        source = verb_parser.add_mutually_exclusive_group()
        source.add_argument(
            "--model", default="champion", help="alias, version or bundle folder (default: %(default)s)"
        )
        source.add_argument("--schema", help=f"instead: a shipped name ({', '.join(shipped_names())}) or a .yaml path")
        return verb_parser

    building = verb("build", "Build missing days, and days whose files changed.",
                    "build --data 'daily/*.parquet' --through 2026-01-31")  # fmt: skip
    building.add_argument("--data", required=True, help="daily transactions: a file, folder, glob or URL")
    building.add_argument("--through", type=day_named, metavar="YYYY-MM-DD", help="last day (default: yesterday)")
    building.add_argument(
        "--since", type=day_named, metavar="YYYY-MM-DD", help="first day (default: as far back as the windows reach)"
    )
    building.add_argument(
        "--own-labels",
        action="store_true",
        help="use the data's label column for transactions without a label in the label store",
    )
    building.add_argument("--allow-empty", action="store_true", help="accept a --through day without transactions")
    verb("show", "List the days: rows, size, what built them, and whether the history is complete.", "show")
    checking = verb("verify", "Check every file against its hash; with --data, also rebuild the days from the data "
                    "and compare.", "verify --data 'daily/*.parquet'")  # fmt: skip
    checking.add_argument("--data", help="daily transactions to compare with")
    checking.add_argument("--through", type=day_named, metavar="YYYY-MM-DD", help="last day (default: the newest)")
    pruning = verb("prune", "Remove days that no window of the model reaches.", "prune --keep-days 60")
    pruning.add_argument(
        "--keep-days",
        type=int,
        metavar="N",
        help="days to keep, counted back from the newest (default: as many as the windows reach, plus 7 for rescoring)",
    )
    erasing = verb("erase", "Remove the history of one entity, e.g. after a customer's request.",
                   "erase --entity card=4242424242424242")  # fmt: skip
    erasing.add_argument("--entity", required=True, metavar="COLUMN=VALUE", help="the entity as it is in the data")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 1 if `verify` finds a fault or the built history is incomplete, else 0."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    schema = schema_of(arguments.schema, settings, arguments.model)
    if not schema.history:
        raise ConfigError(f"schema {schema.name!r} declares no history: it has no snapshots")
    snapshots = Snapshots.open(settings, schema)
    write = sys.stdout.write
    model = ["--schema", arguments.schema] if arguments.schema else ["--model", arguments.model]
    if arguments.verb == "build":
        through = arguments.through or zone_of(schema).yesterday()
        built = build(
            snapshots, settings.locate(arguments.data), through, since=arguments.since, own_labels=arguments.own_labels,
            allow_empty=arguments.allow_empty,
        )  # fmt: skip
        write(f"{snapshots.url}: {counted(len(built.made), 'day')} built, {len(built.changed)} rebuilt, "
              f"{len(built.same)} unchanged, {len(built.empty)} without rows; {counted(built.rows, 'row')} read, "
              f"{built.refused:,} refused\n")  # fmt: skip
        if built.later:
            write(f"{', '.join(map(str, built.changed))} changed: scores of {built.later[0]} to {built.later[-1]} "
                f"({counted(len(built.later), 'day')}) used the older history\n"
                f"next: python -m ray_jobs.score --date DAY --force ... for each day\n")  # fmt: skip
        reason = snapshots.gap_before(through)
        write(f"the history up to {through} is {'complete' if reason is None else f'INCOMPLETE: {reason}'}\n")
        if reason is None and not built.later:
            score = ["--data", arguments.data, "--out", "scored", "--date", through + _DAY]
            write(next_step("python -m ray_jobs.score", *score))
        return 0 if reason is None else 1
    if arguments.verb == "show":
        write(_listing(snapshots))
        write(next_step("python -m ray_jobs.history verify", *model))
        return 0
    if arguments.verb == "verify":
        faults = verify(snapshots, arguments.data and settings.locate(arguments.data), arguments.through)
        write("".join(f"{fault}\n" for fault in faults) or f"{snapshots.url}: all files match their hashes\n")
        return 1 if faults else 0
    if arguments.verb == "prune":
        write(_prune(snapshots, arguments.keep_days))
        write(next_step("python -m ray_jobs.history show", *model))
        return 0
    column, _, value = arguments.entity.partition("=")
    report = [*erase(snapshots, column, value), _erase_live(snapshots, settings, column, value)]
    write("".join(f"{line}\n" for line in report))
    write("not erased: the decision log (FRAUD_DECISIONS), scored days, training data, and bundles with a history "
          "(--history-in-bundle); erase the entity there too\n")  # fmt: skip
    return 0


def _erase_live(snapshots: Snapshots, settings: Settings, column: str, value: str) -> str:
    """Remove the entity from the live history that replicas share; return the result as text."""
    from fraud.history.stores.shared import open_shared

    where = settings.history_url.partition(":")[0]
    store = open_shared(settings, snapshots.plans)
    if store is None:
        return "live history: each replica has its own in memory; empty FRAUD_STATE/live and restart the replicas"
    try:
        removed = [store.erase(i, value) for i, plan in enumerate(snapshots.plans) if plan.column == column]
    finally:
        store.close()
    return f"live history ({where}): {value} {'is removed' if any(removed) else 'not found'}"


def _listing(catalog: Catalog) -> str:
    days = catalog.days()
    lines = [f"{catalog.url}: {counted(len(days), 'day')}, by {catalog.zone.name}\n"]
    for plan in catalog.plans:
        lines.append(
            f"plan {plan.fingerprint}: {plan.column}, {plan.memory / 86_400e6:g} days and "
            f"{plan.capacity} transactions back, {plan.record.itemsize} bytes each\n"
        )
    for day in days:
        manifests = [manifest for plan in catalog.plans if (manifest := catalog.read(plan, day)) is not None]
        size = sum(size for manifest in manifests for part in manifest.parts for size, _ in part.files.values())
        reason = catalog.gap_before(day)
        lines.append(
            f"{day}  {max(manifest.rows for manifest in manifests):>12,} rows  {size / 2**20:>9.1f} MiB  "
            f"{manifests[0].made_by:5}  {'complete' if reason is None else f'INCOMPLETE: {reason}'}\n"
        )
    if days:
        lines.append(f"the history of {days[-1] + _DAY} begins on {catalog.first_day(days[-1])}\n")
    return "".join(lines)


def _prune(catalog: Catalog, keep_days: int | None) -> str:
    days, least = catalog.days(), catalog.longest_memory_days
    keep = least + 7 if keep_days is None else keep_days
    if keep < least:
        raise ConfigError(f"--keep-days {keep}: the windows reach {least} days back; keep {least} or more")
    if not days:
        raise DataError(f"{catalog.url} has no day of this history: nothing to remove")
    first = days[-1] - (keep - 1) * _DAY
    stale = [day for day in days if day < first]
    freed = sum(catalog.drop(day) for day in stale)
    if stale and first in days:
        catalog.begin_at(first)
    removed, left = counted(len(stale), "day"), counted(len(days) - len(stale), "day")
    return f"{removed} removed, {freed / 2**20:.1f} MiB; {left} kept, from {first}\n"
