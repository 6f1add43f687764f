"""Whether replicas would begin a new champion's entity history from as new a day as the old one's."""

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
    """Raise ConfigError where the newest daily snapshot of version `number` is older than that of the champion.

    schema: of the version. before: the champion. Nothing is asked where the version keeps no history, where the live
    history of the champion goes on, or where the champion has no snapshots either.
    """
    try:
        loaded = bundle.load(versions.fetch_version(before, settings), expected_sha256=before.sha256)
    except FraudError as error:
        logger.warning("the champion's entity history cannot be compared with: %s", error)
        return
    champion = loaded.detector.schema
    theirs, ours = ({plan.fingerprint for plan in plans(each)} for each in (champion, schema))
    if ours <= theirs:
        return
    newest = Snapshots.open(settings, champion).newest_day() if theirs else None
    own = Snapshots.open(settings, schema).newest_day()
    if newest is not None and (own is None or own < newest):
        missing = "there is no daily snapshot of it" if own is None else f"its newest daily snapshot is of {own}"
        raise ConfigError(
            f"the entity history of version {number} is behind: {missing}, the champion's is of {newest}. Build it "
            f"with `python -m ray_jobs.history build --model {number} --through {newest} --data ...`, or promote with "
            "--force (with --gate: --override), and replicas begin from what there is"
        )
