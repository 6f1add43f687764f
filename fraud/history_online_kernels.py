"""The compiled part of reading one row's history: remembered bytes in, features out. See fraud/history_online.py.

It runs under the GIL (no `nogil`), so that threads may share its scratch arrays.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fraud.history_kernels import is_in_scan, window_statistics

# Words of 32 bits: a record is time (2), id (1), then the kept columns; a fraud is time (2) and id (1).
_ID, _FIRST_COLUMN, _FRAUD_WIDTH = 2, 3, 3


@njit(cache=True, inline="always")
def _time(words, base):  # pragma: no cover - compiled
    return np.int64(np.uint64(words[base]) | (np.uint64(words[base + 1]) << np.uint64(32)))


@njit(cache=True)
def read_row(
    events, frauds, row, layout, statistics, statistic_starts, windows, window_starts, delay, memory, capacity,
    times, order, columns, numbers, fraud_times, table, stamps, stamp, out,
):  # pragma: no cover - compiled  # fmt: skip
    """Write the features of all history entries of one plan; return whether the row's id was remembered already.

    events, frauds: uint32 words of records in the order of their arrival; row: words of the row's own record. Events
    later than the row, records of an id that came before, and the row itself are passed over.
    layout: int64 (n_entries, 5), for each entry the kept column of value, other, latitude and longitude (-1: none) and
    its first output. statistics, windows: those of all entries, entry e from starts[e] to starts[e + 1].
    times, order, columns, numbers (float32 view of columns), fraud_times, table, stamps, stamp: scratch; columns is
    uint32 (n_columns, n), stamps are below stamp[0] + 1.
    """
    width, now, own = len(row), _time(row, 0), row[_ID]
    n, n_events, is_known, is_retry = 0, len(events) // width, False, False
    stamp[0] += 1
    for k in range(max(0, n_events - len(order)), n_events):
        base = k * width
        time, event_id = _time(events, base), events[base + _ID]
        if event_id != 0:
            if is_in_scan(event_id, table, stamps, stamp[0]):
                continue
            if event_id == own:
                is_known, is_retry = True, time == now
                continue
        # What arrived after the row's own first copy was not before it.
        if time > now or (is_retry and time == now):
            continue
        place = n
        while place > 0 and times[place - 1] > time:
            times[place], order[place] = times[place - 1], order[place - 1]
            place -= 1
        times[place], order[place] = time, base
        n += 1
    start = max(0, n - capacity)
    for i in range(start, n):
        for j in range(width - _FIRST_COLUMN):
            columns[j, i] = events[order[i] + _FIRST_COLUMN + j]
    n_frauds = 0
    for k in range(max(0, len(frauds) // _FRAUD_WIDTH - len(fraud_times)), len(frauds) // _FRAUD_WIDTH):
        time = _time(frauds, k * _FRAUD_WIDTH)
        if own != 0 and frauds[k * _FRAUD_WIDTH + _ID] == own:
            continue
        place = n_frauds
        while place > 0 and fraud_times[place - 1] > time:
            fraud_times[place] = fraud_times[place - 1]
            place -= 1
        fraud_times[place] = time
        n_frauds += 1
    mine = row[_FIRST_COLUMN:].view(np.float32)
    for e in range(len(layout)):
        value, other, latitude, longitude, first = layout[e]
        stamp[0] += 1
        window_statistics(
            times,
            numbers[value] if value >= 0 else numbers[0, :0],
            columns[other] if other >= 0 else columns[0, :0],
            numbers[latitude] if latitude >= 0 else numbers[0, :0],
            numbers[longitude] if longitude >= 0 else numbers[0, :0],
            start, n, fraud_times, 0, n_frauds, now,
            np.float64(mine[value]) if value >= 0 else 0.0,
            row[_FIRST_COLUMN + other] if other >= 0 else np.uint32(0),
            np.float64(mine[latitude]) if latitude >= 0 else 0.0,
            np.float64(mine[longitude]) if longitude >= 0 else 0.0,
            statistics[statistic_starts[e] : statistic_starts[e + 1]],
            windows[window_starts[e] : window_starts[e + 1]],
            delay, memory, capacity, table, stamps, stamp[0], out[first:],
        )  # fmt: skip
    return is_known
