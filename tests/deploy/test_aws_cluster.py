"""deploy/aws-cluster.yaml: Ray's own schema takes it, and its machines are closed."""

from __future__ import annotations

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import validate_config

from deploy.local.services import CODE

TEXT = (CODE / "deploy" / "aws-cluster.yaml").read_text(encoding="utf-8")


def test_rays_schema_takes_it_and_refuses_a_misspelt_key():
    validate_config({**yaml.safe_load(TEXT), "cluster_synced_files": []})
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**yaml.safe_load(TEXT), "max_worker": 1})


def test_its_machines_are_closed():
    config = yaml.safe_load(TEXT)
    (rule,) = config["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22) and "0.0.0.0/0" not in TEXT
    assert "--dashboard-host=127.0.0.1" in TEXT and "--dashboard-host=0.0.0.0" not in TEXT
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
