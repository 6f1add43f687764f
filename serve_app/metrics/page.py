"""Names of the metrics, and the page for Prometheus in text or OpenMetrics format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from serve_app.metrics.files import Totals

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

T = TypeVar("T")

# Upper bounds of buckets, from an engine call (0.1 ms) to the time-out of a caller (1 s).
LATENCY_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
LAGS_S = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0, 86400.0)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Family:
    """One metric. buckets: upper bounds, for histograms only."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# Prometheus adds "_total" to a counter's name.
COUNTERS = (
    Family("fraud_requests", "Requests answered.", ("path", "status")),
    Family("fraud_errors", "Problems told to callers, each kind once a request.", ("kind",)),
    Family("fraud_decisions", "Scored transactions.", ("version", "is_fraud")),
    Family("fraud_fallbacks", "Answers without a score, because the deadline had passed.", ("decision",)),
    Family("fraud_model_load_failures", "Models that were not taken up because they did not load or score."),
    Family("fraud_shadow", "Transactions for the challenger, by what became of them.", ("outcome",)),
    Family("fraud_decision_records", "Records of the decision log, by what became of them.", ("outcome",)),
    Family("fraud_history_losses", "Times that the live history was emptied, evicted from or went back in time."),
    Family("fraud_history_caught_up", "Decisions entered into the live history from the decision log."),
    Family("fraud_labels_applied", "Labels that entered the live history, or took a fraud out of it."),
    Family("fraud_labels_too_old", "Labels of transactions that are too old for the live history to remember."),
)
HISTOGRAMS = (
    Family("fraud_request_seconds", "Time from arrival in the replica to the last byte.", ("path",), LATENCY_S),
    Family("fraud_score", "Risk scores.", ("version",), SCORES),
    Family("fraud_label_lag_seconds", "From a label's ingestion until the live history knows it.", (), LAGS_S),
)
# Summed over the live replicas, except those in `files.NEWEST`.
GAUGES = (
    Family("fraud_replicas", "Replicas that live and are counted here."),
    Family("fraud_requests_in_progress", "Requests being answered."),
    Family("fraud_queue_depth", "Entries that wait in a queue.", ("queue",)),
    Family("fraud_model_info", "Replicas that serve this model.", ("version", "sha256")),
    Family("fraud_model_loaded_timestamp_seconds", "When the model was loaded, in seconds since 1970.", ("version",)),
    Family("fraud_history_behind", "Replicas whose live history is being filled."),
    Family("fraud_history_newest_event_timestamp_seconds", "Time of the newest transaction in the live history."),
    Family("fraud_label_newest_applied_timestamp_seconds", "When the newest label became known that was applied."),
    Family("fraud_labels_unmatched", "Labels that wait for their transaction."),
)


def page(totals: Totals, accept: str = "") -> tuple[bytes, str]:
    """Render `totals` in the format of the Accept header; return body and content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(totals))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    """Presents totals to prometheus_client. Skips metrics without a family, from files of another version."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for family in COUNTERS:
            counter = CounterMetricFamily(family.name, family.text, labels=family.labels)
            for labels, value in _series_of(family, self._totals.counters):
                counter.add_metric(labels, value)
            yield counter
        for family in GAUGES:
            gauge = GaugeMetricFamily(family.name, family.text, labels=family.labels)
            for labels, value in _series_of(family, self._totals.gauges):
                gauge.add_metric(labels, value)
            yield gauge
        for family in HISTOGRAMS:
            histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
            for labels, values in _series_of(family, self._totals.histograms):
                if len(values) == len(family.buckets) + 2:
                    bounds = [*(str(bound) for bound in family.buckets), "+Inf"]
                    counts = list(accumulate(values[:-1]))
                    histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), values[-1])
            yield histogram


def _series_of(family: Family, series: dict[tuple[str, tuple[str, ...]], T]) -> Iterator[tuple[Sequence[str], T]]:
    for (name, labels), value in sorted(series.items(), key=lambda item: item[0]):
        if name == family.name and len(labels) == len(family.labels):
            yield labels, value
