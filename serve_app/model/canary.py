"""Chooses the transactions that the challenger decides: a stable share of entities, so one card gets one model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fraud.schema import Schema

_KEY = b"ray-fraud canary"
_HASHES = 2.0**64


def is_canary(entity_value: str, share: float) -> bool:
    """Whether an entity is in the canary share (0 to 1). Equal in all replicas; a larger share includes a smaller one.

    Compares a keyed BLAKE2b hash (RFC 7693) of the value, scaled to 0 to 1, with the share.
    """
    if share <= 0.0:
        return False
    digest = hashlib.blake2b(entity_value.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    return int.from_bytes(digest) < share * _HASHES


class CanaryChoice:
    """Chooses by the first entity column of a schema, else by the id column, else by the request id."""

    def __init__(self, schema: Schema) -> None:
        column = schema.entities[0] if schema.entities else schema.id
        self.column = None if column is None else column.name

    def __call__(self, transaction: Mapping[str, object], share: float, request_id: str) -> bool:
        """Whether the challenger decides this canonical transaction. Takes less than 1 us if share is 0."""
        if share <= 0.0:
            return False
        value = None if self.column is None else transaction.get(self.column)
        return is_canary(request_id if value is None else str(value), share)
