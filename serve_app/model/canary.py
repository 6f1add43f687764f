"""Which transactions the challenger decides: a stable share of the entities, so that one card meets one model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fraud.schema import Schema

_KEY = b"ray-fraud canary"
_WHOLE = 2.0**64


def is_canary(entity_value: str, share: float) -> bool:
    """Whether an entity is in the canary share (0 to 1): the same in every replica, and in every larger share.

    A keyed BLAKE2b (RFC 7693) of the value, read as a number from 0 to 1, is compared with the share.
    """
    if share <= 0.0:
        return False
    digest = hashlib.blake2b(entity_value.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    return int.from_bytes(digest) < share * _WHOLE


class CanaryChoice:
    """Chooses by the first entity column of a schema; without one by the id, without that by the request."""

    def __init__(self, schema: Schema) -> None:
        column = schema.entities[0] if schema.entities else schema.id
        self.column = None if column is None else column.name

    def __call__(self, transaction: Mapping[str, object], share: float, request_id: str) -> bool:
        """Whether the challenger decides this canonical transaction. Below a microsecond where share is 0."""
        if share <= 0.0:
            return False
        value = None if self.column is None else transaction.get(self.column)
        return is_canary(request_id if value is None else str(value), share)
