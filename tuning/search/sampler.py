"""Which trial comes next: forests and autoencoders in turn, each sampled by an Optuna study of its own.

Tune's OptunaSearch was not used: one study over both detectors would starve the weaker one, and its state is a pickle.
Here a study is rebuilt from the journal, and its sampler is seeded by the trial's number. So with one trial at a time,
a killed and resumed sweep runs the same trials as an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher

from tuning.record.journal import Detector, Trial
from tuning.space.definition import Space
from tuning.space.values import Parameter

logger = logging.getLogger(__name__)

# Random trials of a detector before its study starts to learn.
STARTUP_TRIALS = 6


class TurnsSearch(Searcher):
    """Suggests {"number", "detector", "params"}; unfinished trials of an earlier driver come first.

    known: trials by number, from the journal; should_retry: run those that failed again.
    The first trial of each detector has no params: it is the sweep's base configuration.
    """

    def __init__(
        self,
        space: Space,
        detectors: Sequence[Detector],
        *,
        n_trials: int,
        seed: int,
        objectives: Sequence[str],
        known: Mapping[int, Trial],
        should_retry: bool = False,
    ) -> None:
        super().__init__(metric="objective", mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._detectors, self._n_trials, self._seed = space, list(detectors), n_trials, seed
        self._objectives = list(objectives)
        self._distributions = {
            detector: {p.name: distribution_of(p) for p in space.parameters_of(detector)} for detector in detectors
        }
        directions = ["maximize" if name != "scoring_cost" else "minimize" for name in objectives]
        self._studies = {detector: optuna.create_study(directions=directions) for detector in detectors}
        self._asked: dict[int, tuple[Detector, int]] = {}  # the trial's number in its study
        self._numbers: dict[str, int] = {}
        self._unfinished = [
            trial for trial in known.values() if not trial.has_ended or (should_retry and trial.status == "failed")
        ]
        self._next = max(known, default=0) + 1
        for trial in known.values():
            if trial.params:
                self._add(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, or FINISHED."""
        if self._unfinished:
            trial = self._unfinished.pop(0)
            number, detector, params = trial.number, trial.detector, trial.params
        elif self._next <= self._n_trials:
            number, self._next = self._next, self._next + 1
            detector = self._detectors[(number - 1) % len(self._detectors)]
            params = {} if number <= len(self._detectors) else self._ask(number, detector)
        else:
            return Searcher.FINISHED
        self._numbers[trial_id] = number
        return {"number": number, "detector": detector, "params": params}

    @property
    def is_exhausted(self) -> bool:
        """Whether every trial was suggested."""
        return not self._unfinished and self._next > self._n_trials

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the outcome to the study."""
        number = self._numbers.pop(trial_id, None)
        if number not in self._asked:
            return
        detector, asked = self._asked.pop(number)
        outcome = None if error or not result else result.get("result")
        if outcome is None:
            self._studies[detector].tell(asked, state=TrialState.FAIL)
        else:
            self._studies[detector].tell(asked, self._values(outcome))

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file, which Tune expects; the journal has the state."""
        Path(checkpoint_path).write_text("{}")

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, see `save`."""

    def _ask(self, number: int, detector: Detector) -> dict[str, Any]:
        study = self._studies[detector]
        study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
        distributions = self._distributions[detector]
        asked = study.ask(distributions)
        self._asked[number] = detector, asked.number
        return {name: _value(distributions[name], value) for name, value in asked.params.items()}

    def _add(self, trial: Trial) -> None:
        """Put a trial of an earlier driver into its study, one that is run again as running."""
        distributions = self._distributions.get(trial.detector, {})
        if set(trial.params) != set(distributions):
            return
        study = self._studies[trial.detector]
        internal = {name: _internal(distributions[name], value) for name, value in trial.params.items()}
        values = self._values(trial.result) if trial.result else None
        state = TrialState.COMPLETE if values else TrialState.FAIL
        if trial in self._unfinished:
            state, values = TrialState.RUNNING, None
            self._asked[trial.number] = trial.detector, len(study.trials)
        study.add_trial(create_trial(params=internal, distributions=distributions, values=values, state=state))

    def _values(self, result: Mapping[str, Any]) -> list[float]:
        return [float(result["objective" if name != "scoring_cost" else name]) for name in self._objectives]


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """How Optuna samples a parameter. Lists become JSON text, because Optuna compares choices by hash."""
    if parameter.kind == "choice":
        return CategoricalDistribution([_hashable(choice) for choice in parameter.choices])
    assert parameter.low is not None and parameter.high is not None
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


_LIST = "list:"


def _hashable(value: Any) -> Any:
    return _LIST + json.dumps(value) if isinstance(value, list) else value


def _internal(distribution: BaseDistribution, value: Any) -> Any:
    return _hashable(value) if isinstance(distribution, CategoricalDistribution) else value


def _value(distribution: BaseDistribution, value: Any) -> Any:
    is_list = isinstance(distribution, CategoricalDistribution) and isinstance(value, str) and value.startswith(_LIST)
    return json.loads(value.removeprefix(_LIST)) if is_list else value
