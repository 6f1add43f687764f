"""The deployment with a challenger that misbehaves as a file says: `benchmarks.serving_faults.faulty:app`.

The challenger is a registered version like any other; only its call is replaced, in the replica that loaded it. The
file FAULT below FRAUD_STATE names what it does: raise, hang, slow, or nothing where it is missing.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.serve import Application

from serve_app import deployment
from serve_app.deployment import Scorer
from serve_app.model.state import ServedModel, State

FILE = "fault"
SLOW_S, HANG_S = 0.2, 3600.0


class _State(State):
    """Whose challenger is never the one that was assigned, but one that misbehaves."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "challenger" and isinstance(value, ServedModel):
            value = _with_fault(value)
        super().__setattr__(name, value)


class FaultyScorer(Scorer.func_or_class):  # type: ignore[name-defined, misc]
    """A replica as it is in production, whose challenger is spoilt once it is loaded."""

    async def __init__(self, environment: Mapping[str, str]) -> None:  # type: ignore[misc]
        await super().__init__(environment)
        state = self._replica.state
        state.__class__ = _State
        state.challenger = state.challenger  # the registry may have been asked already


def app(arguments: Mapping[str, str]) -> Application:
    """Build the application as `serve_app.deployment:app` does."""
    (environment,) = deployment.app(arguments)._bound_deployment.init_args
    return Scorer.options(func_or_class=FaultyScorer).bind(environment)  # type: ignore[attr-defined]


def _with_fault(model: ServedModel) -> ServedModel:
    engine = copy.copy(model.engine)
    if "score_row" not in vars(engine):  # what the shadow calls; not twice
        engine.score_row = _misbehaving(engine.score_row)  # type: ignore[method-assign]
    return replace(model, engine=engine)


def _misbehaving(call: Callable[..., Any]) -> Callable[..., Any]:
    fault = Path(os.environ["FRAUD_STATE"]) / FILE

    def misbehave(*arguments: Any, **named: Any) -> Any:
        try:
            kind = fault.read_text(encoding="utf-8").strip()
        except OSError:
            kind = ""
        if kind == "raise":
            raise RuntimeError("this challenger raises")
        if kind in ("slow", "hang"):
            time.sleep(SLOW_S if kind == "slow" else HANG_S)
        return call(*arguments, **named)

    return misbehave
