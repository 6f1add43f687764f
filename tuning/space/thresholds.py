"""The thresholds of a search space: every policy with every value of its settings and every contamination."""

from __future__ import annotations

import dataclasses
import itertools
import math

from fraud.configuration import allowed
from fraud.errors import ConfigError
from fraud.thresholds.policies import SETTINGS_OF, ThresholdConfig
from tuning.space import values as forms
from tuning.space.nodes import Node

LARGEST = forms.LARGEST_GRID
JUDGES = ("f_beta", "best_f1", "cost")


def read_judge(threshold: Node | None, base: ThresholdConfig) -> ThresholdConfig:
    """The policy whose optimum compares the combinations. Default: the base's if it has an optimum, else best F1."""
    node = None if threshold is None else _parts(threshold).get("judge")
    if node is None:
        return (
            dataclasses.replace(base, contamination=None)
            if base.policy in JUDGES
            else ThresholdConfig(policy="best_f1")
        )
    known = sorted({setting for policy in JUDGES for setting in SETTINGS_OF[policy]})
    settings = node.mapping(("policy", *known))
    if "policy" not in settings:
        raise node.error(f"names no policy: use one of {', '.join(JUDGES)}")
    policy = settings.pop("policy")
    if policy.value() not in JUDGES:
        raise policy.error(
            f"{policy.shown()} has no optimum, so it cannot compare thresholds: use one of {', '.join(JUDGES)}"
        )
    for key, setting in settings.items():
        if setting.is_mapping:
            raise setting.error("a judge does not vary: give one value")
        _check_taken(setting, key, policy.value())
    (judge,) = _combine(policy.value(), settings, node, dataclasses.replace(base, contamination=None))
    return judge


def read_thresholds(threshold: Node | None, base: ThresholdConfig) -> tuple[ThresholdConfig, ...]:
    """Every combination; without policies in the file, the base's only.

    Raises ConfigError with the line: a setting that the policy does not take, more than LARGEST combinations.
    """
    parts = {} if threshold is None else _parts(threshold)
    policies: tuple[ThresholdConfig, ...] = (base,)
    if "policies" in parts:
        named = parts["policies"].mapping(tuple(SETTINGS_OF))
        policies = tuple(config for policy, node in named.items() for config in _read_policy(policy, node, base))
        _check_count(len(policies), parts["policies"])
    if "contamination" not in parts:
        return policies
    node = parts["contamination"]
    shares = forms.values(node, allowed(ThresholdConfig, "contamination"))
    _check_count(len(policies) * len(shares), node)
    return tuple(dataclasses.replace(config, contamination=share) for config in policies for share in shares)


def _parts(threshold: Node) -> dict[str, Node]:
    return threshold.mapping(("judge", "contamination", "policies"))


def _read_policy(policy: str, node: Node, base: ThresholdConfig) -> list[ThresholdConfig]:
    known = tuple(itertools.chain.from_iterable(SETTINGS_OF.values()))
    settings = node.mapping(known, may_be_empty=True)
    for key, setting in settings.items():
        _check_taken(setting, key, policy)
    if "budget" in settings and "alerts_per_day" in settings:
        raise settings["budget"].error("has no effect beside alerts_per_day, which replaces it: keep one of the two")
    return _combine(policy, settings, node, base)


def _check_taken(setting: Node, key: str, policy: str) -> None:
    if key not in SETTINGS_OF[policy]:
        takes = ", ".join(SETTINGS_OF[policy]) or "no setting"
        raise setting.error(f"has no effect: policy {policy!r} takes {takes}")


def _combine(policy: str, settings: dict[str, Node], node: Node, base: ThresholdConfig) -> list[ThresholdConfig]:
    """Cross the values; settings of the policy that the file does not name come from the base."""
    inherited = {key: getattr(base, key) for key in (*SETTINGS_OF[policy], "contamination")}
    if "budget" in settings:
        inherited["alerts_per_day"] = None
    tried = {key: forms.values(setting, allowed(ThresholdConfig, key)) for key, setting in settings.items()}
    _check_count(math.prod(len(values) for values in tried.values()), node)
    try:
        return [
            ThresholdConfig(**{"policy": policy, **inherited, **dict(zip(tried, chosen, strict=True))})
            for chosen in itertools.product(*tried.values())
        ]
    except ConfigError as error:
        raise node.error(str(error)) from None


def _check_count(count: int, node: Node) -> None:
    if count > LARGEST:
        raise node.error(f"{count:,} threshold combinations are more than {LARGEST:,}: give fewer values or steps")
