"""Start `python -m ray_jobs.evaluate`."""

from fraud.cli import run_command
from ray_jobs.evaluate.command import main

if __name__ == "__main__":
    run_command(main)
