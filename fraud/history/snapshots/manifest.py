"""The manifest of one day's history: its files, its sources, and its link to the day before."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fraud.errors import DataError
from fraud.history.snapshots.segments import Part

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class DayManifest:
    """One day of one plan.

    previous: chain hash of the day before; empty for the first day. sources: files of the rows,
    {name: [bytes, modified]}. made_by: train, score or build. own_labels: whether the rows' own label column counts.
    """

    day: dt.date
    plan: str
    zone: str
    previous: str
    parts: tuple[Part, ...]
    made_by: str = ""
    own_labels: bool = False
    sources: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    created: str = ""

    @property
    def rows(self) -> int:
        """Transactions with the entity."""
        return sum(part.rows for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """32 hex digits of the rows, whatever their order and partitions."""
        sums = [sum(part.sums[i] for part in self.parts) % 2**64 for i in (0, 1)]
        return f"{sums[0]:016x}{sums[1]:016x}"

    @property
    def chain(self) -> str:
        """Chain hash: SHA-256 of `previous`, the day and its rows."""
        content = f"{self.previous} {self.plan} {self.zone} {self.day} {self.rows} {self.fingerprint}"
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest's text."""
        plain = {
            "format": FORMAT, "day": self.day.isoformat(), "plan": self.plan, "zone": self.zone, "rows": self.rows,
            "fingerprint": self.fingerprint, "previous": self.previous, "chain": self.chain, "made_by": self.made_by,
            "own_labels": self.own_labels, "created": self.created,
            "sources": dict(self.sources), "parts": [part.to_dict() for part in self.parts],
        }  # fmt: skip
        return json.dumps(plain, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes, path: str) -> DayManifest:
        """Read a manifest. Raises DataError if it is malformed or its hashes do not match."""
        try:
            plain = json.loads(text)
            if plain["format"] != FORMAT:
                raise DataError(f"{path} has format {plain['format']!r}; this version reads {FORMAT}: build it again")
            day = cls(
                day=dt.date.fromisoformat(plain["day"]), plan=plain["plan"], zone=plain["zone"],
                previous=plain["previous"], parts=tuple(Part.from_dict(part) for part in plain["parts"]),
                made_by=plain["made_by"], own_labels=bool(plain["own_labels"]), sources=plain["sources"],
                created=plain["created"],
            )  # fmt: skip
            if (day.chain, day.fingerprint) != (plain["chain"], plain["fingerprint"]):
                raise DataError(f"{path} was altered: its hashes do not match its content; build it again")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is not a manifest of a day's history ({error}); build it again") from None
        return day
