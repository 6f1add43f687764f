"""The stored history of all entities as arrays: layout, checks, and which frauds can be dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fraud.history.definition import FRAUD_RECORD, EntityPlan


@dataclass(frozen=True)
class KnownFrauds:
    """Frauds of one plan, and the interval in which each was known.

    keys: str (n,). times: int64 (n,), of the transactions. ids: uint32 (n,). known_from, known_until: int64 (n,): a
    fraud counts if known_from <= moment < known_until. All times are microseconds since 1970.
    """

    keys: np.ndarray
    times: np.ndarray
    ids: np.ndarray
    known_from: np.ndarray
    known_until: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def join(cls, parts: Sequence[KnownFrauds]) -> KnownFrauds:
        """Concatenate; empty if `parts` is empty."""
        names = ("times", "ids", "known_from", "known_until")
        kinds = (np.int64, np.uint32, np.int64, np.int64)
        keys = np.concatenate([np.empty(0, dtype=object), *(part.keys for part in parts)])
        return cls(keys, *(
            np.concatenate([np.empty(0, dtype=kind), *(getattr(part, name) for part in parts)])
            for name, kind in zip(names, kinds, strict=True)
        ))  # fmt: skip

    def take(self, chosen: np.ndarray) -> KnownFrauds:
        """Select by positions or by a mask."""
        return KnownFrauds(
            self.keys[chosen], self.times[chosen], self.ids[chosen], self.known_from[chosen], self.known_until[chosen]
        )


@dataclass(frozen=True)
class HistoryState:
    """Stored history of every entity of one plan. Arrays only.

    keys: str (n_entities,). events: EntityPlan.record (n_events,), grouped by entity, sorted by time. starts: int64
    (n_entities + 1,), first event of each entity. frauds: FRAUD_RECORD (n_frauds,). fraud_starts: int64
    (n_entities + 1,).
    """

    keys: np.ndarray
    events: np.ndarray
    starts: np.ndarray
    frauds: np.ndarray
    fraud_starts: np.ndarray

    @property
    def last_time(self) -> int | None:
        """Time of the newest event, microseconds since 1970; None without events."""
        return int(self.events["time"].max()) if len(self.events) else None

    @classmethod
    def empty(cls, plan: EntityPlan) -> HistoryState:
        """A state without entities."""
        nothing = np.zeros(1, dtype=np.int64)
        return cls(
            np.empty(0, dtype=object), np.empty(0, dtype=plan.record), nothing, np.empty(0, FRAUD_RECORD), nothing
        )


def to_arrays(states: Iterable[HistoryState]) -> dict[str, np.ndarray]:
    """Convert states to numeric arrays that `from_arrays` reads; records become raw bytes."""
    arrays: dict[str, np.ndarray] = {}
    for i, state in enumerate(states):
        encoded = [str(key).encode(errors="surrogatepass") for key in state.keys]
        arrays[f"history.{i}.key_lengths"] = np.array([len(key) for key in encoded], dtype=np.int64)
        arrays[f"history.{i}.key_bytes"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        for name in ("events", "frauds"):
            arrays[f"history.{i}.{name}"] = np.ascontiguousarray(getattr(state, name)).view(np.uint8)
        arrays[f"history.{i}.starts"] = np.asarray(state.starts, dtype=np.int64)
        arrays[f"history.{i}.fraud_starts"] = np.asarray(state.fraud_starts, dtype=np.int64)
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], plans: Iterable[EntityPlan]) -> tuple[HistoryState, ...]:
    """The states that `to_arrays` wrote, one per plan.

    Raises KeyError or ValueError if an array is missing or truncated. `is_sound` checks that the arrays are consistent.
    """
    states = []
    for i, plan in enumerate(plans):
        lengths = arrays[f"history.{i}.key_lengths"]
        ends = np.cumsum(lengths)
        blob = arrays[f"history.{i}.key_bytes"].tobytes()
        if len(lengths) and (lengths.min() < 0 or ends[-1] != len(blob)):
            raise ValueError("the lengths of the keys do not add up")
        keys = np.empty(len(lengths), dtype=object)
        keys[:] = [
            blob[end - n : end].decode(errors="surrogatepass")
            for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)
        ]
        states.append(
            HistoryState(
                keys,
                arrays[f"history.{i}.events"].view(plan.record),
                arrays[f"history.{i}.starts"],
                arrays[f"history.{i}.frauds"].view(FRAUD_RECORD),
                arrays[f"history.{i}.fraud_starts"],
            )
        )
    return tuple(states)


def starts_of(counts: ArrayLike) -> np.ndarray:
    """Start of each group of these sizes, and the end of the last: int64 (n_groups + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def positions_of(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The positions begins[i] to begins[i] + counts[i] - 1, one range after the other: int64 (sum of counts,)."""
    return np.repeat(begins - starts_of(counts)[:-1], counts) + np.arange(int(counts.sum()))


def count_per_group(mask: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Number of True values per group: int64 (n_groups,). mask: bool (n,), starts: int64 (n_groups + 1,)."""
    return np.diff(starts_of(mask)[starts])


def frauds_that_matter(times: np.ndarray, starts: np.ndarray, plan: EntityPlan, newest: int) -> np.ndarray:
    """Which frauds a state retains at `newest` (microseconds since 1970): bool (n_frauds,).

    Per entity: the newest `capacity` known frauds, which the kernel counts, and all frauds not known yet.
    times: int64 (n_frauds,), grouped by entity and ascending. starts: int64 (n_entities + 1,).
    """
    known_ends = np.repeat(starts[:-1] + count_per_group(times < newest - plan.delay, starts), np.diff(starts))
    return (times >= newest - plan.memory) & (np.arange(len(times)) >= known_ends - plan.capacity)


def is_sound(state: HistoryState, plan: EntityPlan) -> bool:
    """Whether each entity's records lie inside the arrays, sorted by time; compiled loops do not check bounds."""
    return state.events.dtype == plan.record and all(
        starts.shape == (len(state.keys) + 1,)
        and starts.dtype == np.int64
        and int(starts[0]) == 0
        and int(starts[-1]) == len(records)
        and bool((np.diff(starts) >= 0).all())
        and _is_sorted(records["time"], starts)
        for records, starts in ((state.events, state.starts), (state.frauds, state.fraud_starts))
    )


def _is_sorted(times: np.ndarray, starts: np.ndarray) -> bool:
    """Whether the times of each group ascend."""
    ascends = np.ones(len(times) + 1, dtype=bool)
    ascends[1:-1] = np.diff(times) >= 0
    ascends[starts] = True
    return bool(ascends.all())
