"""Start `python -m ray_jobs.labels`."""

from fraud.cli import run_command
from ray_jobs.labels.command import main

if __name__ == "__main__":
    run_command(main)
