"""Settings of the replicas of /score."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from fraud.errors import ConfigError
from fraud.settings.locations import DataStores, Settings
from fraud.settings.variables import CONFIG, BaseGroup, Flag, Names, SettingsGroup, Variable

API_KEY_HASHES, API_KEY_FILE = "FRAUD_API_KEY_HASHES", "FRAUD_API_KEY_FILE"
DECISIONS, OMIT, HASH, KEY = (
    "FRAUD_DECISIONS",
    "FRAUD_DECISIONS_OMIT",
    "FRAUD_DECISIONS_HASH",
    "FRAUD_DECISIONS_KEY",
)
TRACES, COLLECTOR = "FRAUD_TRACES", "OTEL_EXPORTER_OTLP_ENDPOINT"
_SHORTEST_KEY = 16  # bytes
_REPLICAS = "replicas of /score"
_MILLISECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*ms")

Fallback = Literal["approve", "review", "decline"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ServedModelSettings(SettingsGroup):
    """The served model, and the content of its answers."""

    TITLE: ClassVar[str] = "Serving: the model"
    READERS: ClassVar[str] = _REPLICAS

    bundle: Annotated[
        str,
        Variable(
            name="FRAUD_BUNDLE", meaning="folder of a bundle to serve", default="empty: the model of the registry"
        ),
    ] = ""
    model: Annotated[
        str, Variable(name="FRAUD_MODEL", meaning="alias or version in the registry; used without FRAUD_BUNDLE")
    ] = "champion"
    reasons: Annotated[
        Literal["flagged", "always"],
        Variable(name="FRAUD_REASONS", meaning="which answers of /score include reasons"),
    ] = "flagged"


def _poll(highest: float) -> BeforeValidator:
    """0, or seconds from 0.1 to `highest`."""

    def check(value: object) -> object:
        if isinstance(value, str) and not (float(value) == 0 or 0.1 <= float(value) <= highest):
            raise ValueError
        return value

    return BeforeValidator(check)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class WatchSettings(SettingsGroup):
    """How often a replica polls the registry.

    retry_s: seconds until a version that failed to load is tried again; doubled after each failure, up to
    longest_retry_s.
    """

    TITLE: ClassVar[str] = "Serving: following the registry"
    READERS: ClassVar[str] = _REPLICAS

    poll_s: Annotated[
        float,
        _poll(86_400),
        Variable(
            name="FRAUD_MODEL_POLL_S",
            meaning="interval of polling the registry",
            unit="seconds",
            accepts="a number of seconds from 0.1 to 86,400, or 0 for never",
        ),
    ] = 5.0
    retry_s: float = 5.0
    longest_retry_s: float = 600.0


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class LabelFeedSettings(SettingsGroup):
    """How often new labels are applied to the live history."""

    TITLE: ClassVar[str] = "Serving: following the labels"
    READERS: ClassVar[str] = _REPLICAS

    poll_s: Annotated[
        float,
        _poll(3600),
        Variable(
            name="FRAUD_LABELS_POLL_S",
            meaning="interval of polling for new labels",
            unit="seconds",
            accepts="a number of seconds from 0.1 to 3,600, or 0 for never",
        ),
    ] = 1.0


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class KeySettings(SettingsGroup):
    """API keys. One of the two is required unless FRAUD_MODE is dev."""

    TITLE: ClassVar[str] = "Serving: API keys"
    READERS: ClassVar[str] = "replicas of /score, `make up`"

    hashes: Annotated[
        Names,
        Variable(name=API_KEY_HASHES, meaning="SHA-256 hashes of keys, separated by commas", is_secret=True),
    ] = field(default=(), repr=False)
    file: Annotated[
        str,
        Variable(name=API_KEY_FILE, meaning="file with one key per line: hash, owner, optional `rate=50 burst=100`"),
    ] = ""

    @property
    def has_keys(self) -> bool:
        """Whether keys are configured."""
        return bool(self.hashes or self.file)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class RequestLimits(SettingsGroup):
    """Limits of single requests."""

    TITLE: ClassVar[str] = "Serving: limits of a request"
    READERS: ClassVar[str] = _REPLICAS

    rate: Annotated[
        float,
        Field(ge=0, le=1_000_000),
        Variable(
            name="FRAUD_RATE_LIMIT",
            meaning="requests per second, key and replica; 0: no limit. The key file overrides it",
            unit="requests/s",
        ),
    ] = 0.0
    burst: Annotated[
        float,
        Field(ge=0, le=1_000_000),
        Variable(
            name="FRAUD_RATE_BURST",
            meaning="burst size per key; 0: the requests of one second",
            unit="requests",
        ),
    ] = 0.0
    deadline_ms: Annotated[
        float,
        Field(ge=0, le=60_000),
        Variable(
            name="FRAUD_DEADLINE_MS",
            meaning="longest time from arrival to the start of scoring; 0: no deadline",
            unit="milliseconds",
        ),
    ] = 0.0
    fallback: Annotated[Fallback, Variable(name="FRAUD_FALLBACK", meaning="decision after the deadline")] = "review"
    body_timeout_s: Annotated[
        float,
        Field(ge=0.01, le=3600),
        Variable(name="FRAUD_BODY_TIMEOUT_S", meaning="longest time to receive a complete body", unit="seconds"),
    ] = 5.0
    most_waiting: Annotated[
        float,
        Field(ge=1, le=1_000_000),
        Variable(name="FRAUD_MOST_WAITING", meaning="requests in a replica before it answers 503", unit="requests"),
    ] = 256.0
    is_metrics_open: Annotated[Flag, Variable(name="FRAUD_METRICS_OPEN", meaning="1: GET /metrics needs no key")] = (
        False
    )


@dataclass(frozen=True, config=CONFIG)
class BatchLimits(SettingsGroup):
    """Limits of a batch."""

    TITLE: ClassVar[str] = "Serving: limits of a batch"
    READERS: ClassVar[str] = _REPLICAS

    rows: Annotated[
        int,
        Field(ge=1, le=10_000_000),
        Variable(name="FRAUD_BATCH_ROWS", meaning="maximum transactions per request", unit="rows"),
    ] = 10_000
    n_bytes: Annotated[
        int,
        BeforeValidator(lambda value: int(value) * 2**20 if isinstance(value, str) else value),
        Field(ge=1, le=10_000_000 * 2**20),
        Variable(
            name="FRAUD_BATCH_MIB",
            meaning="maximum body size",
            unit="MiB",
            default="32",
            accepts="a whole number of MiB from 1 to 10,000,000",
        ),
    ] = 32 * 2**20


def _fsync(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in ("always", "never"):
        return 0.0 if text == "always" else math.inf
    match = _MILLISECONDS.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"FRAUD_DECISIONS_FSYNC={value[:40]!r} is unknown: write always, never, or milliseconds such as 200ms"
        )
    return float(match[1]) / 1000.0


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DecisionSettings(BaseGroup):
    """The decision log: storage, durability, and treatment of personal data.

    url: folder or URL of the Parquet files; None: no log. journal: local folder of decisions not written to Parquet
    yet. fsync_s: seconds between two fsyncs of the journal; 0: after every write; infinite: never.
    """

    TITLE: ClassVar[str] = "Serving: the decision log"
    READERS: ClassVar[str] = _REPLICAS

    url: str | None
    journal: Path
    queue: Annotated[
        int,
        Field(ge=1, le=10_000_000),
        Variable(
            name="FRAUD_DECISIONS_QUEUE",
            meaning="maximum decisions in memory, waiting for the journal",
            unit="decisions",
        ),
    ] = 20_000
    fsync_s: Annotated[
        float,
        BeforeValidator(_fsync),
        Variable(
            name="FRAUD_DECISIONS_FSYNC",
            meaning="when the journal is synced to disk",
            accepts="always, never, or milliseconds such as 200ms",
            default="200ms",
        ),
    ] = 0.2
    compact_s: Annotated[
        float,
        _poll(86_400),
        Variable(
            name="FRAUD_DECISIONS_COMPACT_S",
            meaning="interval of merging the small files of the log",
            unit="seconds",
            accepts="a number of seconds from 0.1 to 86,400, or 0 for never",
        ),
    ] = 3600.0
    omitted: Annotated[Names, Variable(name=OMIT, meaning="columns, separated by commas, that are not logged")] = ()
    hashed: Annotated[Names, Variable(name=HASH, meaning="columns that are logged as HMAC-SHA256 with the secret")] = ()
    key: Annotated[
        bytes,
        Variable(name=KEY, meaning=f"the secret, {_SHORTEST_KEY} bytes or more", is_secret=True),
    ] = field(default=b"", repr=False)

    @classmethod
    def from_environment(cls, settings: Settings, environment: Mapping[str, str]) -> DecisionSettings:
        """Read the settings. Raises ConfigError naming the invalid variable."""
        stores = DataStores.from_environment(environment)
        decisions = cls.checked(
            cls.texts(environment),
            url=None if stores.decisions.lower() == "off" else stores.decisions_url(settings),
            journal=settings.state / "decisions" / "_journal",
        )
        if both := sorted(set(decisions.omitted) & set(decisions.hashed)):
            raise ConfigError(f"{', '.join(both)} is in {OMIT} and in {HASH}: name it in one of them")
        if decisions.hashed and len(decisions.key) < _SHORTEST_KEY:
            # Card numbers can be enumerated, so a hash without a secret can be reversed.
            raise ConfigError(
                f"{HASH} needs {KEY}, a secret of {_SHORTEST_KEY} bytes or more, e.g. from `openssl rand -hex 32`"
            )
        return decisions


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ShadowSettings(SettingsGroup):
    """Queue and timeout of shadow scoring."""

    TITLE: ClassVar[str] = "Serving: the shadow"
    READERS: ClassVar[str] = _REPLICAS

    queue: Annotated[
        int,
        Field(ge=1, le=1_000_000),
        Variable(name="FRAUD_SHADOW_QUEUE", meaning="maximum decisions waiting for a shadow score", unit="decisions"),
    ] = 1_000
    timeout_s: Annotated[
        float,
        BeforeValidator(lambda value: float(value) / 1000.0 if isinstance(value, str) else value),
        Field(ge=0.001, le=60),
        Variable(
            name="FRAUD_SHADOW_TIMEOUT_MS",
            meaning="timeout of a shadow score",
            unit="milliseconds",
            accepts="a number of milliseconds from 1 to 60,000",
            default="500",
        ),
    ] = 0.5


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AccessLogSettings(SettingsGroup):
    """Which requests are logged."""

    TITLE: ClassVar[str] = "Serving: the access log"
    READERS: ClassVar[str] = _REPLICAS

    sample: Annotated[
        float,
        Field(ge=0, le=1),
        Variable(
            name="FRAUD_ACCESS_LOG_SAMPLE",
            meaning="share of requests that are logged; errors always are, but at most ten 401 and 429 per second",
        ),
    ] = 0.01


def _share(value: object) -> object:
    if isinstance(value, str) and not 0.0 <= float(value) <= 1.0:
        raise ValueError
    return value


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class TraceSettings(SettingsGroup):
    """OpenTelemetry traces. The collector is required if the share is above 0."""

    TITLE: ClassVar[str] = "Serving: traces"
    READERS: ClassVar[str] = _REPLICAS

    share: Annotated[
        float,
        BeforeValidator(_share),
        Variable(
            name=TRACES,
            meaning="share of requests that are traced, sampled by trace id, so that all services agree",
            accepts="a share of the requests, from 0 (none) to 1 (all)",
        ),
    ] = 0.0
    endpoint: Annotated[
        str, Variable(name=COLLECTOR, meaning="collector of OTLP over HTTP, such as http://HOST:4318")
    ] = ""
    service: Annotated[str, Variable(name="OTEL_SERVICE_NAME", meaning="name of the service in the traces")] = (
        "fraud-score"
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> TraceSettings:
        """Read the settings. Raises ConfigError naming the invalid variable."""
        traces = super().from_environment(environment)
        if traces.share and not traces.endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"{TRACES}={traces.share:g}, but {COLLECTOR}={traces.endpoint!r} is not a collector: "
                "name one, such as http://HOST:4318"
            )
        return traces
