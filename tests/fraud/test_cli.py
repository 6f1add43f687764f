"""What all commands share: the next command, their examples, and which files they may replace."""

from __future__ import annotations

import argparse
import shlex

from fraud import cli


def test_the_next_command_can_be_pasted_into_a_shell() -> None:
    line = cli.next_step("python -m ray_jobs.train", "--data", "my days/*.parquet", "--seed", 7)
    assert line == "next: python -m ray_jobs.train --data 'my days/*.parquet' --seed 7\n"
    assert shlex.split(line)[1:] == ["python", "-m", "ray_jobs.train", "--data", "my days/*.parquet", "--seed", "7"]


def test_examples_are_shown_as_they_are() -> None:
    parser = argparse.ArgumentParser(prog="x", **cli.examples("x --a   a comment", "x --b"))
    assert parser.format_help().endswith("\nexamples:\n  x --a   a comment\n  x --b\n")
    assert "example:\n  x" in argparse.ArgumentParser(prog="x", **cli.examples("x")).format_help()
