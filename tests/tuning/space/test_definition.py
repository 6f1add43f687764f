"""A search space is read strictly: what it gives a sweep, and the line of everything that is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.detectors.autoencoder import SCORES
from fraud.errors import ConfigError
from fraud.thresholds.selection import ThresholdConfig
from fraud.training.config import SHIPPED, TrainConfig
from tuning.space import reader
from tuning.space.definition import Space, hidden_layers
from tuning.space.reader import DEFAULT

BASE = TrainConfig()


def read(text: str, base: TrainConfig = BASE) -> Space:
    return reader.read(text, "space.yaml", base)


def names(space: Space, detector: str) -> list[str]:
    return [p.name for p in space.parameters_of(detector)]


@pytest.mark.parametrize("name", [None, *sorted(path.stem for path in SHIPPED.glob("*.yaml"))])
def test_the_default_space_suits_every_shipped_configuration(name: str | None) -> None:
    base = TrainConfig.load(name)
    space = reader.load(None, base)
    assert names(space, "forest") == [
        "features.scaling", "features.clip", "forest.max_samples", "forest.max_features", "forest.bootstrap",
    ]  # fmt: skip
    assert {"autoencoder.depth", "autoencoder.lr", "features.clip"} <= set(names(space, "autoencoder"))
    assert space.forest_sizes == (50, 100, 200, 300)
    assert [kind["autoencoder.score"] for kind in space.score_kinds] == list(SCORES)
    assert space.epochs == 18
    assert space.forest_weights == tuple(pytest.approx(step / 20) for step in range(21))
    assert len(set(space.thresholds)) == 240  # the issue asks for 60 combinations a fit
    assert space.judge == ThresholdConfig(policy="best_f1")
    assert space.configure(base, {}).features.head_only == base.features.head_only
    assert space.text == DEFAULT.read_text()


def test_every_default_candidate_makes_a_configuration() -> None:
    space = reader.load(None, BASE)
    for detector in ("forest", "autoencoder"):
        parameters = space.parameters_of(detector)
        for end in ("smallest", "largest"):
            drawn = {p.name: getattr(p, end) if p.kind != "choice" else p.choices[-1] for p in parameters}
            config = space.configure(BASE, drawn)
            assert config.autoencoder.hidden[-1] <= config.autoencoder.hidden[0]
        assert len(space.preprocessings(detector)) == 6
    for kind in space.score_kinds:
        assert space.configure(BASE, kind).autoencoder.score == kind["autoencoder.score"]


def test_forms_become_parameters() -> None:
    space = read(
        """
forest:
  max_samples: {choice: [auto, 256, 0.5]}
  max_features: {uniform: [0.5, 1]}
autoencoder:
  lr: {log: [5e-4, 0.005]}
  batch_size: {int: [64, 512]}
  hidden: {choice: [[16, 8], [4]]}
  patience: {log_int: [2, 9]}
  noise: 0.25
"""
    )
    parameters = {p.name: p for p in (*space.parameters_of("forest"), *space.parameters_of("autoencoder"))}
    assert parameters["forest.max_samples"].choices == ("auto", 256, 0.5)
    assert [type(choice) for choice in parameters["forest.max_samples"].choices] == [str, int, float]
    uniform, log = parameters["forest.max_features"], parameters["autoencoder.lr"]
    assert (uniform.kind, uniform.low, uniform.high, uniform.log) == ("float", 0.5, 1.0, False)
    assert (log.kind, log.low, log.high, log.log, log.line) == ("float", 5e-4, 0.005, True, 6)
    integer, log_integer = parameters["autoencoder.batch_size"], parameters["autoencoder.patience"]
    assert (integer.kind, integer.low, integer.high, integer.log) == ("int", 64, 512, False)
    assert (log_integer.kind, log_integer.log) == ("int", True)
    assert parameters["autoencoder.hidden"].choices == ([16, 8], [4])
    assert "autoencoder.noise" not in parameters  # one value: nothing to sample


def test_a_trial_is_base_then_fixed_values_then_params() -> None:
    base = TrainConfig.load("handbook")
    space = read(
        """
features: {clip: {choice: [5, 7]}, scaling: robust}
forest: {n_estimators: {choice: [100, 25]}, bootstrap: {choice: [true, false]}, max_samples: 512}
autoencoder: {noise: {uniform: [0, 1]}, epochs: 4, score: {choice: [mse, density]}, components: {choice: [2, 3]},
  mixture_rows: 900}
""",
        base,
    )
    config = space.configure(base, {"features.clip": 7.0, "forest.bootstrap": True})
    assert (config.features.clip, config.features.scaling) == (7.0, "robust")
    assert config.features.head_only == base.features.head_only
    assert (config.forest.bootstrap, config.forest.max_samples) == (True, 512)
    assert config.autoencoder.hidden == base.autoencoder.hidden
    assert config.split == base.split
    assert config.autoencoder.mixture_rows == 900
    # What one fit covers: everything, unless the parameters name one.
    assert (config.forest.n_estimators, config.autoencoder.epochs, config.autoencoder.score) == (100, 4, "mse")
    best = {"forest.n_estimators": 25, "autoencoder.epochs": 3, **space.score_kinds[2]}
    chosen = space.configure(base, best)
    assert (chosen.forest.n_estimators, chosen.autoencoder.epochs) == (25, 3)
    assert (chosen.autoencoder.score, chosen.autoencoder.components) == ("density", 3)
    assert space.forest_sizes == (25, 100)
    assert not {"forest.n_estimators", "autoencoder.score", "autoencoder.components"} & {
        *names(space, "forest"), *names(space, "autoencoder"),
    }  # fmt: skip


def test_what_the_space_does_not_name_comes_from_the_base() -> None:
    base = TrainConfig.load("ulb")
    space = read("forest: {bootstrap: {choice: [true, false]}}", base)
    assert space.forest_sizes == (base.forest.n_estimators,)
    assert space.score_kinds == ({"autoencoder.score": "mse"},)
    assert space.epochs == base.autoencoder.epochs
    assert space.thresholds == (base.threshold,)
    assert space.judge == ThresholdConfig(policy="best_f1")
    assert space.preprocessings("forest") == ({},)
    assert space.configure(base, {"forest.bootstrap": True}).forest.bootstrap is True
    costly = dataclasses.replace(base, threshold=ThresholdConfig(policy="cost", cost_false_positive=2.0))
    assert read("forest: {bootstrap: {choice: [true, false]}}", costly).judge.cost_false_positive == 2.0


def test_params_survive_the_journal() -> None:
    space = read("features: {head_only: {choice: [[], ['a *']]}}\nautoencoder: {hidden: {choice: [[9, 3], [5]]}}")
    chosen = {p.name: p.choices[-1] for p in space.parameters_of("autoencoder")}
    returned = json.loads(json.dumps(chosen))
    assert returned == chosen
    assert {"features.head_only": returned["features.head_only"]} in space.preprocessings("autoencoder")
    assert space.configure(BASE, returned).autoencoder.hidden == (5,)
    assert space.configure(BASE, returned).features.head_only == ("a *",)


@pytest.mark.parametrize(
    ("depth", "width", "latent", "hidden"),
    [(1, 64, 4, [4]), (2, 64, 4, [64, 4]), (3, 64, 4, [64, 16, 4]), (4, 128, 2, [128, 32, 8, 2]), (3, 5, 5, [5, 5, 5])],
)
def test_layers_shrink_in_geometric_steps(depth: int, width: int, latent: int, hidden: list[int]) -> None:
    assert hidden_layers(depth, width, latent) == hidden
    space = read("autoencoder: {depth: {int: [1, 4]}, width: {int: [5, 128]}, latent: {choice: [2, 4, 5]}}")
    params = {"autoencoder.depth": depth, "autoencoder.width": width, "autoencoder.latent": latent}
    assert space.configure(BASE, params).autoencoder.hidden == tuple(hidden)


def test_a_shape_may_be_partly_fixed() -> None:
    space = read(
        "autoencoder: {depth: 2, width: {int: [8, 32]}, latent: 3}\nforest: {bootstrap: {choice: [true, false]}}"
    )
    assert names(space, "autoencoder") == ["autoencoder.width"]
    assert space.configure(BASE, {"autoencoder.width": 20}).autoencoder.hidden == (20, 3)
    assert space.configure(BASE, {"forest.bootstrap": True}).autoencoder.hidden == BASE.autoencoder.hidden
    with pytest.raises(ConfigError, match="needs depth, width and latent"):
        read("autoencoder: {noise: {uniform: [0, 1]}}").configure(BASE, {"autoencoder.depth": 2})


def test_thresholds_are_every_combination() -> None:
    space = read(
        """
threshold:
  judge: {policy: f_beta, beta: 2}
  policies:
    f_beta: {beta: {log: [0.25, 4], steps: 5}}
    best_f1:
    alert_budget: {alerts_per_day: {choice: [10, 20]}}
    precision_at_least: {precision: {grid: [0.1, 0.9, 3]}}
    cost: {cost_false_positive: {choice: [1, 5]}, cost_false_negative: {uniform: [50, 100], steps: 2}}
"""
    )
    by_policy: dict[str, list[ThresholdConfig]] = {}
    for config in space.thresholds:
        by_policy.setdefault(config.policy, []).append(config)
    assert [config.beta for config in by_policy["f_beta"]] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert [config.alerts_per_day for config in by_policy["alert_budget"]] == [10, 20]
    assert [config.precision for config in by_policy["precision_at_least"]] == [0.1, 0.5, 0.9]
    crossed = [(config.cost_false_positive, config.cost_false_negative) for config in by_policy["cost"]]
    assert crossed == [(1, 50), (1, 100), (5, 50), (5, 100)]
    assert len(space.thresholds) == 5 + 1 + 2 + 3 + 4
    assert space.judge == ThresholdConfig(policy="f_beta", beta=2)


def test_contamination_multiplies_the_thresholds() -> None:
    policies = "{f_beta: {beta: {choice: [1, 2]}}, best_f1: }"
    space = read(f"threshold: {{contamination: {{choice: [null, 0.01, 0.1]}}, policies: {policies}}}")
    pairs = [(config.policy, config.contamination) for config in space.thresholds]
    assert pairs == [(policy, share) for policy in ("f_beta", "f_beta", "best_f1") for share in (None, 0.01, 0.1)]
    assert space.judge.contamination is None
    base = dataclasses.replace(BASE, threshold=ThresholdConfig(policy="f_beta", beta=2.0, contamination=0.03))
    inherited = read("threshold: {policies: {best_f1: {}, f_beta: {}}}", base)
    assert [config.contamination for config in inherited.thresholds] == [0.03, 0.03]
    assert inherited.judge == ThresholdConfig(policy="f_beta", beta=2.0)


def test_settings_of_a_policy_that_are_not_named_come_from_the_base() -> None:
    base = dataclasses.replace(BASE, threshold=ThresholdConfig(policy="alert_budget", alerts_per_day=40, budget=0.2))
    from_base = read("threshold: {policies: {alert_budget: {}}}", base)
    assert from_base.thresholds[0].alerts_per_day == 40
    # A budget that is searched must not be hidden behind the base's alerts a day.
    searched = read("threshold: {policies: {alert_budget: {budget: {choice: [0.1, 0.3]}}}}", base)
    assert [(c.budget, c.alerts_per_day) for c in searched.thresholds] == [(0.1, None), (0.3, None)]


def test_weights_and_grids() -> None:
    assert read("forest_weight: {grid: [0.2, 0.4, 3]}").forest_weights == (0.2, pytest.approx(0.3), 0.4)
    assert read("forest_weight: {choice: [1, 0]}").forest_weights == (0.0, 1.0)
    assert read("forest_weight: 0.5").forest_weights == (0.5,)
    assert read("forest: {bootstrap: true}", dataclasses.replace(BASE, forest_weight=0.3)).forest_weights == (0.3,)
    space = read("forest: {bootstrap: true}")
    assert len(space.forest_weights) == 21
    assert space.configure(BASE, {"forest_weight": 0.3}).forest_weight == 0.3


ERRORS = [
    # structure
    ("\nforrest: {}", 2, "unknown key; did you mean 'forest'"),
    ("forest:\n  max_sample: 5", 2, "forest.max_sample: unknown key; did you mean 'max_samples'"),
    ("forest:\n  bootstrap: true\n  bootstrap: false", 3, "set twice, first in line 2"),
    ("forest:", 1, "forest: is empty"),
    ("forest: 5", 1, "forest: is not a mapping"),
    ("- forest", 1, "is not a mapping"),
    ("forest:\n  max_samples: {choose: [1]}", 2, "unknown key; did you mean 'choice'"),
    ("forest:\n  max_samples: {choice: [1, 2], int: [1, 2]}", 2, "not choice and int"),
    ("a: [unclosed", 1, "not valid YAML"),
    ("a: 1\n---\nb: 2", 2, "not valid YAML"),
    ("forest:\n  bootstrap: \x07", 2, "not valid YAML"),
    ("forest:\n  ? [a]\n  : 1", 2, "unknown key"),
    ("forest: {bootstrap: !!python/object/apply:os.system [ls]}", 1, "['ls'] must be true or false"),
    ("features: {scaling: !!binary aGk=}", 1, "is a binary"),
    ("features:\n  scaling: 2018-07-25", 2, "is a timestamp; quote it"),
    ("autoencoder:\n  epochs: !!int many", 2, "cannot be read as int"),
    ("autoencoder: {noise: &a [*a]}", 1, "too deep"),
    # choices
    ("forest:\n  max_samples: {choice: []}", 2, "empty choice"),
    ("forest:\n  max_samples: {choice: 5}", 2, "must be a list"),
    ("forest:\n  max_samples: [256, 512]", 2, "write {choice: [256, 512]}"),
    ("features:\n  clip:\n    choice:\n      - 5\n      - 5.0", 5, "5.0 is listed twice"),
    ("autoencoder:\n  dropout: {choice: [0,\n    0]}", 3, "listed twice"),
    # types
    ("forest:\n  bootstrap: {choice: [yes, 1]}", 2, "1 must be true or false"),
    ("autoencoder:\n  batch_size: 12.5", 2, "12.5 must be a whole number of 1 or more"),
    ("autoencoder:\n  noise: .nan", 2, "nan must be a finite number"),
    ("autoencoder:\n  noise: 1" + "0" * 400, 2, "... must be a finite number"),
    ("autoencoder:\n  batch_size: {int: [1, 10000000000]}", 2, "10000000000 is too large"),
    ("forest:\n  max_samples: true", 2, "True must be a whole number of 1 or more, a number in (0, 1] or 'auto'"),
    ("autoencoder:\n  noise:", 2, "None must be a finite number of 0 or more"),
    ("autoencoder:\n  noise: {uniform: [0, {a: 1}]}", 2, "expected a value, got a mapping"),
    ("autoencoder:\n  hidden: {choice: [16, 8]}", 2, "16 must be a list of whole numbers of 1 or more"),
    ("features: {head_only: [1]}", 1, "must be a list of texts"),
    # ranges
    ("autoencoder:\n  lr: {log: [0.1, 0.001]}", 2, "autoencoder.lr: low 0.1 is not below high 0.001"),
    ("autoencoder:\n  lr: {log: [0, 0.1]}", 2, "has no logarithm"),
    ("autoencoder:\n  lr: {log: [0.1]}", 2, "[low, high] belongs here, not a list of 1"),
    ("autoencoder:\n  batch_size: {uniform: [1, 9]}", 2, "suit a whole number of 1 or more: use int or log_int"),
    ("autoencoder:\n  batch_size: {int: [1, 9.5]}", 2, "9.5 must be a whole number"),
    ("forest:\n  bootstrap: {int: [0, 1]}", 2, "int does not suit true or false: use choice"),
    ("features:\n  clip: {uniform: [1, 9]}", 2, "transformed data is shared by all trials"),
    ("forest:\n  n_estimators: {int: [50, 300]}", 2, "one fit covers every size"),
    ("autoencoder:\n  lr: {log: [0.1, 0.2], steps: 3}", 2, "unknown key"),
    # what the training configuration refuses
    ("autoencoder:\n  lr: {choice: [0.1, -1]}", 2, "autoencoder.lr: -1 must be a finite number above 0"),
    ("autoencoder:\n  dropout: {uniform: [0, 1]}", 2, "1.0 must be a number in [0, 1)"),
    ("autoencoder: {activation: {choice: [relu, gelu]}}", 1, "'gelu' must be one of relu"),
    ("features: {scaling: {choice: [standard, minmax]}}", 1, "'minmax' must be one of standard, robust"),
    ("forest: {max_samples: {uniform: [0.5, 300]}}", 1, "300.0 must be a whole number of 1 or more, a number"),
    ("forest: {max_samples: {choice: [all]}}", 1, "'all' must be a whole number of 1 or more, a number"),
    ("autoencoder: {hidden: {choice: [[16, 0]]}}", 1, "[16, 0] must be a list of whole numbers of 1 or more"),
    # impossible or idle
    ("forest:\n  contamination: {choice: [0.1]}", 2, "changes no score, only the threshold: put it under threshold"),
    ("forest: {n_estimators: {choice: [30, 100]}}", 1, "30 is not a multiple of 25"),
    ("forest: {n_estimators: {choice: [0, 100]}}", 1, "0 must be a whole number of 1 or more"),
    (
        "autoencoder:\n  depth: {int: [1, 2]}\n  width: {int: [8, 64]}\n  latent: {int: [2, 9]}",
        4,
        "autoencoder.latent: 9 is wider than the narrowest width, 8 (line 3)",
    ),
    ("autoencoder:\n  depth: 2\n  width: 8\n  latent: 2\n  hidden: [8]", 5, "same as depth and width and latent (line"),
    ("autoencoder: {depth: 2}", 1, "no effect without latent"),
    ("autoencoder: {width: {int: [8, 16]}}", 1, "no effect without depth"),
    ("autoencoder: {depth: {int: [1, 2]}, latent: 2}", 1, "needs width"),
    ("autoencoder: {depth: 1, width: 8, latent: 2}", 1, "has no effect with depth 1"),
    ("autoencoder: {depth: 0, latent: 2}", 1, "0 must be a whole number of 1 or more"),
    ("autoencoder:\n  score: mse\n  components: {choice: [3]}", 3, "no effect without the score 'density'"),
    ("autoencoder:\n  score: mse\n  mixture_rows: 500", 3, "no effect without the score 'density'"),
    ("autoencoder: {score: density, mixture_rows: {choice: [50, 90]}}", 1, "give one number"),
    ("autoencoder: {epochs: {choice: [3, 9]}}", 1, "give one number, the most epochs"),
    ("autoencoder: {epochs: {int: [3, 9]}}", 1, "give one number, the most epochs"),
    ("forest_weight: {choice: [0.5, 1.5]}", 1, "1.5 must be a number in [0, 1]"),
    ("forest_weight: {grid: [0, 1]}", 1, "[low, high, count] belongs here, not a list of 2"),
    ("forest_weight: {grid: [0, 1, 1]}", 1, "1 steps: give 2 to 5,000"),
    ("forest_weight: {grid: [0, 1, 2], steps: 3}", 1, "belongs to a range"),
    # thresholds
    ("threshold:\n  policies: {f_bata: {}}", 2, "did you mean 'f_beta'"),
    ("threshold:\n  policies:\n    f_beta: {budget: 0.1}", 3, "no effect: policy 'f_beta' takes beta"),
    ("threshold:\n  policies:\n    best_f1: {beta: 2}", 3, "no effect: policy 'best_f1' takes no setting"),
    ("threshold:\n  policies:\n    f_beta:\n      beta: {log: [0.25, 4]}", 4, "steps, {log: [low, high], steps"),
    ("threshold:\n  policies:\n    f_beta:\n      beta: {choice: [1,\n        0]}", 5, "0 must be a finite number"),
    ("threshold:\n  policies:\n    f_beta: {beta: {log: [0.25, 4], steps: 1e9}}", 3, "must be a whole number"),
    ("threshold:\n  policies:\n    f_beta: {beta: {log: [0.25, 4], steps: 1000000000}}", 3, "give 2 to 5,000"),
    ("threshold: {policies: {alert_budget: {alerts_per_day: {int: [1, 5], steps: 9}}}}", 1, "give 5 or fewer"),
    ("threshold: {policies: {alert_budget: {alerts_per_day: 5, budget: 0.1}}}", 1, "which replaces it"),
    ("threshold: {policies: {cost: {cost_false_positive: -1}}}", 1, "-1 must be a finite number of 0 or more"),
    (
        "threshold:\n  policies:\n    cost: {cost_false_positive: {choice: [1, 5]}, cost_true_negative: 3}",
        3,
        "must be above cost_true_negative",
    ),
    ("threshold:\n  judge: {policy: alert_budget}", 2, "has no optimum, so it cannot compare thresholds"),
    ("threshold:\n  judge: {beta: 2}", 2, "names no policy"),
    ("threshold:\n  judge: {policy: best_f1, beta: 2}", 2, "no effect"),
    ("threshold:\n  judge: {policy: f_beta, beta: {choice: [1, 2]}}", 2, "a judge does not vary"),
    ("threshold:\n  contamination: {choice: [null, 1.5]}", 2, "1.5 must be a number in (0, 1] or null"),
    (
        "threshold:\n  policies:\n    cost:\n      cost_false_positive: {grid: [1, 9, 90]}\n"
        "      cost_false_negative: {grid: [10, 99, 90]}",
        3,
        "8,100 threshold combinations are more than 5,000",
    ),
    (
        "threshold:\n  contamination: {grid: [0.01, 0.2, 80]}\n  policies: {f_beta: {beta: {grid: [1, 9, 80]}}}",
        2,
        "6,400 threshold combinations",
    ),
    (
        "threshold:\n  policies:\n    f_beta: {beta: {grid: [1, 9, 4000]}}\n"
        "    alert_budget: {budget: {grid: [0.1, 1, 4000]}}",
        2,
        "8,000 threshold combinations",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_mistakes_are_refused_with_their_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(f"space.yaml, line {line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only a comment", "[" * 2000])
def test_what_is_no_space_at_all(text: str) -> None:
    with pytest.raises(ConfigError, match=r"space\.yaml"):
        read(text)


def test_nothing_to_search_is_refused_for_the_detector_asked_for() -> None:
    space = read("forest: {n_estimators: {choice: [25, 50]}, bootstrap: true}\nautoencoder: {noise: {uniform: [0, 1]}}")
    assert names(space, "autoencoder") == ["autoencoder.noise"]
    with pytest.raises(ConfigError, match=r"space\.yaml: nothing to search for the forest.*--detector autoencoder"):
        space.parameters_of("forest")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no search space '.*mine\.yaml'"):
        reader.load(tmp_path / "mine.yaml", BASE)
    with pytest.raises(ConfigError, match="no search space"):
        reader.load(tmp_path, BASE)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        reader.load(str(tmp_path / "binary.yaml"), BASE)
    (tmp_path / "own.yaml").write_text("forest: {max_samples: {int: [0, 9]}}")
    with pytest.raises(ConfigError, match=r"^own\.yaml, line 1: forest\.max_samples"):
        reader.load(tmp_path / "own.yaml", BASE)


_PIECES = st.sampled_from(
    [
        *"{}[]:,&*!|>%\n -'\"#?0", "forest", "autoencoder", "features", "threshold", "policies", "judge", "choice",
        "grid", "log", "int", "log_int", "uniform", "steps", "depth", "latent", "lr", "hidden", "score", "f_beta",
        "n_estimators", "beta", "1e-3", "null", "true", "auto", "density", "\n  ", ": {", "}", ": [1, 2]", "&a ", "*a",
        "<<", "!!set ", "!!binary ", "9" * 5000, "9" * 500, "-1", "0.5", "1e400", ".inf", "{}", "[]", "[[]]", "{a: 1}",
        "2001-13-41", "\x00", "\ud800",
    ]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(_PIECES, max_size=25).map("".join))
def test_any_text_is_a_space_or_a_named_mistake(text: str) -> None:
    holds(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_default_space_with_a_piece_replaced_is_a_space_or_a_named_mistake(data: st.DataObject) -> None:
    words = re.split(r"(\s+|[\[\]{},:])", DEFAULT.read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        words[data.draw(st.integers(0, len(words) - 1))] = data.draw(_PIECES)
    holds("".join(words))


def holds(text: str) -> None:
    try:
        space = read(text)
    except ConfigError as error:
        assert str(error).startswith("space.yaml")
    else:
        assert space.thresholds and math.isfinite(sum(space.forest_weights))
        for detector in ("forest", "autoencoder"):
            with contextlib.suppress(ConfigError):  # nothing to search
                for chosen in space.preprocessings(detector):
                    space.configure(BASE, chosen)


def test_the_space_of_the_documentation_is_read() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    space = read(page.split("```yaml\n")[1].split("```")[0])
    assert space.forest_sizes == (100, 200, 300)
    assert space.configure(
        BASE, {"autoencoder.depth": 3, "autoencoder.width": 64, "autoencoder.latent": 4}
    ).autoencoder.hidden == (64, 16, 4)
    assert len(space.thresholds) == 22 * 2
