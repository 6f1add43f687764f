"""The interval in which each transaction was a known fraud, from the labels, so that a replay of any day is correct."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fraud.history.records import long_hashes
from fraud.history.state import KnownFrauds, positions_of
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT

_LATEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class LabelIntervals:
    """Every label with the time it became known and the time of the id's next label, sorted by id hash and time.

    id_hashes: uint64 (n,); known_from, known_until: int64 (n,) microseconds since 1970; is_fraud: bool (n,).
    """

    id_hashes: np.ndarray
    known_from: np.ndarray
    known_until: np.ndarray
    is_fraud: np.ndarray

    def of(self, hashes: np.ndarray, transactions: KnownFrauds) -> KnownFrauds:
        """The transactions with the intervals in which they were known frauds. hashes: uint64 (n,), of their ids."""
        first = np.searchsorted(self.id_hashes, hashes, side="left")
        counts = np.searchsorted(self.id_hashes, hashes, side="right") - first
        owner = np.repeat(np.arange(len(hashes)), counts)
        at = positions_of(first, counts)
        owner, at = owner[self.is_fraud[at]], at[self.is_fraud[at]]
        return replace(transactions.take(owner), known_from=self.known_from[at], known_until=self.known_until[at])

    def until_first_label(self, own: KnownFrauds, hashes: np.ndarray, labelled: KnownFrauds) -> KnownFrauds:
        """Frauds of the data's own label, each ended where the label store's first label begins.

        hashes: of the ids of the labelled transactions.
        """
        if not len(own) or not len(labelled):
            return own
        first = self.known_from[np.searchsorted(self.id_hashes, hashes, side="left")]
        names = ["keys", "times", "ids"]
        theirs = pd.MultiIndex.from_arrays([getattr(labelled, name) for name in names])
        is_repeated = theirs.duplicated()
        at = theirs[~is_repeated].get_indexer(pd.MultiIndex.from_arrays([getattr(own, name) for name in names]))
        until = np.where(at >= 0, first[~is_repeated][at], _LATEST)
        return replace(own, known_until=np.minimum(own.known_until, until))


def label_intervals(labels: pd.DataFrame | None) -> LabelIntervals:
    """The intervals of labels, columns id, is_fraud, known_at. If two have the same time, the later row counts.

    labels: LabelStore.ledger, or None for no labels.
    """
    if labels is None or not len(labels):
        nothing = np.empty(0, dtype=np.int64)
        return LabelIntervals(np.empty(0, dtype=np.uint64), nothing, nothing, np.empty(0, dtype=bool))
    hashes = long_hashes(labels[ID].astype(str))
    moments = labels[KNOWN_AT].to_numpy(dtype="datetime64[us]").astype(np.int64)
    order = np.lexsort((np.arange(len(labels)), moments, hashes))
    hashes, moments = hashes[order], moments[order]
    until = np.append(moments[1:], _LATEST)
    until[np.append(hashes[1:] != hashes[:-1], True)] = _LATEST
    return LabelIntervals(hashes, moments, until, labels[IS_FRAUD].to_numpy(dtype=bool)[order])
