"""Start `python -m ray_jobs.train`."""

from fraud.cli import run_command
from ray_jobs.train.command import main

if __name__ == "__main__":
    run_command(main)
