"""Start `python -m monitoring.performance`."""

from fraud.cli import run_command
from monitoring.performance.command import main

if __name__ == "__main__":
    run_command(main)
