"""Which trial comes next: in turns, seeded, and after a kill the same as if there had been none."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher

from tests.tuning.small import BASE, space
from tuning.record.journal import Trial
from tuning.search.sampler import STARTUP_TRIALS, TurnsSearch, distribution_of
from tuning.space.values import Parameter

N = 24


def new(known: Mapping[int, Trial] | None = None, n: int = N, **changes: Any) -> TurnsSearch:
    arguments = {"detectors": ["forest", "autoencoder"], "seed": 7, "objectives": ["average_precision"], **changes}
    detectors = arguments.pop("detectors")
    return TurnsSearch(space(), detectors, n_trials=n, known=known or {}, **arguments)


def result_of(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a trial with these settings ends with; some fail."""
    if params.get("forest.max_samples") == 128:
        return None
    lr = abs(math.log10(params.get("autoencoder.lr", 3e-3)) + 2.5)
    return {
        "objective": 1 - lr - params.get("forest.max_features", 0.5) / 3,
        "scoring_cost": 100.0 * params.get("features.clip", 5) + sum(params.get("autoencoder.hidden", [1])),
    }


def run(search: TurnsSearch, most: int = 10**6) -> list[dict[str, Any]]:
    """Run trials one at a time."""
    suggestions = []
    while len(suggestions) < most and (suggested := search.suggest(f"id{len(suggestions)}")) != Searcher.FINISHED:
        suggestions.append(suggested)
        result = result_of(suggested["params"])
        outcome = {"result": result} if result else {"failed": "too bad"}
        search.on_trial_complete(f"id{len(suggestions) - 1}", outcome)
    return suggestions


def journal_of(suggested: list[dict[str, Any]], unfinished: int = 0) -> dict[int, Trial]:
    """The trials as a journal gives them; the last ones were cut off by a kill."""
    trials = {}
    for index, one in enumerate(suggested):
        result = result_of(one["params"])
        is_running = index >= len(suggested) - unfinished
        status = "running" if is_running else "finished" if result else "failed"
        trials[one["number"]] = Trial(
            one["number"], one["detector"], one["params"], time.time(), status=status,
            result=None if is_running else result,
        )  # fmt: skip
    return trials


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    return run(new())


def test_detectors_take_turns_and_begin_with_the_base_configuration(undisturbed: list[dict[str, Any]]):
    assert [one["number"] for one in undisturbed] == list(range(1, N + 1))
    assert [one["detector"] for one in undisturbed] == ["forest", "autoencoder"] * (N // 2)
    assert [one["params"] for one in undisturbed[:2]] == [{}, {}]
    for one in undisturbed[2:]:
        assert set(one["params"]) == {p.name for p in space().parameters_of(one["detector"])}
        assert space().configure(BASE, one["params"])
    only = run(new(detectors=["autoencoder"], n=3))
    assert [(one["detector"], bool(one["params"])) for one in only] == [
        ("autoencoder", False), ("autoencoder", True), ("autoencoder", True),
    ]  # fmt: skip


def test_the_seed_decides(undisturbed: list[dict[str, Any]]):
    assert run(new()) == undisturbed
    assert run(new(seed=8))[2:] != undisturbed[2:]


@pytest.mark.parametrize("unfinished", [0, 1])
@pytest.mark.parametrize("killed_at", [1, 2, 5, 15, 20, 23])
def test_a_resumed_search_asks_for_what_an_undisturbed_one_asks_for(
    undisturbed: list[dict[str, Any]], killed_at: int, unfinished: int
):
    known = journal_of(undisturbed[:killed_at], unfinished)
    rest = run(new(known))
    assert rest == undisturbed[killed_at - unfinished :]


def test_what_a_kill_cut_off_comes_first_and_teaches_when_it_ends(undisturbed: list[dict[str, Any]]):
    known = journal_of(undisturbed[:12], unfinished=2)
    search = new(known)
    assert [search.suggest(name) for name in ("a", "b")] == undisturbed[10:12]
    assert not search.is_exhausted
    study = search._studies["autoencoder"]
    search.on_trial_complete("b", {"result": {"objective": 0.9, "scoring_cost": 1.0}})
    assert study.best_value == 0.9


def test_failed_trials_are_run_again_only_when_asked(undisturbed: list[dict[str, Any]]):
    known = journal_of(undisturbed[:20])
    failed = [number for number, trial in known.items() if trial.status == "failed"]
    assert failed and new(known).suggest("a")["number"] == 21
    search = new(known, should_retry=True)
    assert [search.suggest(f"again{n}")["number"] for n in failed] == failed
    search.on_trial_complete(f"again{failed[0]}", {"result": {"objective": 0.99, "scoring_cost": 1.0}})
    assert search._studies["forest"].best_value == 0.99
    assert search.suggest("next")["number"] == 21


def test_the_search_learns():
    """After the random trials it draws nearer to the best learning rate."""
    learning_rates = [one["params"]["autoencoder.lr"] for one in run(new(detectors=["autoencoder"], n=40))[1:]]
    away = np.abs(np.log10(learning_rates) + 2.5)
    assert np.median(away[20:]) < np.median(away[:STARTUP_TRIALS]) / 2


def test_lists_stay_lists(undisturbed: list[dict[str, Any]]):
    drawn = [one["params"]["autoencoder.hidden"] for one in undisturbed[3::2]]
    assert all(isinstance(value, list) for value in drawn) and [8, 4] in drawn and [6, 3] in drawn
    texts = distribution_of(Parameter("a", "choice", (["x"], "x", '["x"]', 1, 1.5, True, None)))
    assert len(set(map(repr, texts.choices))) == 7


def test_two_objectives_make_a_front_and_resume_alike():
    objectives = ["average_precision", "scoring_cost"]
    suggestions = run(new(objectives=objectives))
    search = new(objectives=objectives)
    run(search)
    front = search._studies["autoencoder"].best_trials
    costs = [trial.values[1] for trial in front]
    assert search._studies["autoencoder"].directions[1].name == "MINIMIZE"
    assert min(costs) == min(
        result_of(one["params"])["scoring_cost"]
        for one in suggestions
        if one["detector"] == "autoencoder" and one["params"]
    )
    assert run(new(journal_of(suggestions[:17]), objectives=objectives)) == suggestions[17:]


def test_more_trials_go_on_where_the_last_ended(undisturbed: list[dict[str, Any]]):
    known = journal_of(undisturbed)
    assert run(new(known)) == [] and new(known).is_exhausted
    more = run(new(known, n=N + 2))
    assert [one["number"] for one in more] == [N + 1, N + 2]
    assert more == run(new(n=N + 2))[N:]


def test_a_process_that_died_teaches_nothing():
    search = new(detectors=["autoencoder"])
    run(search, most=1)
    search.suggest("x")
    search.on_trial_complete("x", None, error=True)
    assert [trial.state.name for trial in search._studies["autoencoder"].trials] == ["FAIL"]
    assert search.suggest("y")["number"] == 3


def test_at_once_no_two_are_alike():
    """The liar: trials that still run keep others from asking for the same."""
    search = new(detectors=["autoencoder"])
    asked = [search.suggest(f"id{n}") for n in range(10)]
    assert len({str(one["params"]) for one in asked[1:]}) == 9


def test_tunes_own_files_hold_nothing(tmp_path):
    search = new()
    search.save(str(tmp_path / "s"))
    search.restore(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "{}"
