"""Start `python -m ray_jobs.promote`."""

from fraud.cli import run_command
from ray_jobs.promote.command import main

if __name__ == "__main__":
    run_command(main)
