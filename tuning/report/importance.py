"""Which sampled settings moved the objective: Optuna's importances on a study rebuilt from the journal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fraud.errors import DataError

FEWEST_TRIALS = 10
# fANOVA's forest takes 8 s at 300 trials and minutes at 1,500; PED-ANOVA takes milliseconds, and has enough by then.
MOST_FOR_FANOVA = 200
_LOG_FROM = 30  # a setting sampled over more than this ratio is compared by its logarithm


@dataclass(frozen=True)
class Importances:
    """shares: of the objective's variance (fANOVA) or of its change towards the best tenth (PED-ANOVA), largest first.

    method: its name and source. trials: how many it is based on. left_out: settings that only some trials have.
    """

    shares: dict[str, float]
    method: str
    trials: int
    left_out: tuple[str, ...]


def importances(trials: Sequence[tuple[Mapping[str, Any], float]], seed: int) -> Importances:
    """Share of each setting that varies.

    trials: (dotted settings, objective) of each judged trial; a list or a mixture of types counts as a category.
    fANOVA: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014.
    PED-ANOVA: Watanabe, Bansal and Hutter, IJCAI 2023.
    Raises DataError when there are too few trials or nothing varies.
    """
    import optuna

    if len(trials) < FEWEST_TRIALS:
        raise DataError(
            f"importance needs {FEWEST_TRIALS} judged trials with sampled settings, and there are {len(trials)}"
        )
    if len({objective for _, objective in trials}) == 1:
        raise DataError("all trials have the same objective, so no setting is important")
    shared = set(trials[0][0]).intersection(*(params for params, _ in trials))
    everywhere = {key for params, _ in trials for key in params}
    columns = {}
    for key in sorted(shared):
        values = [params[key] for params, _ in trials]
        if len({json.dumps(value, sort_keys=True) for value in values}) > 1:
            columns[key] = _column(values)
    if not columns:
        raise DataError("no setting common to all trials varies")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # without its message about a new study
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    optuna.logging.set_verbosity(before)
    distributions = {key: distribution for key, (distribution, _) in columns.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={key: values[i] for key, (_, values) in columns.items()},
                distributions=distributions, value=objective,
            )
            for i, (_, objective) in enumerate(trials)
        ]
    )  # fmt: skip
    evaluator: optuna.importance.BaseImportanceEvaluator
    if len(trials) <= MOST_FOR_FANOVA:
        evaluator, method = optuna.importance.FanovaImportanceEvaluator(seed=seed), "fANOVA"
    else:
        evaluator, method = optuna.importance.PedAnovaImportanceEvaluator(), "PED-ANOVA"
    by_name = {k: float(v) for k, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}
    if not all(math.isfinite(share) for share in by_name.values()):
        raise DataError(f"{method} finds no variance to divide among the settings")
    shares = dict(sorted(by_name.items(), key=lambda pair: -pair[1]))
    return Importances(shares, method, len(trials), tuple(sorted(everywhere - shared)))


def _column(values: list[Any]) -> tuple[Any, list[Any]]:
    """(distribution, values) for Optuna, inferred from the values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if is_scale(values):
        low, high = min(values), max(values)
        log = is_log(low, high)
        if all(isinstance(value, int) for value in values):
            return IntDistribution(low, high, log=log), values
        return FloatDistribution(low, high, log=log), [float(value) for value in values]
    texts = [json.dumps(value, sort_keys=True) for value in values]
    return CategoricalDistribution(sorted(set(texts))), texts


def is_scale(values: Sequence[Any]) -> bool:
    """Whether all are numbers on one scale: no booleans, and no mix of counts and shares (forest.max_samples)."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return False
    counts = any(isinstance(value, int) and value > 1 for value in values)
    return not (counts and any(isinstance(value, float) and value < 1 for value in values))


def is_log(low: float, high: float) -> bool:
    """Whether a logarithmic scale suits this range."""
    return low > 0 and high / low > _LOG_FROM
