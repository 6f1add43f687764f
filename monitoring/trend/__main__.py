"""Start `python -m monitoring.trend`."""

from fraud.cli import run_command
from monitoring.trend.command import main

if __name__ == "__main__":
    run_command(main)
