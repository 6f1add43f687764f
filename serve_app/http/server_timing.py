"""The Server-Timing header of an answer (W3C Server Timing): where its milliseconds went.

engine: scoring, with reading the history. history: the part of it that read and wrote the live history. total: from the
arrival in the replica until the answer is ready to send.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

HEADER = b"server-timing"
ENGINE_S, HISTORY_S = "engine_s", "history_s"  # in the scope's "state"; seconds


def server_timing(state: Mapping[str, Any]) -> bytes:
    """The header's value. state: of the request, with its time of arrival."""
    total = (time.perf_counter() - state["arrived"]) * 1e3
    if ENGINE_S not in state:  # nothing was scored
        return b"total;dur=%.3f" % total
    engine = state[ENGINE_S] * 1e3
    if HISTORY_S not in state:
        return b"engine;dur=%.3f, total;dur=%.3f" % (engine, total)
    return b"engine;dur=%.3f, history;dur=%.3f, total;dur=%.3f" % (engine, state[HISTORY_S] * 1e3, total)
