"""Open the live history store named by the settings."""

from __future__ import annotations

from collections.abc import Sequence

from fraud.history.definition import EntityPlan
from fraud.history.stores.node import NodeStore
from fraud.history.stores.redis import RedisStore
from fraud.settings import Settings


def open_shared(settings: Settings, plans: Sequence[EntityPlan]) -> NodeStore | RedisStore | None:
    """The store of FRAUD_HISTORY_URL; None for `memory`, which is not shared. Raises ConfigError."""
    if settings.history_url == "memory":
        return None
    if settings.history_url == "node":
        return NodeStore(settings.live, plans)
    return RedisStore(
        settings.history_url, plans, namespace=settings.model_name, timeout_ms=settings.history_timeout_ms
    )
