"""The daily snapshots of entity history: build, show, verify, prune, erase. See docs/history.md."""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
from collections.abc import Sequence

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
_EXAMPLES = """examples:
  python -m ray_jobs.history build --data 'daily/*.parquet' --through 2026-01-31
  python -m ray_jobs.history build --data 's3://bucket/daily/*.parquet' --through 2026-01-31 --schema my.yaml
  python -m ray_jobs.history show
  python -m ray_jobs.history verify --data 'daily/*.parquet' --through 2026-01-31
  python -m ray_jobs.history prune --keep-days 60
  python -m ray_jobs.history erase --entity card=4242424242424242
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.history",
        description="The daily snapshots of entity history below FRAUD_HISTORY, from which days are scored and live "
        "histories begin. `ray_jobs.train` and `ray_jobs.score` leave them by themselves; this makes, shows, checks "
        "and removes them by hand.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|show|verify|prune|erase")

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name, help=text, description=text, epilog=f"example:\n  python -m ray_jobs.history {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        whose = made.add_mutually_exclusive_group()
        whose.add_argument("--model", default="champion", help="alias, version or bundle folder whose history is meant")
        whose.add_argument("--schema", help=f"a shipped name ({', '.join(shipped_names())}) or a .yaml path instead")
        return made

    building = verb("build", "Make the days that are missing, and those whose files have changed.",
                    "build --data 'daily/*.parquet' --through 2026-01-31")  # fmt: skip
    building.add_argument("--data", required=True, help="daily transactions: a file, folder, glob or URL")
    building.add_argument("--through", type=day_named, metavar="YYYY-MM-DD", help="last day (default: yesterday)")
    building.add_argument(
        "--since", type=day_named, metavar="YYYY-MM-DD", help="first day (default: as far back as windows reach)"
    )
    building.add_argument(
        "--own-labels",
        action="store_true",
        help="the data's own label column says which were frauds, until the label store says otherwise",
    )
    building.add_argument("--allow-empty", action="store_true", help="--through may be a day on which nothing happened")
    verb("show", "List the days: transactions, bytes, what made them, and whether they follow one another.", "show")
    checking = verb("verify", "Read every file and check it against its hash; with --data, make the days again from "
                    "the data and compare.", "verify --data 'daily/*.parquet'")  # fmt: skip
    checking.add_argument("--data", help="daily transactions to compare with")
    checking.add_argument("--through", type=day_named, metavar="YYYY-MM-DD", help="last day (default: the newest)")
    pruning = verb("prune", "Remove days that no window of the model reaches any more.", "prune --keep-days 60")
    pruning.add_argument(
        "--keep-days",
        type=int,
        metavar="N",
        help="days to keep, counted back from the newest (default: as many as the windows reach, and 7 to score again)",
    )
    erasing = verb("erase", "Remove what is remembered of one entity, such as a customer who asks for it.",
                   "erase --entity card=4242424242424242")  # fmt: skip
    erasing.add_argument("--entity", required=True, metavar="COLUMN=VALUE", help="which entity, as in the data")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 0, or 1 where `verify` found a fault."""
    given = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    schema = schema_of(given.schema, settings, given.model)
    if not schema.history:
        raise ConfigError(f"schema {schema.name!r} declares no history: there is nothing to keep")
    snapshots = Snapshots.open(settings, schema)
    say = sys.stdout.write
    if given.verb == "build":
        through = given.through or zone_of(schema).yesterday()
        built = build(
            snapshots, settings.locate(given.data), through, since=given.since, own_labels=given.own_labels,
            allow_empty=given.allow_empty,
        )  # fmt: skip
        say(f"{snapshots.url}: {len(built.made)} days made, {len(built.changed)} changed, {len(built.same)} as before, "
            f"{len(built.empty)} without a row; {built.rows:,} rows read, {built.refused:,} refused\n")  # fmt: skip
        if built.later:
            say(f"{', '.join(map(str, built.changed))} changed: scores of {built.later[0]} to {built.later[-1]} "
                f"({len(built.later)} days) were made with the older history\n"
                f"next: python -m ray_jobs.score --date DAY --force ... for each of them\n")  # fmt: skip
        reason = snapshots.gap_before(through)
        say(f"the history up to {through} is {'whole' if reason is None else f'NOT whole: {reason}'}\n")
        return 0 if reason is None else 1
    if given.verb == "show":
        say(_listing(snapshots))
        return 0
    if given.verb == "verify":
        faults = verify(snapshots, given.data and settings.locate(given.data), given.through)
        say("".join(f"{fault}\n" for fault in faults) or f"{snapshots.url}: everything is as its hashes say\n")
        return 1 if faults else 0
    if given.verb == "prune":
        say(_prune(snapshots, given.keep_days))
        return 0
    column, _, value = given.entity.partition("=")
    report = [*erase(snapshots, column, value), _erase_live(snapshots, settings, column, value)]
    say("".join(f"{line}\n" for line in report))
    say("not touched: the decision log (FRAUD_DECISIONS), scored days, training data, and bundles that carry a history "
        "(--history-in-bundle); tell whoever keeps those\n")  # fmt: skip
    return 0


def _erase_live(snapshots: Snapshots, settings: Settings, column: str, value: str) -> str:
    """Remove the entity from the live history that replicas share; return what was done."""
    from fraud.history.stores.shared import open_shared

    where = settings.history_url.partition(":")[0]
    store = open_shared(settings, snapshots.plans)
    if store is None:
        return "live history: each replica keeps its own in memory; start it again with FRAUD_STATE/live emptied"
    try:
        removed = [store.erase(i, value) for i, plan in enumerate(snapshots.plans) if plan.column == column]
    finally:
        store.close()
    return f"live history ({where}): {value} {'is removed' if any(removed) else 'was not there'}"


def _listing(catalog: Catalog) -> str:
    days = catalog.days()
    lines = [f"{catalog.url}: {len(days)} days, by {catalog.zone.name}\n"]
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
            f"{manifests[0].made_by:5}  {'whole' if reason is None else f'NOT whole: {reason}'}\n"
        )
    if days:
        lines.append(f"what {days[-1] + _DAY} can look at begins on {catalog.first_day(days[-1])}\n")
    return "".join(lines)


def _prune(catalog: Catalog, keep_days: int | None) -> str:
    days, least = catalog.days(), catalog.longest_memory_days
    keep = least + 7 if keep_days is None else keep_days
    if keep < least:
        raise ConfigError(f"--keep-days {keep}: the windows reach {least} days back; keep at least as many")
    if not days:
        raise DataError(f"{catalog.url} holds no day of this history: nothing to remove")
    first = days[-1] - (keep - 1) * _DAY
    stale = [day for day in days if day < first]
    freed = sum(catalog.drop(day) for day in stale)
    if stale and first in days:
        catalog.begin_at(first)
    return f"{len(stale)} days removed, {freed / 2**20:.1f} MiB; {len(days) - len(stale)} days kept, from {first}\n"
