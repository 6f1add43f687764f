"""`python -m fraud.schema`: guess a schema, show one, check a file against one."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fraud.cli import add_force, examples, next_step, run_command
from fraud.counts import counted
from fraud.data import tables
from fraud.errors import SchemaError
from fraud.schema import Schema, infer, shipped_names, validate
from fraud.settings import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fraud.schema",
        description="Describe your transactions: guess a schema, show one, check a file against one.",
        **examples(
            "python -m fraud.schema infer data/mine.csv --out mine.yaml      guess a schema, then edit mine.yaml",
            "python -m fraud.schema check data/mine.csv --schema mine.yaml   show rejected rows and reasons",
        ),
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="infer | show | check")
    file_help = "CSV or Parquet: a file, folder, glob or URL"
    shipped = f"a shipped name ({', '.join(shipped_names())}) or a .yaml path"

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, **examples(f"python -m fraud.schema {example}"))

    infer_ = verb("infer", "Guess a schema from a file and write it as YAML.", "infer data/mine.csv --out mine.yaml")
    infer_.add_argument("file", metavar="FILE", help=file_help)
    infer_.add_argument("--out", metavar="YAML", help="where to write it (default: standard output)")
    infer_.add_argument("--name", help="the schema's name (default: the file's)")
    infer_.add_argument("--rows", type=int, default=500_000, help="read the first ROWS rows (default %(default)s)")
    infer_.add_argument("--force", action="store_true", help="replace a YAML that holds something else")
    show = verb("show", "Print a schema as YAML, as it was parsed.", "show handbook")
    show.add_argument("schema", metavar="SCHEMA", help=shipped)
    check = verb(
        "check", "Check a file against a schema and list the faults.", "check data/mine.csv --schema mine.yaml"
    )
    check.add_argument("file", metavar="FILE", help=file_help)
    check.add_argument("--schema", required=True, help=shipped)
    check.add_argument(
        "--quarantine", metavar="CSV", help="write the rejected rows, each with its reason, to this file"
    )
    add_force(check, "--quarantine")
    return parser


def _infer(file: str, out: str | None, name: str | None, rows: int, force: bool) -> None:
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
    target = settings.locate(out)
    tables.check_out(target, lambda content: content == text.encode(), force=force)
    tables.write_text(text, target)
    n_columns = counted(len(guessed.columns), "column")
    summary = f"{out}: {n_columns} guessed, {len(guessed.ignore)} left out; read and correct it\n"
    if refused := len(validate(frame, guessed).quarantine):
        summary += f"{refused:,} of {len(frame):,} rows do not fit it: `check` lists the reasons\n"
    sys.stdout.write(summary + next_step("python -m fraud.schema check", file, "--schema", out))


def _check(file: str, name: str, quarantine: str | None, force: bool) -> None:
    settings = Settings.from_environment()
    schema = Schema.load(name)
    if quarantine is not None:
        is_own = tables.marked("row,column,value,reason,")
        tables.check_out(settings.locate(quarantine), is_own, force=force, flag="--quarantine")
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
    if schema.label is not None:
        sys.stdout.write(next_step("python -m ray_jobs.train", "--data", file, "--schema", name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run infer, show or check. Returns 0; raises FraudError for a mistake of the user."""
    arguments = _parser().parse_args(argv)
    if arguments.verb == "infer":
        _infer(arguments.file, arguments.out, arguments.name, arguments.rows, arguments.force)
    elif arguments.verb == "show":
        sys.stdout.write(Schema.load(arguments.schema).to_yaml())
    else:
        _check(arguments.file, arguments.schema, arguments.quarantine, arguments.force)
    return 0


if __name__ == "__main__":
    run_command(main)
