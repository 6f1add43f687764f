"""Start `python -m tuning.report`."""

from fraud.cli import run_command
from tuning.report.command import main

if __name__ == "__main__":
    run_command(main)
