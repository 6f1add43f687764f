"""List every command with one line: `python -m fraud`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fraud.cli import examples, run_command

# By who uses them, in the order of use. tests/test_commands.py checks that no command is missing.
COMMANDS: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "Describe and make data": {
        "fraud.schema": "guess a schema from your file, show one, check a file against one",
        "ray_jobs.generate": "write synthetic transactions, to try things out",
        "ray_jobs.synthetic": "make the next day of a synthetic world, and the labels known by then",
        "ray_jobs.features": "write every row's features as Parquet",
    },
    "Find, train and judge a model": {
        "tuning.sweep": "search both detectors and the threshold; writes best.yaml",
        "tuning.report": "draw a sweep's page, also while it runs",
        "tuning.tracking": "copy to MLflow what it lacks of a sweep",
        "ray_jobs.train": "train, evaluate, and register a version",
        "ray_jobs.evaluate": "judge a model on labelled rows: frauds, money, intervals",
        "ray_jobs.promote": "what serves; the gate, champion, threshold, canary, shadow, rollback",
    },
    "Score, watch and label": {
        "ray_jobs.score": "score a file or a day, with reasons",
        "ray_jobs.history": "build, show, verify, prune and erase snapshots of entity history",
        "ray_jobs.await_data": "wait until a day's files are complete",
        "monitoring.drift": "compare scored rows with the training",
        "monitoring.trend": "drift of many days on one page",
        "monitoring.volume": "compare a day's rows and alerts with earlier days",
        "monitoring.performance": "live precision of each day's alerts",
        "monitoring.alerts": "send what the reports found to a webhook and by e-mail",
        "ray_jobs.labels": "take in verdicts, draw rows to review, join labels with data",
        "serve_app.decisions": "look up a decision; merge and prune the decision log",
        "serve_app.decision_summary": "decisions by version; champion beside challenger",
    },
    "Run the system": {
        "deploy.local": "Ray, MLflow, /score, Airflow on this machine (make up, demo, down)",
        "deploy.local.backup": "back up and restore the state of this machine (make backup, restore)",
        "deploy.backends": "PostgreSQL, Redis and an S3 server on this machine",
        "deploy.serving": "serve a model in the foreground, as in the image",
        "deploy.trial": "make the small model of a first try of the image",
        "serve_app.auth": "make an API key",
        "fraud.settings": "list every FRAUD_* variable",
        "cluster.ingress": "variables that put HAProxy in front of /score",
    },
    "Work on the code": {
        "tests": "the tests in parts (make check, test, drills)",
        "benchmarks.*": "measure detection, speed and memory (make bench); one module each",
        "deploy.drill_nodes": "kill nodes under load",
        "deploy.drill_ray_up": "try `ray up` on two hosts",
    },
})  # fmt: skip


def listing() -> str:
    """The commands by who uses them, one a line."""
    width = max(len(name) for group in COMMANDS.values() for name in group)
    lines = ["Every command: python -m NAME --help shows its flags and examples."]
    for title, group in COMMANDS.items():
        lines += ["", title, *(f"  {name:<{width}}  {text}" for name, text in group.items())]
    return "\n".join(
        [*lines, "", "`serve deploy serve_app/config.yaml` serves the champion; `make help` lists the rest.", ""]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list."""
    parser = argparse.ArgumentParser(
        prog="python -m fraud", description="List every command of this project.", **examples("python -m fraud")
    )
    parser.parse_args(argv)
    sys.stdout.write(listing())
    return 0


if __name__ == "__main__":
    run_command(main)
