import copy

import pytest
import yaml
from commands import check_wmdd
from kuberay_rules import (
    ROOT,
    cluster_of,
    groups_of,
    operator_errors,
    pods_of,
    schema_errors,
    security_errors,
    with_choice,
)

TEXTS = {kind: (ROOT / f"cluster/kuberay/{kind.lower()}.yaml").read_text() for kind in ("RayJob", "RayCluster")}
FILES = {kind: yaml.safe_load(text) for kind, text in TEXTS.items()}
each_file = pytest.mark.parametrize("document", FILES.values(), ids=FILES)


@each_file
def test_files_keep_to_the_published_schema(document):
    assert schema_errors(document) == []


@each_file
def test_files_keep_to_the_operators_rules(document):
    assert operator_errors(document) == []


@each_file
def test_every_container_is_confined_and_limited(document):
    assert security_errors(document) == []


@pytest.mark.parametrize("cloud", ["GKE", "EKS"])
@pytest.mark.parametrize("kind", FILES)
def test_cloud_choice_is_valid_and_selects_all_nodes(kind, cloud):
    document = yaml.safe_load(with_choice(TEXTS[kind], cloud))
    assert schema_errors(document) == []
    assert all("nodeSelector" in group["template"]["spec"] for group in groups_of(document)[1:])


def test_job_and_lasting_cluster_are_the_same():
    assert cluster_of(FILES["RayJob"]) == cluster_of(FILES["RayCluster"])


def test_gpu_groups_start_at_zero_spot_nodes_first():
    head, gpu, spot = groups_of(FILES["RayJob"])
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert {group["minReplicas"] for group in (gpu, spot)} == {0}
    assert spot["priority"] > gpu.get("priority", 0)


@each_file
def test_shared_memory_is_within_container_limit(document):
    for group in groups_of(document):
        pod = group["template"]["spec"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
        assert mount["mountPath"] == "/dev/shm"
        assert volume["emptyDir"]["medium"] == "Memory"
        limit = pod["containers"][0]["resources"]["limits"]["memory"]
        assert int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) < int(limit.removesuffix("Gi"))


@each_file
def test_ray_is_the_version_that_the_image_installs(document):
    assert f"\nray=={cluster_of(document)['rayVersion']} \\\n" in (ROOT / "requirements.lock").read_text()


@each_file
def test_storage_credentials_come_from_optional_secret(document):
    for name, pod in pods_of(document).items():
        if name != "submitter":
            (source,) = pod["containers"][0]["envFrom"]
            assert source["secretRef"] == {"name": "wmdd-storage", "optional": True}


def test_job_command_is_valid_and_waits_for_gpu_nodes():
    python, option, module, *words = FILES["RayJob"]["spec"]["entrypoint"].split()
    assert (python, option, module) == ("python", "-m", "wmdd")
    params = check_wmdd(words)
    assert all(params[key].startswith("s3://") for key in ("run_url", "data.path"))
    assert params["runtime.device"] == "cuda"
    assert float(params["ray.start_timeout_s"]) >= 600


def change(document, path, value):
    """A copy with one place changed; None takes it away."""
    changed = copy.deepcopy(document)
    *parents, last = path
    place = changed
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


CLUSTER = ("spec", "rayClusterSpec")
GPU = (*CLUSTER, "workerGroupSpecs", 0)
POD = (*GPU, "template", "spec")
CONTAINER = (*POD, "containers", 0)
HEAD = (*CLUSTER, "headGroupSpec", "template", "spec")
MISTAKES = [
    (schema_errors, (*GPU, "maxReplica"), 4),
    (schema_errors, (*GPU, "maxReplicas"), "4"),
    (schema_errors, (*GPU, "groupName"), None),
    (schema_errors, (*CLUSTER, "autoscalerOptions", "version"), "v3"),
    (schema_errors, (*CONTAINER, "resources", "limits", "memory"), "26GB"),
    (schema_errors, (*CONTAINER, "securityContext", "runAsNonroot"), True),
    (schema_errors, ("spec", "entryPoint"), "python"),
    (operator_errors, ("metadata", "name"), "w" * 48),
    (operator_errors, ("metadata", "name"), "Wmdd"),
    (operator_errors, ("spec", "submissionMode"), "k8sJobMode"),
    (operator_errors, ("spec", "entrypointNumGpus"), 1),
    (operator_errors, ("spec", "entrypointNumCpus"), 1),
    (operator_errors, ("spec", "backoffLimit"), -1),
    (operator_errors, (*CLUSTER, "rayVersion"), "2.51.0"),
    (operator_errors, (*CLUSTER, "autoscalerOptions", "version"), "v1"),
    (operator_errors, (*GPU, "minReplicas"), 9),
    (operator_errors, (*GPU, "groupName"), "gpu-spot"),
    (operator_errors, (*GPU, "suspend"), True),
    (operator_errors, (*POD, "restartPolicy"), "Always"),
    (operator_errors, (*HEAD, "restartPolicy"), "OnFailure"),
    (operator_errors, (*GPU, "rayStartParams", "num-gpus"), "2"),
    (operator_errors, (*CONTAINER, "resources", "limits", "nvidia.com/gpu"), None),
    (operator_errors, (*CONTAINER, "env"), [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]),
    (security_errors, (*CLUSTER, "authOptions"), None),
    (security_errors, (*CLUSTER, "autoscalerOptions", "securityContext"), None),
    (security_errors, ("spec", "submitterPodTemplate"), None),
    (security_errors, (*POD, "hostNetwork"), True),
    (security_errors, (*POD, "automountServiceAccountToken"), None),
    (security_errors, (*POD, "volumes", 0, "hostPath"), {"path": "/"}),
    (security_errors, (*CONTAINER, "securityContext"), None),
    (security_errors, (*CONTAINER, "securityContext", "privileged"), True),
    (security_errors, (*CONTAINER, "securityContext", "runAsUser"), 0),
    (security_errors, (*CONTAINER, "securityContext", "runAsNonRoot"), False),
    (security_errors, (*CONTAINER, "securityContext", "allowPrivilegeEscalation"), None),
    (security_errors, (*CONTAINER, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
    (security_errors, (*CONTAINER, "securityContext", "seccompProfile"), None),
    (security_errors, (*CONTAINER, "resources", "limits", "memory"), None),
    (security_errors, (*CONTAINER, "resources", "requests"), None),
    (security_errors, (*HEAD, "containers", 0, "resources"), None),
    (security_errors, (*CONTAINER, "env"), [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
]


@pytest.mark.parametrize(("errors", "path", "value"), MISTAKES, ids=lambda part: getattr(part, "__name__", None))
def test_planted_mistakes_are_found(errors, path, value):
    assert errors(change(FILES["RayJob"], path, value))
