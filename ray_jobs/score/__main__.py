"""Start `python -m ray_jobs.score`."""

from fraud.cli import run_command
from ray_jobs.score.command import main

if __name__ == "__main__":
    run_command(main)
