"""Replicas by the processor time that they use, and the lines of the configuration that switch it on."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fraud.errors import ConfigError
from serve_app.scaling import METRIC, ByUse, CpuUse

CONFIG = Path(__file__).resolve().parents[2] / "serve_app" / "config.yaml"


def context(shares: dict[str, float], running: int) -> Any:
    """What Serve tells a policy."""
    return SimpleNamespace(
        aggregated_metrics={METRIC: shares} if shares else {}, current_num_replicas=running, target_num_replicas=running
    )


def test_so_many_replicas_that_each_has_its_share():
    policy = ByUse(target=0.5)
    assert policy(context({"a": 1.0}, 1))[0] == pytest.approx(2.0)
    assert policy(context({"a": 0.1, "b": 0.2, "c": 0.3}, 3))[0] == pytest.approx(1.2)
    assert policy(context({"a": 1.0}, 2))[0] == pytest.approx(4.0), "the second has not reported yet"
    assert policy(context({}, 3))[0] == 3, "nobody has"
    for target in (0, 1.5, "0.6"):
        with pytest.raises(ConfigError, match="no share of a processor"):
            ByUse(target)  # type: ignore[arg-type]


def test_use_is_that_since_the_last_call():
    use = CpuUse()
    ends = time.process_time() + 0.1
    while time.process_time() < ends:
        pass
    assert use.share() > 0
    time.sleep(0.2)
    assert use.share() < 0.5


def test_the_configuration_tells_how_and_serve_takes_it():
    from ray.serve.schema import ServeDeploySchema

    text = CONFIG.read_text()
    start = text.index("        # num_replicas: auto")
    lines = text[start:].splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("        # "))
    switched = "\n".join(line.replace("# ", "", 1) for line in lines[:end])
    text = text.replace("        num_replicas: 2\n", "").replace("\n".join(lines[:end]), switched)
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    (deployment,) = application.deployments
    assert deployment.num_replicas == "auto"
    config = deployment.autoscaling_config
    assert config["policy"]["policy_function"] == "serve_app.scaling:ByUse"
    assert ByUse(**config["policy"]["policy_kwargs"])
