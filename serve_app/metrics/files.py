"""Shares the counts of all replicas on a node in one folder, so that any replica can answer for all.

Each replica writes its own file and holds a lock that the operating system releases when it dies. `retired.json` holds
the counts of dead replicas: if a counter fell, Prometheus would see a restart and its rate would jump.
(prometheus_client's multiprocess mode does not fit: it is chosen at import, which Ray does before us; it writes to a
memory map at each count; and it keeps a file per process forever.)
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

# Gauges that are aggregated by maximum, not by sum.
NEWEST = frozenset(
    {
        "fraud_model_loaded_timestamp_seconds",
        "fraud_history_newest_event_timestamp_seconds",
        "fraud_label_newest_applied_timestamp_seconds",
        "fraud_labels_unmatched",  # earlier label processes counted the same labels
    }
)
_RETIRED = "retired.json"
_MOST_TRIES = 5
Key = tuple[str, tuple[str, ...]]


@dataclass
class Totals:
    """Values by (metric, label values). A histogram has the counts per bucket, the overflow count, then the sum."""

    counters: dict[Key, float] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, list[float]] = field(default_factory=dict)

    def copy(self) -> Totals:
        """A deep copy."""
        histograms = {key: list(values) for key, values in self.histograms.items()}
        return Totals(dict(self.counters), dict(self.gauges), histograms)

    def add(self, other: Totals, *, is_alive: bool = True) -> None:
        """Add the values of another replica. Gauges of a dead replica do not count."""
        for key, value in other.counters.items():
            self.counters[key] = self.counters.get(key, 0) + value
        for key, values in other.histograms.items():
            mine = self.histograms.setdefault(key, [0] * len(values))
            if len(mine) == len(values):  # another version may have other buckets
                mine[:] = [a + b for a, b in zip(mine, values, strict=True)]
        for key, value in other.gauges.items() if is_alive else ():
            before = self.gauges.get(key, 0)
            self.gauges[key] = max(before, value) if key[0] in NEWEST else before + value

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {
            "counters": [[name, labels, value] for (name, labels), value in self.counters.items()],
            "gauges": [[name, labels, value] for (name, labels), value in self.gauges.items()],
            "histograms": [[name, labels, values] for (name, labels), values in self.histograms.items()],
        }

    @classmethod
    def from_dict(cls, read: Any) -> Totals:
        """The reverse of `to_dict`. Raises LookupError, TypeError or ValueError for invalid content."""
        totals = cls()
        for name, labels, value in read["counters"]:
            totals.counters[str(name), tuple(map(str, labels))] = float(value)
        for name, labels, value in read["gauges"]:
            totals.gauges[str(name), tuple(map(str, labels))] = float(value)
        for name, labels, values in read["histograms"]:
            totals.histograms[str(name), tuple(map(str, labels))] = [float(value) for value in values]
        return totals


class MetricsFolder:
    """This replica's file in the shared `folder`, which is created. Raises OSError if it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"replica-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(folder / "folder.lock"):
            self._retire_dead()
            self._lock: IO[str] = self._lock_of(self._name).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def write(self, totals: Totals) -> None:
        """Write this replica's counts. Raises OSError."""
        self._write(f"{self._name}.json", totals.to_dict())

    def others(self) -> Totals:
        """The sum over all other replicas, dead or alive. Raises OSError."""
        total = Totals()
        for _ in range(_MOST_TRIES):
            total, retired, generation = self._retired()
            for name in self._names() - retired - {self._name}:
                total.add(self._read(name), is_alive=self._is_alive(name))
            if self._retired()[2] == generation:
                break  # no replica was retired while we read, so none is missing or counted twice
        return total

    def close(self) -> None:
        """Release the lock. The last counts stay in the sum."""
        self._lock.close()

    def _retire_dead(self) -> None:
        """Move the counts of dead replicas to retired.json. If killed halfway, the next replica continues."""
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
        """Read retired.json: the counts, the names of replicas whose files may still exist, and the generation.

        The generation increases with each write. Names stay until the next write and are never reused.
        """
        path = self._folder / _RETIRED
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            return Totals.from_dict(read), set(read["retired"]), int(read["generation"])
        except FileNotFoundError:
            return Totals(), set(), 0
        except (LookupError, TypeError, ValueError) as error:
            logger.warning("%s is invalid (%s) and is ignored", path, type(error).__name__)
            return Totals(), set(), 0

    def _read(self, name: str) -> Totals:
        try:
            return Totals.from_dict(json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:  # not written yet, or just retired
            return Totals()
        except (LookupError, TypeError, ValueError) as error:
            logger.warning("the counts of %s are invalid (%s) and are ignored", name, type(error).__name__)
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
                fcntl.flock(
                    lock, fcntl.LOCK_SH | fcntl.LOCK_NB
                )  # shared, so that two concurrent checks do not conflict
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False
