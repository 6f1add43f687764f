"""Compiled inner loops of entity history: one row's window statistics from its entity's stored events.

Batches and single requests call the same `window_statistics` on the same events in the same order, so their features
are bit-identical. Both live in this file because numba checks only the function's own file when it validates its
cache. Times are int64 microseconds since 1970; events are sorted by time. See fraud/history/replay.py.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Statistics, in the order of fraud.schema.columns.Statistic.
COUNT, SUM, MEAN, STD, MAX, RATIO, ZSCORE, DISTINCT, FIRST_SEEN, RISK, FRAUDS = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
TIME_SINCE_LAST, DISTANCE_FROM_LAST, SPEED_FROM_LAST = 11, 12, 13
# Prior of the spread: this many pseudo-observations, each as far from the mean as the mean is from zero.
SPREAD_PRIOR = 3.0
# Ratios and z-scores are clipped to this.
LARGEST_RATIO = 1e6
EARTH_RADIUS_KM = 6371.0088
# Shortest time between two transactions in a speed.
SHORTEST_TRIP_HOURS = 1.0 / 60.0
# In 32-bit words: a record is time (2), id (1), then the stored columns; a fraud is time (2) and id (1).
_ID, _FIRST_COLUMN, _FRAUD_WIDTH = 2, 3, 3


@njit(cache=True, nogil=True, inline="always")
def count_up_to(times, start, stop, limit):  # pragma: no cover - compiled
    """Position after the last of times[start:stop], ascending, that is at most `limit`."""
    low, high = start, stop
    while low < high:
        middle = (low + high) // 2
        if times[middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def distance_km(latitude, longitude, other_latitude, other_longitude):  # pragma: no cover - compiled
    """Great-circle distance in km of two points in degrees (haversine formula); NaN if a point is missing."""
    # Stored coordinates are float32. Radians in float32 would be wrong by metres.
    a, b = math.radians(np.float64(latitude)), math.radians(np.float64(other_latitude))
    turn = math.radians(np.float64(other_longitude) - np.float64(longitude))
    half = math.sin((b - a) / 2.0) ** 2 + math.cos(a) * math.cos(b) * math.sin(turn / 2.0) ** 2
    if math.isnan(half):  # min() would make it the far side of the Earth
        return np.nan
    return 2.0 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half)))


@njit(cache=True, nogil=True)
def is_in_scan(other, table, stamps, stamp):  # pragma: no cover - compiled
    """Insert `other` into this scan's open-addressing table; True if present. A slot is in use if its stamp matches."""
    mask = np.uint32(len(table) - 1)
    slot = (np.uint32(other) * np.uint32(2654435769)) & mask
    while stamps[slot] == stamp:
        if table[slot] == other:
            return True
        slot = (slot + np.uint32(1)) & mask
    stamps[slot] = stamp
    table[slot] = other
    return False


@njit(cache=True, nogil=True)
def window_statistics(
    times, values, others, latitudes, longitudes, start, stop, fraud_times, fraud_start, fraud_stop,
    known_from, known_until, moment,
    now, value, other, latitude, longitude, statistics, windows, delay, memory, capacity, table, stamps, stamp, out,
):  # pragma: no cover - compiled  # fmt: skip
    """Write one row's statistics of one history entry: one number per window, or one from TIME_SINCE_LAST on.

    times, values, others, latitudes, longitudes: the entity's events are [start, stop), all before the row. Unused
    arrays are empty. fraud_times: times of the frauds [fraud_start, fraud_stop), ascending.
    known_from, known_until: a fraud counts if known_from <= moment < known_until. Empty: all frauds count.
    now, value, other, latitude, longitude: the row itself. windows: int64, ascending. delay, memory: int64
    microseconds. capacity: events used.
    table: uint32, stamps: int64, same length: a power of two above twice the events. stamp: unused so far.
    out: float64 (n_outputs,).
    """
    n_windows = len(windows)
    needs_scan = False
    for statistic in statistics:
        needs_scan = needs_scan or (SUM <= statistic <= FIRST_SEEN)
    column = 0
    if needs_scan:
        # One pass from the newest event back; each window continues where the shorter one ended.
        shift = 0.0  # the newest known value, subtracted from all: avoids cancellation in the sums
        if len(values) > 0:
            for k in range(stop - 1, start - 1, -1):
                if not math.isnan(values[k]):
                    shift = np.float64(values[k])
                    break
        n, known, total, squares, largest, distinct = 0, 0, 0.0, 0.0, -np.inf, 0
        is_first = 0.0 if other == 0 else 1.0  # a missing value is not new
        k = stop - 1
        for w in range(n_windows):
            oldest = now - windows[w]
            while k >= start and times[k] >= oldest:
                n += 1
                if len(values) > 0 and not math.isnan(values[k]):
                    difference = np.float64(values[k]) - shift
                    known += 1
                    total += difference
                    squares += difference * difference
                    largest = max(largest, np.float64(values[k]))
                if len(others) > 0:
                    if others[k] == other:
                        is_first = 0.0
                    if others[k] != 0 and not is_in_scan(others[k], table, stamps, stamp):
                        distinct += 1
                k -= 1
            mean, spread = 0.0, 0.0
            if known > 0:
                mean = shift + total / known
                spread = max(squares - total * total / known, 0.0)
            column = 0
            for statistic in statistics:
                if statistic >= TIME_SINCE_LAST:
                    column += 1
                    continue
                result = 0.0
                if statistic == COUNT:
                    result = n
                elif statistic == SUM:
                    result = shift * known + total
                elif statistic == MEAN:
                    result = mean
                elif statistic == STD:
                    result = math.sqrt(spread / (known - 1)) if known > 1 else 0.0
                elif statistic == MAX:
                    result = largest if known > 0 else 0.0
                elif statistic == RATIO:
                    result = 1.0
                    if known > 0 and abs(mean) > 1e-9:
                        result = min(max(value / mean, -LARGEST_RATIO), LARGEST_RATIO)
                    if math.isnan(value):
                        result = np.nan
                elif statistic == ZSCORE:
                    if known > 0:
                        deviation = math.sqrt((spread + SPREAD_PRIOR * mean * mean) / (known + SPREAD_PRIOR))
                        result = (value - mean) / max(deviation, 1e-9)
                        result = min(max(result, -LARGEST_RATIO), LARGEST_RATIO)
                    if math.isnan(value):
                        result = np.nan
                elif statistic == DISTINCT:
                    result = distinct
                elif statistic == FIRST_SEEN:
                    result = is_first
                out[column + w] = result
                column += n_windows
    known_by = now - delay - 1  # frauds younger than the delay are not known yet; excludes the row itself
    # Events beyond the memory never count: when they are deleted must not change the features.
    has_last = stop > start and now - times[stop - 1] <= memory
    column = 0
    for statistic in statistics:
        if statistic >= TIME_SINCE_LAST:
            result = 0.0
            if statistic == TIME_SINCE_LAST:
                # Without an earlier event: the memory, in seconds.
                result = memory / 1e6
                if has_last:
                    result = min(result, (now - times[stop - 1]) / 1e6)
            elif has_last:
                result = distance_km(latitudes[stop - 1], longitudes[stop - 1], latitude, longitude)
                if statistic == SPEED_FROM_LAST:
                    result /= max((now - times[stop - 1]) / 3600e6, SHORTEST_TRIP_HOURS)
                if math.isnan(result):  # a location is missing
                    result = 0.0
            out[column] = result
            column += 1
            continue
        if statistic == COUNT and not needs_scan:
            for w in range(n_windows):
                out[column + w] = stop - count_up_to(times, start, stop, now - windows[w] - 1)
        elif statistic in (RISK, FRAUDS):
            fraud_end = count_up_to(fraud_times, fraud_start, fraud_stop, known_by)
            first_fraud = max(fraud_start, fraud_end - capacity)
            end = count_up_to(times, start, stop, known_by)
            counted, k = 0, fraud_end - 1
            for w in range(n_windows):
                oldest = known_by - windows[w]
                if len(known_from) == 0:
                    frauds = fraud_end - count_up_to(fraud_times, first_fraud, fraud_end, oldest)
                else:
                    while k >= fraud_start and fraud_times[k] > oldest and counted < capacity:
                        if known_from[k] <= moment < known_until[k]:
                            counted += 1
                        k -= 1
                    frauds = counted
                out[column + w] = frauds
                if statistic == RISK:
                    # One legitimate pseudo-transaction, so that one fraud among few does not give a risk of 1.
                    out[column + w] = frauds / (max(end - count_up_to(times, start, end, oldest), frauds) + 1.0)
        column += n_windows


@njit(cache=True, nogil=True)
def replay_rows(
    starts, stops, groups, fraud_starts, times, values, others, latitudes, longitudes, fraud_times,
    known_from, known_until, moments,
    now, value, other, latitude, longitude, targets, statistics, windows, delay, memory, capacity, table_size, out,
):  # pragma: no cover - compiled  # fmt: skip
    """`window_statistics` of many rows. Row i reads events [starts[i], stops[i]) and the frauds of groups[i] (-1: no
    entity), and writes out[targets[i]]. value, other, latitude, longitude, moments: (n_rows,) or empty.
    """
    table = np.zeros(table_size, dtype=np.uint32)
    stamps = np.zeros(table_size, dtype=np.int64)
    for i in range(len(targets)):
        fraud_start, fraud_stop = 0, 0
        if groups[i] >= 0 and len(fraud_times) > 0:
            fraud_start, fraud_stop = fraud_starts[groups[i]], fraud_starts[groups[i] + 1]
        window_statistics(
            times, values, others, latitudes, longitudes, starts[i], stops[i], fraud_times, fraud_start, fraud_stop,
            known_from, known_until, moments[i] if len(moments) > 0 else now[i],
            now[i], np.float64(value[i]) if len(value) > 0 else 0.0, other[i] if len(other) > 0 else np.uint32(0),
            np.float64(latitude[i]) if len(latitude) > 0 else 0.0,
            np.float64(longitude[i]) if len(longitude) > 0 else 0.0,
            statistics, windows, delay, memory, capacity, table, stamps, i + 1, out[targets[i]],
        )  # fmt: skip


@njit(cache=True, nogil=True)
def group_rows(codes, n_groups, starts, order):  # pragma: no cover - compiled
    """Stable counting sort: order, int64 (n,), lists the rows of group 0, then 1, ...; starts: int64 (n_groups + 1,).

    codes: int64 (n,) in 0 .. n_groups - 1.
    """
    starts[:] = 0
    for code in codes:
        starts[code + 1] += 1
    for g in range(n_groups):
        starts[g + 1] += starts[g]
    position = starts[:-1].copy()
    for i in range(len(codes)):
        order[position[codes[i]]] = i
        position[codes[i]] += 1


@njit(cache=True, nogil=True)
def last_positions(times, groups_of_rows, starts, row_times, stops):  # pragma: no cover - compiled
    """For each row the position after its group's last event at or before the row's time; 0 for group -1."""
    for i in range(len(stops)):
        g = groups_of_rows[i]
        stops[i] = count_up_to(times, starts[g], starts[g + 1], row_times[i]) if g >= 0 else 0


@njit(cache=True, nogil=True)
def crc32_of_texts(letters, begins, out):  # pragma: no cover - compiled
    """CRC-32 (as zlib; 0 becomes 1) of each text. letters: uint8; text i is letters[begins[i]:begins[i + 1]]."""
    table = np.empty(256, dtype=np.uint32)
    for i in range(256):
        c = np.uint32(i)
        for _ in range(8):
            c = (c >> np.uint32(1)) ^ (np.uint32(0xEDB88320) if c & np.uint32(1) else np.uint32(0))
        table[i] = c
    for i in range(len(out)):
        c = np.uint32(0xFFFFFFFF)
        for k in range(begins[i], begins[i + 1]):
            c = (c >> np.uint32(8)) ^ table[(c ^ np.uint32(letters[k])) & np.uint32(0xFF)]
        out[i] = max(c ^ np.uint32(0xFFFFFFFF), np.uint32(1))


@njit(cache=True, inline="always")
def _time(words, base):  # pragma: no cover - compiled
    return np.int64(np.uint64(words[base]) | (np.uint64(words[base + 1]) << np.uint64(32)))


@njit(cache=True)
def read_row(
    events, frauds, row, layout, statistics, statistic_starts, windows, window_starts, delay, memory, capacity,
    times, order, columns, numbers, fraud_times, table, stamps, stamp, out,
):  # pragma: no cover - compiled  # fmt: skip
    """Write the features of all history entries of one plan; return whether the row's id is already stored.

    events, frauds: uint32 words of records in order of arrival. row: words of the row's own record. Skipped: events
    later than the row, repeated ids, and the row itself.
    layout: int64 (n_entries, 5): for each entry the stored column of value, other, latitude and longitude (-1: none),
    and its first output. statistics, windows: of all entries; entry e has starts[e] to starts[e + 1].
    times, order, columns, numbers (float32 view of columns), fraud_times, table, stamps, stamp: scratch. Threads may
    share it because this function holds the GIL (no `nogil`). columns: uint32 (n_columns, n). stamps: at most stamp[0].
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
        # On a retry: events of the same time that arrived after the first copy do not count.
        if time > now or (is_retry and time == now):
            continue
        slot = n
        while slot > 0 and times[slot - 1] > time:
            times[slot], order[slot] = times[slot - 1], order[slot - 1]
            slot -= 1
        times[slot], order[slot] = time, base
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
        slot = n_frauds
        while slot > 0 and fraud_times[slot - 1] > time:
            fraud_times[slot] = fraud_times[slot - 1]
            slot -= 1
        fraud_times[slot] = time
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
            start, n, fraud_times, 0, n_frauds, fraud_times[:0], fraud_times[:0], now, now,
            np.float64(mine[value]) if value >= 0 else 0.0,
            row[_FIRST_COLUMN + other] if other >= 0 else np.uint32(0),
            np.float64(mine[latitude]) if latitude >= 0 else 0.0,
            np.float64(mine[longitude]) if longitude >= 0 else 0.0,
            statistics[statistic_starts[e] : statistic_starts[e + 1]],
            windows[window_starts[e] : window_starts[e + 1]],
            delay, memory, capacity, table, stamps, stamp[0], out[first:],
        )  # fmt: skip
    return is_known
