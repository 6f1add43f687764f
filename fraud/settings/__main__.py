"""Print docs/settings.md, or write it: `python -m fraud.settings --write`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fraud.cli import examples, run_command
from fraud.settings.page import page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m fraud.settings",
        description="List every setting as Markdown: its variable, default and meaning.",
        **examples("python -m fraud.settings --write"),
    )
    parser.add_argument("--write", action="store_true", help="write docs/settings.md instead of printing it")
    if parser.parse_args(argv).write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    run_command(main)
