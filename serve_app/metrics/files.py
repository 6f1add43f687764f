"""The counts of all replicas on a node, in one folder, so that whichever replica is asked answers for all.

Each replica writes its own file, and holds a lock beside it that the operating system releases however it dies. The
counts of the dead are kept, in `retired.json`: a counter that fell would look like a restart to Prometheus, and its
rate would jump. (prometheus_client's own multiprocess mode is chosen when it is first imported, which Ray has done
before us, writes to a memory map at each count, and keeps one file for every process that ever was.)
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fraud.data.locks import exclusive

logger = logging.getLogger(__name__)

# Gauges of which the largest counts, and not the sum.
NEWEST = frozenset(
    {
        "fraud_model_loaded_timestamp_seconds",
        "fraud_history_newest_event_timestamp_seconds",
        "fraud_label_newest_applied_timestamp_seconds",
        "fraud_labels_unmatched",  # whoever followed the labels before counted the same ones
    }
)
_RETIRED = "retired.json"
_MOST_TRIES = 5
Key = tuple[str, tuple[str, ...]]


@dataclass
class Totals:
    """Values by (metric, label values). Of a histogram: counts by bucket, the count beyond them all, then the sum."""

    counters: dict[Key, float] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, list[float]] = field(default_factory=dict)

    def copy(self) -> Totals:
        """A copy that shares nothing."""
        found = {key: list(values) for key, values in self.histograms.items()}
        return Totals(dict(self.counters), dict(self.gauges), found)

    def add(self, other: Totals, *, is_alive: bool = True) -> None:
        """Add another replica's; of a dead one only what it has counted, not how it stood."""
        for key, value in other.counters.items():
            self.counters[key] = self.counters.get(key, 0) + value
        for key, values in other.histograms.items():
            mine = self.histograms.setdefault(key, [0] * len(values))
            if len(mine) == len(values):  # another version of this code may have other buckets
                mine[:] = [a + b for a, b in zip(mine, values, strict=True)]
        for key, value in other.gauges.items() if is_alive else ():
            before = self.gauges.get(key, 0)
            self.gauges[key] = max(before, value) if key[0] in NEWEST else before + value

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "counters": [[name, labels, value] for (name, labels), value in self.counters.items()],
            "gauges": [[name, labels, value] for (name, labels), value in self.gauges.items()],
            "histograms": [[name, labels, values] for (name, labels), values in self.histograms.items()],
        }

    @classmethod
    def from_dict(cls, read: Any) -> Totals:
        """The reverse. Raises LookupError, TypeError or ValueError for what is none."""
        totals = cls()
        for name, labels, value in read["counters"]:
            totals.counters[str(name), tuple(map(str, labels))] = float(value)
        for name, labels, value in read["gauges"]:
            totals.gauges[str(name), tuple(map(str, labels))] = float(value)
        for name, labels, values in read["histograms"]:
            totals.histograms[str(name), tuple(map(str, labels))] = [float(value) for value in values]
        return totals


class MetricsFolder:
    """This replica's place among the others in `folder`, which is made. Raises OSError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"replica-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(folder / "folder.lock"):
            self._retire_the_dead()
            self._lock: IO[str] = self._lock_of(self._name).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def write(self, totals: Totals) -> None:
        """Put this replica's counts where the others read them. Raises OSError."""
        self._write(f"{self._name}.json", totals.to_dict())

    def others(self) -> Totals:
        """The sum over every other replica, dead ones included. Raises OSError."""
        total = Totals()
        for _ in range(_MOST_TRIES):
            total, retired, generation = self._retired()
            for name in self._names() - retired - {self._name}:
                total.add(self._read(name), is_alive=self._is_alive(name))
            if self._retired()[2] == generation:
                break  # nobody was retired while we read, so nobody is missing or there twice
        return total

    def close(self) -> None:
        """End this replica's life; what it wrote last stays in the sum."""
        self._lock.close()

    def _retire_the_dead(self) -> None:
        """Add the dead to the file of the retired, and remove their own. Killed halfway, the next replica goes on."""
        total, retired, generation = self._retired()
        dead = {name for name in self._names() if not self._is_alive(name)}
        if dead - retired:
            for name in dead - retired:
                total.add(self._read(name), is_alive=False)
            self._write(_RETIRED, {"generation": generation + 1, "retired": sorted(dead), **total.to_dict()})
        for name in dead:
            (self._folder / f"{name}.json").unlink(missing_ok=True)
            self._lock_of(name).unlink(missing_ok=True)

    def _retired(self) -> tuple[Totals, set[str], int]:
        """The counts of the retired, the names of those whose files may still be there, and how often it was written.

        Names stay in the file until it is next written; none is ever given twice.
        """
        path = self._folder / _RETIRED
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            return Totals.from_dict(read), set(read["retired"]), int(read["generation"])
        except FileNotFoundError:
            return Totals(), set(), 0
        except (LookupError, TypeError, ValueError) as error:
            logger.warning("%s is not ours (%s): counting goes on without it", path, type(error).__name__)
            return Totals(), set(), 0

    def _read(self, name: str) -> Totals:
        try:
            return Totals.from_dict(json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:  # it has not written yet, or was retired this moment
            return Totals()
        except (LookupError, TypeError, ValueError) as error:
            logger.warning("the counts of %s cannot be read (%s)", name, type(error).__name__)
            return Totals()

    def _write(self, name: str, content: dict[str, Any]) -> None:
        draft = self._folder / f"{self._name}.draft"
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(self._folder / name)

    def _names(self) -> set[str]:
        return {path.stem for path in self._folder.glob("replica-*") if path.suffix in (".json", ".lock")}

    def _lock_of(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _is_alive(self, name: str) -> bool:
        try:
            with self._lock_of(name).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False
