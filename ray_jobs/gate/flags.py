"""Read the gate's flags of `python -m ray_jobs.promote`, and format its decision."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from fraud.configuration import allowed, fields
from fraud.errors import ConfigError
from fraud.judging.gate_limits import FIGURES, GateLimits
from fraud.registry.changes import PROMOTED, REFUSED
from fraud.settings import Settings
from ray_jobs.gate.judge import GateRequest

# --better sets the figures.
_LIMITS = [name for name in fields(GateLimits) if name != "figures"]
_PLAN = ("budget", "resamples", "seed")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    flags = parser.add_argument_group("--gate", "docs/gate.md says what each check is for")
    flags.add_argument("--data", help="labelled CSV or Parquet, with rows that neither model was trained on")
    flags.add_argument("--out", help="record to write, with a page beside it (default: gate/MODEL/version-N.json)")
    flags.add_argument("--start", metavar="TIME", help="judge rows from this instant (default: after both trainings)")
    flags.add_argument("--end", metavar="TIME", help="judge rows before this instant")
    flags.add_argument("--golden", metavar="DATA", help="rows with final labels; no known fraud may be lost")
    flags.add_argument(
        "--segment", action="append", metavar="COLUMN", help="no value of this column may get worse; repeatable"
    )
    flags.add_argument(
        "--better", action="append", metavar="FIGURE", help=f"must be better: {', '.join(FIGURES)}; repeatable"
    )
    flags.add_argument(
        "--schema-change", choices=("refuse", "allow"), help="whether requests may break (default: refuse)"
    )
    flags.add_argument("--budget", type=float, help="share of rows alerted on (default: the champion's)")
    flags.add_argument("--resamples", type=int, help="bootstrap resamples (default: 400)")
    flags.add_argument("--seed", type=int, help="seed of the bootstrap (default: 7)")
    for name in _LIMITS:
        field, number = fields(GateLimits)[name], int if int in allowed(GateLimits, name).number_types else float
        flags.add_argument(f"--{name.replace('_', '-')}", type=number, metavar="X",
                           help=f"{field.description} (default: {field.default})")  # fmt: skip


def first_set(arguments: argparse.Namespace) -> str | None:
    """The first of the gate's flags that the command line sets, or None."""
    own = ("data", "out", "start", "end", "golden", "segment", "better", "schema_change")
    name = next((name for name in (*own, *_PLAN, *_LIMITS) if getattr(arguments, name) is not None), None)
    return None if name is None else f"--{name.replace('_', '-')}"


def read_request(arguments: argparse.Namespace, by: str, settings: Settings) -> GateRequest:
    """Check the gate's flags. Raises ConfigError."""
    if not arguments.version:
        raise ConfigError("--gate needs a version or alias to judge: `promote challenger --gate --data FILE`")
    if not arguments.data:
        raise ConfigError("--gate needs --data FILE: labelled rows that neither model was trained on")
    limits = {name: getattr(arguments, name) for name in _LIMITS if getattr(arguments, name) is not None}
    if arguments.better:
        limits["figures"] = tuple(dict.fromkeys(arguments.better))
    plan = {name: getattr(arguments, name) for name in _PLAN} | {"segments": tuple(arguments.segment or ())}
    return GateRequest(
        reference=arguments.version, data=settings.locate(arguments.data), by=by, reason=arguments.reason,
        out=settings.locate(arguments.out) if arguments.out else None,
        start=arguments.start, end=arguments.end,
        golden=settings.locate(arguments.golden) if arguments.golden else None,
        plan={**plan, "resamples": plan["resamples"] or 400}, limits=_limits(limits),
        allow_schema_change=arguments.schema_change == "allow", override=bool(arguments.override),
    )  # fmt: skip


def _limits(values: Mapping[str, Any]) -> GateLimits:
    try:
        return GateLimits(**values)
    except ConfigError as error:
        name, _, problem = str(error).removeprefix("gate.").partition("=")
        flag = "better" if name == "figures" else name.replace("_", "-")
        raise ConfigError(f"--{flag} {problem}") from None


def summary(document: Mapping[str, Any]) -> str:
    """The decision as text, one line per check."""
    number = document["challenger"]["version"]
    if document["already_champion"]:
        return f"version {number} is already champion: nothing was judged\n"
    lines = [f"{document['decision']}: version {number}"]
    if document["champion"]:
        verb = "in place of" if document["decision"] == PROMOTED else "version stays champion:"
        lines[0] += f", {verb} {document['champion']['version']}"
    if document["override"]:
        lines.append(f"  by override of {document['by']}: {document['reason']}")
    marks = {True: "passed", False: "FAILED", None: "not judged"}
    lines += [f"  {marks[check['passed']]:<11}{check['name']}: {check['text']}" for check in document["checks"]]
    if document["decision"] == REFUSED:
        lines.append(f"to promote it all the same: promote {number} --override --by NAME --reason TEXT")
    return (
        "\n".join([*lines, f"record: {document['record']}", f"page: {document['record'].removesuffix('.json')}.html"])
        + "\n"
    )
