"""The gate's flags of `python -m ray_jobs.promote`, and the lines that it prints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from fraud.configuration import allowed, fields
from fraud.errors import ConfigError
from fraud.judging.gate_limits import FIGURES, GateLimits
from fraud.settings import Settings
from ray_jobs.gate.judge import PROMOTED, Request

# --better names the figures.
_LIMITS = [name for name in fields(GateLimits) if name != "figures"]
_PLAN = ("budget", "resamples", "seed")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    flags = parser.add_argument_group("--gate", "docs/gate.md says what each check is for")
    flags.add_argument("--data", help="labelled CSV or Parquet, with rows that neither model learnt from")
    flags.add_argument("--out", help="record to write, a page beside it (default: gate/version-N.json)")
    flags.add_argument("--start", metavar="TIME", help="judge from here (default: after what both learnt from)")
    flags.add_argument("--end", metavar="TIME", help="judge rows before this instant")
    flags.add_argument("--golden", metavar="DATA", help="frozen rows with labels that nobody changes any more")
    flags.add_argument("--segment", action="append", metavar="COLUMN", help="no level of it may lose; repeatable")
    flags.add_argument(
        "--better", action="append", metavar="FIGURE", help=f"must be better: {', '.join(FIGURES)}; repeatable"
    )
    flags.add_argument("--schema-change", choices=("refuse", "allow"), help="requests may break (default: refuse)")
    flags.add_argument("--override", action="store_true", default=None, help="promote in spite of failed checks; needs "
                       "--reason and --by, which the record keeps")  # fmt: skip
    flags.add_argument("--budget", type=float, help="share of rows alerted on (default: the champion's)")
    flags.add_argument("--resamples", type=int, help="bootstrap resamples (default: 400)")
    flags.add_argument("--seed", type=int, help="seed of the bootstrap (default: 7)")
    for name in _LIMITS:
        field, number = fields(GateLimits)[name], int if int in allowed(GateLimits, name).number_types else float
        flags.add_argument(f"--{name.replace('_', '-')}", type=number, metavar="X",
                           help=f"{field.description} (default: {field.default})")  # fmt: skip


def given_without_gate(arguments: argparse.Namespace) -> str | None:
    """A flag of the gate that the command line sets, or None."""
    own = ("data", "out", "start", "end", "golden", "segment", "better", "schema_change", "override")
    name = next((name for name in (*own, *_PLAN, *_LIMITS) if getattr(arguments, name) is not None), None)
    return None if name is None else f"--{name.replace('_', '-')}"


def request_of(given: argparse.Namespace, by: str, settings: Settings) -> Request:
    """What the command line asks of the gate. Raises ConfigError."""
    if not given.version:
        raise ConfigError("--gate needs a version or alias to judge: `promote challenger --gate --data FILE`")
    if not given.data:
        raise ConfigError("--gate needs --data FILE: labelled rows that neither model learnt from")
    if given.override and not given.by:
        raise ConfigError("--override needs --by NAME and --reason TEXT: whoever reads the record wants to know who")
    limits = {name: getattr(given, name) for name in _LIMITS if getattr(given, name) is not None}
    if given.better:
        limits["figures"] = tuple(dict.fromkeys(given.better))
    plan = {name: getattr(given, name) for name in _PLAN} | {"segments": tuple(given.segment or ())}
    return Request(
        reference=given.version, data=settings.locate(given.data), by=by, reason=given.reason,
        out=settings.locate(given.out) if given.out else None,
        start=given.start, end=given.end, golden=settings.locate(given.golden) if given.golden else None,
        plan={**plan, "resamples": plan["resamples"] or 400}, limits=_limits(limits),
        allow_schema_change=given.schema_change == "allow", override=bool(given.override),
    )  # fmt: skip


def _limits(values: Mapping[str, Any]) -> GateLimits:
    try:
        return GateLimits(**values)
    except ConfigError as error:
        name, _, problem = str(error).removeprefix("gate.").partition("=")
        flag = "better" if name == "figures" else name.replace("_", "-")
        raise ConfigError(f"--{flag} {problem}") from None


def told(document: Mapping[str, Any]) -> str:
    """The decision as lines of text."""
    number = document["challenger"]["version"]
    if document["already_champion"]:
        return f"version {number} is already champion: nothing to judge\n"
    lines = [f"{document['decision']}: version {number}"]
    if document["champion"]:
        verb = "in place of" if document["decision"] == PROMOTED else "version stays champion:"
        lines[0] += f", {verb} {document['champion']['version']}"
    if document["override"]:
        lines.append(f"  by override of {document['by']}: {document['reason']}")
    marks = {True: "holds", False: "FAILS", None: "not judged"}
    lines += [f"  {marks[check['passed']]:<11}{check['name']}: {check['text']}" for check in document["checks"]]
    return (
        "\n".join([*lines, f"record: {document['record']}", f"page: {document['record'].removesuffix('.json')}.html"])
        + "\n"
    )
