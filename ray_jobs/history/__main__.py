"""Start `python -m ray_jobs.history`."""

from fraud.cli import run_command
from ray_jobs.history.command import main

if __name__ == "__main__":
    run_command(main)
