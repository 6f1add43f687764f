"""A synthetic world that goes on: a day's card transactions and the labels that become known on it, one call a day.

Feeds the DAGs of a first try. `--kind cards` of ray_jobs.generate makes the same kind of rows, all at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import itertools
import json
import logging
import posixpath
import sys
import time
from collections.abc import Sequence

import pandas as pd

from fraud.cli import examples, run_command
from fraud.data import filesystems, tables
from fraud.data.partitions import day_named, read_json
from fraud.data.simulation import CARD_START, check_settings, iter_card_days, with_day_ids
from fraud.errors import ConfigError
from fraud.registry import versions
from fraud.settings import Settings, turn_telemetry_off

logger = logging.getLogger(__name__)

FIRST_DAY = CARD_START.astype("M8[D]").item()
HISTORY_DAYS = 60  # before the first day that is scored
LABEL_DAYS = 7  # from a transaction to its label, as the schema "handbook" expects
CALM_DAYS, DRIFT = 8, 2.0  # --drift auto: this many scored days without drift, then this much
NO_MODEL = 3  # exit code
POLL_S = 5.0
RECORD = "world.json"
DATA, LABELS = "synthetic/data/daily/{date}.parquet", "synthetic/labels/incoming/{date}.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Day:
    """A day that was made after the history. run: who asked for it; drift: as in fraud.data.simulation."""

    date: str
    run: str
    drift: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The world in one pair of folders. data, labels: paths of a day's files, with {date} in the file name.

    A day has the same rows whatever was made before: they depend on seed, customers, fraud_rate, date and drift.
    """

    data: str
    labels: str
    seed: int = 7
    customers: int = 250
    fraud_rate: float = 0.03
    days: tuple[Day, ...] = ()

    @classmethod
    def open(cls, data: str, labels: str, **parameters: float) -> World:
        """Read the world of these folders, or begin it with `parameters`.

        Raises ConfigError if a folder holds files that this command did not write, or the parameters are others.
        """
        for flag, path in (("--data", data), ("--labels", labels)):
            if "{date}" not in posixpath.basename(path) or "{date}" in posixpath.dirname(path):
                raise ConfigError(f"{flag} {path!r}: write {{date}} into the file's name, and only there")
        world = cls(data=data, labels=labels, **parameters)  # type: ignore[arg-type]
        filesystem, record = filesystems.of(world._record)
        if filesystem.exists(record):
            stored = read_json(filesystem, record)
            days = tuple(Day(**day) for day in stored.pop("days"))
            for name, value in stored.items():
                if name in parameters and parameters[name] != value:
                    raise ConfigError(
                        f"--{name.replace('_', '-')} {parameters[name]} is not the {value} that the world in "
                        f"{world._record} began with: leave it out, or name another folder"
                    )
            world = cls(data=data, labels=labels, days=days, **stored)
        check_settings(world.customers, world.seed, world.fraud_rate, 0.0)
        world._check_folders()
        if not filesystem.exists(record):
            world._save()
        return world

    @property
    def today(self) -> dt.date:
        """The morning after the last day."""
        return FIRST_DAY + dt.timedelta(days=HISTORY_DAYS + len(self.days))

    def begin(self) -> None:
        """Write the history's days, and the labels known by its end, unless they are there."""
        last = FIRST_DAY + dt.timedelta(days=HISTORY_DAYS - 1)
        if _exists(self._path(self.labels, last)):  # written last
            return
        labels = []
        frames = iter_card_days(0, self.customers, self.seed, self.fraud_rate)
        for number, frame in enumerate(itertools.islice(frames, HISTORY_DAYS)):
            day = FIRST_DAY + dt.timedelta(days=number)
            self._write_day(day, frame)
            if day + dt.timedelta(days=LABEL_DAYS) <= last:
                labels.append(_labels(day, frame))
        tables.write_csv(pd.concat(labels, ignore_index=True), self._path(self.labels, last))
        logger.info("%d days of history to %s", HISTORY_DAYS, last)

    def advance(self, run: str, drift: float | None, date: dt.date | None = None) -> tuple[World, dt.date]:
        """The world with the day of `run`, and that day: the one it got before, else the next.

        drift: None: none for CALM_DAYS, then DRIFT. date: ask for an earlier day again, or for the next by its name.
        Raises ConfigError for a date that is neither.
        """
        made = next((day for day in self.days if (day.date == f"{date}" if date else day.run == run)), None)
        if made is None:
            if date not in (None, self.today):
                raise ConfigError(f"--date {date}: this world goes day by day, and its next day is {self.today}")
            amount = (0.0 if len(self.days) < CALM_DAYS else DRIFT) if drift is None else drift
            check_settings(self.customers, self.seed, self.fraud_rate, amount)
            made = Day(date=f"{self.today}", run=run, drift=amount)
            world = dataclasses.replace(self, days=(*self.days, made))
            world._save()  # before the files: what was begun may be written again, other files may not
        else:
            world = self
        day = dt.date.fromisoformat(made.date)
        world._write_day(day, world._frame(day))
        labelled = day - dt.timedelta(days=LABEL_DAYS)
        if not _exists(world._path(world.labels, day)):
            tables.write_csv(_labels(labelled, world._frame(labelled)), world._path(world.labels, day))
        logger.info("%s, drift %g; labels of %s became known", day, made.drift, labelled)
        return world, day

    def _frame(self, day: dt.date) -> pd.DataFrame:
        """A day's transactions with their labels."""
        drift = next((made.drift for made in self.days if made.date == f"{day}"), 0.0)
        return next(iter_card_days((day - FIRST_DAY).days, self.customers, self.seed, self.fraud_rate, drift))

    def _write_day(self, day: dt.date, frame: pd.DataFrame) -> None:
        path = self._path(self.data, day)
        if not _exists(path):
            tables.write_parquet(with_day_ids(day, frame).drop(columns="TX_FRAUD"), path)

    def _path(self, pattern: str, day: dt.date) -> str:
        return pattern.replace("{date}", f"{day}")

    @property
    def _record(self) -> str:
        return posixpath.join(posixpath.dirname(posixpath.dirname(self.data)), RECORD)

    def _save(self) -> None:
        content = dataclasses.asdict(self)
        del content["data"], content["labels"]
        tables.write_text(json.dumps(content, indent=2) + "\n", self._record)

    def _check_folders(self) -> None:
        """Raise ConfigError if a folder holds other files: real transactions and invented ones must never mix."""
        is_new = not _exists(self._record)
        last = self.today - FIRST_DAY
        dates = [] if is_new else [FIRST_DAY + dt.timedelta(days=number) for number in range(last.days)]
        for flag, pattern in (("--data", self.data), ("--labels", self.labels)):
            filesystem, folder = filesystems.of(posixpath.dirname(pattern))
            ours = {posixpath.basename(self._path(pattern, day)) for day in dates}
            names = filesystem.find(folder, maxdepth=1) if filesystem.exists(folder) else []
            visible = {name for name in map(posixpath.basename, names) if not name.startswith(".")}
            if others := sorted(visible - ours):
                raise ConfigError(
                    f"{flag}: {posixpath.dirname(pattern)} holds {others[0]!r}, which this command did not write: "
                    "synthetic rows never go beside real ones; name an empty folder, or set FRAUD_SYNTHETIC=0"
                )


def _labels(day: dt.date, frame: pd.DataFrame) -> pd.DataFrame:
    """The labels of a day's transactions, each known LABEL_DAYS later."""
    known_at = frame["TX_DATETIME"] + pd.Timedelta(days=LABEL_DAYS)
    return with_day_ids(day, frame)[["TRANSACTION_ID", "TX_FRAUD"]].assign(known_at=known_at)


def _exists(path: str) -> bool:
    filesystem, name = filesystems.of(path)
    return bool(filesystem.exists(name))


def await_champion(settings: Settings, hours: float) -> bool:
    """Whether the registry has a champion within `hours`."""
    deadline = time.monotonic() + hours * 3600
    while versions.champion_version(settings) is None:
        if time.monotonic() >= deadline:
            return False
        logger.info("waiting for the first champion of %s", settings.model_name)
        time.sleep(POLL_S)
    return True


def _drift(text: str) -> float | None:
    return None if text == "auto" else float(text)


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m ray_jobs.synthetic",
        description="Make a synthetic world day by day. Refuses folders with other files. Runs without Ray.",
        **examples("python -m ray_jobs.synthetic start", "python -m ray_jobs.synthetic day --run first"),
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", default=DATA, help="a day's file, with {date} (default: %(default)s)")
    shared.add_argument(
        "--labels", default=LABELS, help="labels that become known on a day, with {date} or * (default: %(default)s)"
    )
    shared.add_argument("--seed", type=int, default=argparse.SUPPRESS, help="of a new world (default: 7)")
    shared.add_argument("--customers", type=int, default=argparse.SUPPRESS, help="of a new world (default: 250)")
    shared.add_argument("--await-champion", type=float, metavar="HOURS", help="wait for the registry's champion first")
    verbs = top.add_subparsers(dest="action", required=True, metavar="start|day|today")

    def verb(name: str, text: str, *flags: str) -> argparse.ArgumentParser:
        example = " ".join(["python -m ray_jobs.synthetic", name, *flags])
        return verbs.add_parser(name, parents=[shared], help=text, description=f"{text}.", **examples(example))

    verb("start", f"Make {HISTORY_DAYS} days of history")
    day = verb("day", f"Make the next day's transactions, and the labels of {LABEL_DAYS} days before, which became "
               "known on it", "--run second --drift 1.5")  # fmt: skip
    verb("today", "Print the morning after the last day")
    day.add_argument("--run", help="who asks, such as Airflow's run id; a run that asks again gets its day again")
    day.add_argument("--date", help="an earlier day again, YYYY-MM-DD")
    day.add_argument(
        "--drift", type=_drift, default=None,
        help=f"0 or more, as in ray_jobs.generate (default: auto, {DRIFT:g} after {CALM_DAYS} days)",
    )  # fmt: skip
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 3 if no champion came in time."""
    arguments = _parser().parse_args(argv)
    turn_telemetry_off()
    if arguments.action == "day" and not (arguments.run or arguments.date):
        raise ConfigError("day needs --run NAME, so that a repeated call makes no second day; or --date")
    settings = Settings.from_environment()
    if arguments.await_champion is not None and not await_champion(settings, arguments.await_champion):
        logger.error("%s has no champion after %g hours", settings.model_name, arguments.await_champion)
        return NO_MODEL
    parameters = {name: getattr(arguments, name) for name in ("seed", "customers") if hasattr(arguments, name)}
    labels = arguments.labels.replace("*", "{date}")
    world = World.open(settings.locate(arguments.data), settings.locate(labels), **parameters)
    day = world.today
    if arguments.action != "today":
        world.begin()
    if arguments.action == "day":
        date = day_named(arguments.date) if arguments.date else None
        world, day = world.advance(arguments.run or f"date {date}", arguments.drift, date)
    sys.stdout.write(f"day: {day}\n")  # the DAGs read this line
    return 0


if __name__ == "__main__":
    run_command(main)
