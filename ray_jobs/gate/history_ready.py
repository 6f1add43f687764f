"""Check that a new champion's entity history is as recent as the old champion's."""

from __future__ import annotations

import logging

from fraud.errors import ConfigError, FraudError
from fraud.history.definition import plans
from fraud.history.snapshots.days import Snapshots
from fraud.registry import versions
from fraud.registry.versions import TaggedVersion
from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.settings import Settings

logger = logging.getLogger(__name__)


def check(settings: Settings, number: int, schema: Schema, before: TaggedVersion) -> None:
    """Raise ConfigError if the newest daily snapshot of version `number` is older than the champion's.

    schema: of the version. before: the champion. Passes if the version has no history, if the champion's live history
    serves it too, or if the champion has no snapshots either.
    """
    try:
        loaded = bundle.load(versions.fetch_version(before, settings), expected_sha256=before.sha256)
    except FraudError as error:
        logger.warning("cannot compare with the champion's entity history: %s", error)
        return
    champion = loaded.detector.schema
    theirs, ours = ({plan.fingerprint for plan in plans(each)} for each in (champion, schema))
    if ours <= theirs:
        return
    newest = Snapshots.open(settings, champion).newest_day() if theirs else None
    own = Snapshots.open(settings, schema).newest_day()
    if newest is not None and (own is None or own < newest):
        missing = "it has no daily snapshot" if own is None else f"its newest daily snapshot is of {own}"
        raise ConfigError(
            f"the entity history of version {number} is behind: {missing}, the champion's is of {newest}. Build it "
            f"with `python -m ray_jobs.history build --model {number} --through {newest} --data ...`, or promote with "
            "--force (with --gate: --override), and replicas start from the older history"
        )
