"""deploy/kuberay: valid for Kubernetes and KubeRay, closed by default, and every name in it exists."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from deploy.local.services import CODE
from fraud.settings import Settings
from ray_jobs.train.request import read_request

HERE = CODE / "deploy" / "kuberay"
KUBERNETES = "1.32"
GUIDE = (CODE / "docs" / "kubernetes.md").read_text(encoding="utf-8")
CRD = yaml.safe_load(Path(__file__).with_name("kuberay_crd.yaml").read_text(encoding="utf-8"))


def documents(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k folder` would send, without its labels and image tags."""
    resources = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return [document for name in resources for document in yaml.safe_load_all((folder / name).read_text("utf-8"))]


ALL = documents(HERE) + documents(HERE / "jobs")


def the(kind: str, among: list[dict[str, Any]] = ALL) -> dict[str, Any]:
    """The document of that kind: a copy, to be changed at will."""
    return copy.deepcopy(next(document for document in among if document["kind"] == kind))


def kubernetes_definitions() -> Any:
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    return json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validate() -> Callable[[dict[str, Any]], None]:
    known = Resource.from_contents(kubernetes_definitions(), default_specification=DRAFT202012)
    rays = jsonschema.Draft202012Validator(CRD, registry=Registry().with_resource("k8s", known))

    def check(document: dict[str, Any]) -> None:
        if document["apiVersion"] == "ray.io/v1":
            rays.validate(document)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)

    return check


def clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in ALL:
        if document["kind"] == "RayCluster":
            yield "RayCluster", document["spec"]
        elif document["kind"] == "RayService":
            yield "RayService", document["spec"]["rayClusterConfig"]


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """(name, pod template, labels that KubeRay gives its pods)"""
    for kind, cluster in clusters():
        yield f"{kind} head", cluster["headGroupSpec"]["template"], {"ray.io/node-type": "head"}
        for group in cluster["workerGroupSpecs"]:
            yield f"{kind} {group['groupName']}", group["template"], {"ray.io/node-type": "worker"}
    yield "RayJob submitter", the("RayJob")["spec"]["submitterPodTemplate"], {}


PODS = {name: (template, {**template["metadata"]["labels"], **added}) for name, template, added in pods()}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    required = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", [])
    assert all(rule["operator"] == "In" for rule in among)
    return required <= labels.items() and all(labels.get(rule["key"]) in rule["values"] for rule in among)


@pytest.mark.parametrize("document", ALL, ids=lambda d: f"{d['kind']} {d['metadata']['name']}")
def test_a_manifest_is_what_its_schema_takes(document, validate):
    validate(document)


def test_every_manifest_is_named_by_a_kustomization():
    for folder in (HERE, HERE / "jobs"):
        named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        assert sorted([*named, "kustomization.yaml"]) == sorted(path.name for path in folder.glob("*.yaml"))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("folder", [HERE, HERE / "jobs"], ids=lambda p: p.name)
def test_kubectl_renders_them_into_the_namespace_with_pinned_images(folder, validate):
    made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    rendered = list(yaml.safe_load_all(made.stdout))
    assert {d["metadata"].get("namespace", "fraud") for d in rendered} == {"fraud"}
    images = re.findall(r"image: (\S+)", made.stdout)
    assert images and all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", image) for image in images), images
    for document in rendered:
        validate(document)


def misspell_field(ray: dict[str, Any]) -> None:
    ray["spec"]["headGroupSpecs"] = ray["spec"].pop("headGroupSpec")


def misspell_in_pod(ray: dict[str, Any]) -> None:
    ray["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"


def number_for_start(ray: dict[str, Any]) -> None:
    ray["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def unknown_mode(ray: dict[str, Any]) -> None:
    ray["spec"]["authOptions"]["mode"] = "tokens"


def no_redis(ray: dict[str, Any]) -> None:
    del ray["spec"]["gcsFaultToleranceOptions"]["redisAddress"]


def long_name(ray: dict[str, Any]) -> None:
    ray["metadata"]["name"] = "f" * 42


def text_for_count(ray: dict[str, Any]) -> None:
    ray["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "8"


@pytest.mark.parametrize(
    "spoil",
    [misspell_field, misspell_in_pod, number_for_start, unknown_mode, no_redis, long_name, text_for_count],
)
def test_the_schema_refuses_what_kuberay_would(spoil, validate):
    ray = the("RayCluster")
    spoil(ray)
    with pytest.raises(jsonschema.ValidationError):
        validate(ray)


def test_the_schema_refuses_an_unknown_way_to_upgrade(validate):
    service = the("RayService")
    service["spec"]["upgradeStrategy"]["type"] = "Rolling"
    with pytest.raises(jsonschema.ValidationError):
        validate(service)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_keeps_to_the_restricted_standard_and_cannot_write_its_image(name):
    spec = PODS[name][0]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        closed = container["securityContext"]
        assert closed == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                          "readOnlyRootFilesystem": True}  # fmt: skip
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    # Only the head may ask Kubernetes for something: its autoscaler asks for pods.
    assert spec.get("automountServiceAccountToken", True) is name.endswith("head")


@pytest.mark.parametrize("name", [name for name in PODS if "submitter" not in name])
def test_a_node_is_watched(name):
    (container,) = PODS[name][0]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert {"httpGet", "timeoutSeconds", "failureThreshold"} <= container[probe].keys()
    assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}


@pytest.mark.parametrize(("kind", "cluster"), list(clusters()))
def test_ray_asks_for_its_token_and_is_the_version_of_the_lock(kind, cluster):
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["rayVersion"] == importlib.metadata.version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"]
    assert cluster["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"]


def test_the_two_clusters_have_tokens_of_their_own():
    assert len({cluster["authOptions"]["secretName"] for _, cluster in clusters()}) == 2


def test_policies_and_budgets_hold_for_pods_that_exist():
    policies = [d for d in ALL if d["kind"] == "NetworkPolicy"]
    for name, (_, labels) in PODS.items():
        matching = [p["spec"] for p in policies if matches(p["spec"]["podSelector"], labels)]
        assert {kind for spec in matching for kind in spec["policyTypes"]} == {"Ingress", "Egress"}, name
    for budget in (d["spec"] for d in ALL if d["kind"] == "PodDisruptionBudget"):
        assert any(matches(budget["selector"], labels) for _, labels in PODS.values())
        assert isinstance(budget["minAvailable"], int)  # all that counts for pods of a custom resource


def test_no_policy_lets_everybody_in():
    for policy in (d["spec"] for d in ALL if d["kind"] == "NetworkPolicy"):
        for rule in policy.get("ingress", []):
            assert rule["from"] and all(source.get("podSelector") for source in rule["from"])


def test_every_secret_is_made_by_the_guide_and_none_stands_here():
    text = "\n".join(path.read_text(encoding="utf-8") for path in HERE.rglob("*.yaml"))
    secrets = set(re.findall(r"secretName: ([\w-]+)", text)) | set(re.findall(r"secretKeyRef: {name: ([\w-]+)", text))
    made = set(re.findall(r"create secret generic ([\w-]+)", GUIDE))
    assert secrets == made and "kind: Secret" not in text
    for _, key in re.findall(r"secretKeyRef: {name: ([\w-]+), key: (\w+)}", text):
        assert f"--from-file={key}=" in GUIDE


def test_the_settings_are_some_that_the_code_reads():
    code = "\n".join(path.read_text() for folder in ("fraud", "cluster", "serve_app", "monitoring", "deploy")
                     for path in (CODE / folder).rglob("*.py"))  # fmt: skip
    for name in the("ConfigMap")["data"]:
        assert name in code or name.startswith(("AWS_", "MLFLOW_", "RAY_")), name


def test_serve_gets_the_application_of_the_repository():
    config = yaml.safe_load(the("RayService")["spec"]["serveConfigV2"])
    ours = yaml.safe_load((CODE / "serve_app" / "config.yaml").read_text(encoding="utf-8"))
    ServeDeploySchema.model_validate(config)
    assert config["http_options"].pop("host") == "0.0.0.0"  # of the pod: the network policy decides who gets in
    ours["http_options"].pop("host")
    assert config["applications"][0]["deployments"][0].pop("max_replicas_per_node") == 1
    assert config == ours


def test_an_incremental_upgrade_has_what_the_operator_asks_for():
    spec = the("RayService")["spec"]
    assert spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    assert spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    for group in [spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]]:
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"  # autoscaler v2's condition


def test_the_job_is_one_that_training_understands():
    job = the("RayJob")["spec"]
    python, flag, module, *arguments = shlex.split(job["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "ray_jobs.train")
    assert read_request(arguments, Settings.from_environment()).workers == 2
    assert job["clusterSelector"] == {"ray.io/cluster": the("RayCluster")["metadata"]["name"]}
