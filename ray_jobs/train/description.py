"""What MLflow's pages of a training's run and version say about it: Markdown, and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fraud.scoring.detector import JOINED
from fraud.training.config import TrainConfig
from ray_jobs.train.request import TrainingRequest

_MOST_SETTINGS = 20


def describe(content: Mapping[str, Any], request: TrainingRequest, commit: str) -> str:
    """The description. content: metrics.json as a dict (ray_jobs.train.report.summary and the data)."""
    joined, threshold = content["metrics"].get(JOINED) or {}, content["threshold"]
    windows = [
        f"{window['name']} {_minute(window['start'])} to {_minute(window['end'])}, {window['rows']:,} rows, "
        f"{_count(window['frauds'])} frauds"
        for window in content["windows"]
    ]
    refused = f", {content['quarantined']:,} refused" if content["quarantined"] else ""
    at = ", ".join(f"{key} {joined[key]:.3f}" for key in ("precision", "recall") if key in joined)
    alerts = f"alerts on {joined['alert_rate']:.2%} of rows" if "alert_rate" in joined else ""
    lines = [
        _result(content),
        "",
        f"- **Windows** {'; '.join(windows)}.",
        f"- **Threshold** {threshold['value']:.4f} ({threshold['policy']}, chosen on validation). On the test window: "
        f"{', '.join(filter(None, [at, alerts])) or 'not measured'}.",
        f"- **Data** `{request.data}`: {content['rows']:,} rows{refused}, `{content['data_fingerprint'][:16]}`.",
        f"- **Schema** {request.schema.name}. **Settings** {_settings(request.config)}.",
        f"- **Code** commit `{commit[:12]}`.",
        *(f"- **Warning** {warning}" for warning in content["warnings"]),
        "",
        "Plots, metrics and schema are among the run's artifacts.",
        "",
        "Next: `python -m ray_jobs.evaluate --data FILE` judges it in detail; "
        "`python -m ray_jobs.promote challenger --gate --data FILE` compares a challenger with the champion.",
    ]
    return "\n".join(lines)


def tags(content: Mapping[str, Any], request: TrainingRequest, commit: str) -> dict[str, str]:
    """Tags of the model version."""
    test = next(window for window in content["windows"] if window["name"] == "test")
    joined = content["metrics"].get(JOINED) or {}
    named = {
        "schema": request.schema.name,
        "data": request.data,
        "data_fingerprint": content["data_fingerprint"],
        "test_window": f"{test['start']} to {test['end']}",
        "chosen_threshold": f"{content['threshold']['value']:.4f}",  # `threshold` is the live one, set by `promote`
        "git_commit": commit,
    }
    if "average_precision" in joined:
        named["average_precision"] = f"{joined['average_precision']:.4f}"
    return named


def _result(content: Mapping[str, Any]) -> str:
    """The first line: how well it ranks the test window."""
    joined = content["metrics"].get(JOINED) or {}
    if "average_precision" not in joined:
        return "No known frauds in the test window: how well it ranks is not known."
    low, high = content["average_precision_intervals"][JOINED]
    return (
        f"**Average precision {joined['average_precision']:.3f}** (95 % interval {low:.3f} to {high:.3f}), ROC-AUC "
        f"{joined['roc_auc']:.3f}, on the newest rows, which it did not learn from."
    )


def _settings(config: TrainConfig) -> str:
    usual = TrainConfig().flat()
    own = [f"`{name}={value}`" for name, value in config.flat().items() if usual.get(name) != value]
    if not own:
        return "are the defaults"
    more = f" and {len(own) - _MOST_SETTINGS} more" if len(own) > _MOST_SETTINGS else ""
    return f"other than the defaults: {', '.join(own[:_MOST_SETTINGS])}{more}"


def _minute(instant: object) -> str:
    """An ISO time without its seconds; other ends of a window, such as "row 1200", stay."""
    return str(instant)[:16].replace("T", " ")


def _count(frauds: int | None) -> str:
    return "unknown" if frauds is None else f"{frauds:,}"
