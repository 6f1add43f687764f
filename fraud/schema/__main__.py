"""`python -m fraud.schema`: guess a schema, show one, check a file against one."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fraud.cli import run_command
from fraud.counts import counted
from fraud.data import tables
from fraud.errors import SchemaError
from fraud.schema import Schema, infer, shipped_names, validate
from fraud.settings import Settings

_EXAMPLE = """\
example, for a file of your own:
  python -m fraud.schema infer data/mine.csv --out mine.yaml     guess a schema, then edit mine.yaml
  python -m fraud.schema check data/mine.csv --schema mine.yaml  show rejected rows and reasons
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fraud.schema",
        description="Describe your transactions: guess a schema, show one, check a file against one.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="infer | show | check")
    file_help = "CSV or Parquet: a file, folder, glob or URL"
    infer_ = verbs.add_parser("infer", help="guess a schema from a file and write it as YAML")
    infer_.add_argument("file", metavar="FILE", help=file_help)
    infer_.add_argument("--out", metavar="YAML", help="where to write it (default: standard output)")
    infer_.add_argument("--name", help="the schema's name (default: the file's)")
    infer_.add_argument("--rows", type=int, default=500_000, help="read the first ROWS rows (default %(default)s)")
    show = verbs.add_parser("show", help="print a schema as YAML, as it was parsed")
    show.add_argument("schema", metavar="SCHEMA", help=f"a shipped name ({', '.join(shipped_names())}) or a .yaml path")
    check = verbs.add_parser("check", help="check a file against a schema and list the faults")
    check.add_argument("file", metavar="FILE", help=file_help)
    check.add_argument("--schema", required=True, help=f"a shipped name ({', '.join(shipped_names())}) or a .yaml path")
    check.add_argument(
        "--quarantine", metavar="CSV", help="write the rejected rows, each with its reason, to this file"
    )
    return parser


def _infer(file: str, out: str | None, name: str | None, rows: int) -> None:
    from fraud.data import (
        tables,  # imported here, so that replicas do not load the file readers
    )

    settings = Settings.from_environment()
    if rows < 1:
        raise SchemaError(f"--rows {rows} reads nothing; give a number above 0")
    path = settings.locate(file)
    stem = re.sub(r"\W+", "_", Path(path.rstrip("/")).name.split(".")[0]).strip("_")
    frame = next(tables.iter_frames(path, rows))
    guessed = infer(frame, name or stem or "mine")
    guessed = replace(guessed, day_zone=settings.day_zone or guessed.day_zone)
    text = f"# Guessed by `python -m fraud.schema infer`: read and correct each description.\n{guessed.to_yaml()}"
    if out is None:
        sys.stdout.write(text)
        return
    tables.write_text(text, settings.locate(out))
    n_columns = counted(len(guessed.columns), "column")
    summary = f"{out}: {n_columns} guessed, {len(guessed.ignore)} left out; read and correct it\n"
    if refused := len(validate(frame, guessed).quarantine):
        summary += f"{refused:,} of {len(frame):,} rows do not fit it: `check` lists the reasons\n"
    sys.stdout.write(summary)


def _check(file: str, schema: Schema, quarantine: str | None) -> None:
    settings = Settings.from_environment()
    checked = tables.load(settings.locate(file), schema)
    sys.stdout.write(
        f"{counted(len(checked.rows), 'row')} fit schema {schema.name!r}, {len(checked.quarantine):,} do not\n"
    )
    for (column, reason), rows in checked.quarantine.groupby(["column", "reason"], sort=False):
        first = rows.iloc[0]
        sys.stdout.write(f"{len(rows):>9,}  {column} {reason} (first: row {first['row']}, value {first['value']!r})\n")
    for warning in checked.warnings:
        sys.stdout.write(f"  warning  {warning}\n")
    if quarantine is not None:
        tables.write_csv(checked.quarantine, settings.locate(quarantine))


def main(argv: Sequence[str] | None = None) -> int:
    """Run infer, show or check. Returns 0; raises FraudError for a mistake of the user."""
    arguments = _parser().parse_args(argv)
    if arguments.verb == "infer":
        _infer(arguments.file, arguments.out, arguments.name, arguments.rows)
    elif arguments.verb == "show":
        sys.stdout.write(Schema.load(arguments.schema).to_yaml())
    else:
        _check(arguments.file, Schema.load(arguments.schema), arguments.quarantine)
    return 0


if __name__ == "__main__":
    run_command(main)
