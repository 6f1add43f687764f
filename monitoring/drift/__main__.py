"""Start `python -m monitoring.drift`."""

from fraud.cli import run_command
from monitoring.drift.command import main

if __name__ == "__main__":
    run_command(main)
