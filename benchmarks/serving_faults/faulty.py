"""The deployment with a faulty challenger: `benchmarks.serving_faults.faulty:app`.

The challenger is an ordinary registered version; the replica wraps its `score_row`. The file `fault` below FRAUD_STATE
has the fault: raise, slow or hang. Without the file there is no fault.
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
    """State that wraps every challenger assigned to it with the fault."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "challenger" and isinstance(value, ServedModel):
            value = _with_fault(value)
        super().__setattr__(name, value)


class FaultyScorer(Scorer.func_or_class):  # type: ignore[name-defined, misc]
    """The production replica with a faulty challenger."""

    async def __init__(self, environment: Mapping[str, str]) -> None:  # type: ignore[misc]
        await super().__init__(environment)
        state = self._replica.state
        state.__class__ = _State
        state.challenger = state.challenger  # wrap a challenger that is already loaded


def app(arguments: Mapping[str, str]) -> Application:
    """Build the application as `serve_app.deployment:app` does."""
    (environment,) = deployment.app(arguments)._bound_deployment.init_args
    return Scorer.options(func_or_class=FaultyScorer).bind(environment)  # type: ignore[attr-defined]


def _with_fault(model: ServedModel) -> ServedModel:
    engine = copy.copy(model.engine)
    if "score_row" not in vars(engine):  # the call of the shadow; wrap it once
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
