"""Shared by all commands: exit codes, the output folder, stage timings."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fraud.errors import ConfigError, FraudError
from fraud.settings import context

USER_ERROR_EXIT_CODE = 2


def run_command(main: Callable[[Sequence[str] | None], int], *, uses_stack: bool = True) -> None:
    """Run a command's `main(argv)` and exit: its own code, or 2 with one line on stderr for a FraudError.

    uses_stack: take from the context of the running stack (fraud.settings.context) what the environment does not say.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("aiobotocore", "botocore"):  # they log the source of the keys at every start
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if uses_stack:
            context.apply()
        code = main(None)
    except FraudError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        code = USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    raise SystemExit(code)


@contextmanager
def stage(title: str, logger: logging.Logger) -> Iterator[Callable[[str], None]]:
    """Log how long a stage took; call the yielded function to add what it did."""
    started = time.perf_counter()
    note: list[str] = []
    yield note.append
    logger.info("%s: %.1f s", ", ".join([title, *note]), time.perf_counter() - started)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a ConfigError, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` explains the flags")


def point_to(argv: Sequence[str] | None, module: str, description: str, command: str, *others: str) -> NoReturn:
    """The `main` of a module that is no command. Raises ConfigError that names the command to use; --help shows it."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description, **examples(command, *others))
    parser.parse_args(argv)
    raise ConfigError(f"{module} is no command of its own: use `{command}`")


def next_step(command: str, *arguments: object) -> str:
    """The last line of a command's result: the likely next command, to paste into a shell.

    command: as typed, such as "python -m ray_jobs.train"; arguments are quoted where a shell needs it.
    """
    return " ".join(["next:", command, *(shlex.quote(str(argument)) for argument in arguments)]) + "\n"


def examples(*commands: str) -> dict[str, Any]:
    """Keywords of argparse for a parser: its epilog with examples, one a line, as they are."""
    title = "example:" if len(commands) == 1 else "examples:"
    return {
        "epilog": "\n  ".join([title, *commands]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_force(parser: argparse.ArgumentParser, flag: str = "--out") -> None:
    """Add --force, for `fraud.data.tables.check_out`."""
    parser.add_argument(
        "--force", action="store_true", help=f"replace a file at {flag} that this command did not write"
    )


def check_outdir(path: str, outputs: Collection[str]) -> Path:
    """Create the folder, or accept one that is empty or holds an earlier run's results.

    outputs: names of files by which the command recognises its results. Raises ConfigError for a URL, a folder that
    cannot be written, or one that holds other files only.
    """
    folder = Path(path)
    if "://" in path:
        raise ConfigError(f"--outdir {path} must be a local folder: name one, and copy it from there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--outdir {path} cannot be written ({error.strerror}): name another folder") from None
    present = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if present and not present & set(outputs):
        raise foreign_files_error(folder)
    return folder


def foreign_files_error(folder: Path) -> ConfigError:
    """The error for an output folder with files of another program."""
    present = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return ConfigError(
        f"--outdir {folder} holds other files ({', '.join(present[:3])}): name a new or empty folder, or the folder of "
        "an earlier run of this command"
    )
