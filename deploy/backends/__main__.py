"""Start `python -m deploy.backends`."""

from deploy.backends.command import main
from fraud.cli import run_command

if __name__ == "__main__":
    run_command(main, uses_stack=False)
