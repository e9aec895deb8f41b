"""What is wrong with a KubeRay file: by the published schema, by the operator's own rules, and by ours on security."""

import functools
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "../shared/schemas"
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
LONGEST_NAME = {"RayJob": 47, "RayCluster": 53}
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")


@functools.cache
def validator(kind):
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's schema {path.name} is not in ../shared/schemas")
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1" and version["served"]
    )
    return jsonschema.Draft202012Validator(closed(schema))


def closed(schema):
    """The schema without Kubernetes' own words, refusing every field that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        made = {key: value for key, value in made.items() if key not in ("type", "anyOf")}
        made["type"] = ["integer", "string"]
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def schema_errors(document):
    found = validator(document["kind"]).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def cluster_of(document):
    return document["spec"].get("rayClusterSpec", document["spec"])


def groups_of(document):
    cluster = cluster_of(document)
    head = {"groupName": "head", **cluster["headGroupSpec"]}
    return [head, *cluster["workerGroupSpecs"]]


def pods_of(document):
    pods = {group["groupName"]: group["template"]["spec"] for group in groups_of(document)}
    if document["kind"] == "RayJob":
        pods["submitter"] = document["spec"].get("submitterPodTemplate", {}).get("spec", {"containers": []})
    return pods


def operator_errors(document):
    """What the operator refuses, or what would wait for ever, though the schema allows it."""
    spec, cluster, name = document["spec"], cluster_of(document), document["metadata"]["name"]
    found = []
    if len(name) > LONGEST_NAME[document["kind"]] or not LABEL.fullmatch(name):
        found.append(f"name {name}")
    if spec.get("submissionMode", "K8sJobMode") not in SUBMISSION_MODES:
        found.append(f"submissionMode {spec['submissionMode']}")
    if spec.get("backoffLimit", 0) < 0 or spec.get("ttlSecondsAfterFinished", 0) < 0:
        found.append("backoffLimit or ttlSecondsAfterFinished below 0")
    head_cpus = cluster["headGroupSpec"]["rayStartParams"].get("num-cpus")
    if "entrypointNumGpus" in spec or (head_cpus == "0" and "entrypointNumCpus" in spec):
        found.append("the command would wait for resources that the head does not offer")
    version = tuple(map(int, cluster["rayVersion"].split(".")))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52, 0):
        found.append("token authentication needs Ray 2.52")
    v2 = cluster.get("autoscalerOptions", {}).get("version") == "v2" and cluster.get("enableInTreeAutoscaling")
    for group in groups_of(document):
        found += [f"{group['groupName']}: {text}" for text in group_errors(group, v2, version)]
    names = [group["groupName"] for group in groups_of(document)]
    return found + [f"group {name} twice" for name in {name for name in names if names.count(name) > 1}]


def group_errors(group, v2, version):
    pod, params = group["template"]["spec"], group.get("rayStartParams", {})
    container = pod["containers"][0]
    if not 0 <= group.get("minReplicas", 0) <= group.get("maxReplicas", 0):
        yield "minReplicas above maxReplicas"
    if v2 and pod.get("restartPolicy", "Never") != "Never":
        yield "autoscaler v2 wants restartPolicy Never, or none"
    if v2 and any(item["name"] == "RAY_enable_autoscaler_v2" for item in container.get("env", [])):
        yield "autoscaler v2 is set twice"
    if ("priority" in group and version < (2, 56, 0)) or (not v2 and {"priority", "idleTimeoutSeconds"} & set(group)):
        yield "priority and idleTimeoutSeconds need autoscaler v2 and Ray 2.56"
    if group.get("suspend"):
        yield "an autoscaled group cannot be suspended"
    if "labels" in params or ("resources" in group and params):
        yield "labels or resources are given twice"
    resources = container.get("resources", {})
    gpus = [resources.get(kind, {}).get("nvidia.com/gpu", "0") for kind in ("requests", "limits")]
    if {str(count) for count in gpus} != {params.get("num-gpus", "0")}:
        yield f"num-gpus {params.get('num-gpus', '0')}, but the container asks for {gpus}"


def security_errors(document):
    """What a container may do that it need not, and what it may take without limit."""
    found = []
    cluster = cluster_of(document)
    if cluster.get("authOptions", {}).get("mode") != "token":
        found.append("no token authentication")
    if cluster.get("enableInTreeAutoscaling"):
        found += container_errors("autoscaler", cluster.get("autoscalerOptions", {}))
    for name, pod in pods_of(document).items():
        found += [f"{name}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
        found += [f"{name}: hostPath" for volume in pod.get("volumes", []) if "hostPath" in volume]
        if name != "head" and pod.get("automountServiceAccountToken", True):
            found.append(f"{name}: can speak to Kubernetes")
        if not pod["containers"]:
            found.append(f"{name}: no container, so the operator's own would run without limits of ours")
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            found += container_errors(f"{name}/{container['name']}", container)
    return found


def container_errors(name, container):
    context = container.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield f"{name}: may be root"
    if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{name}: keeps capabilities"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{name}: no seccomp profile"
    for kind in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(container.get("resources", {}).get(kind, {})):
            yield f"{name}: no {kind} of CPU and memory"
    for item in container.get("env", []):
        if SECRET.search(item["name"].upper()) and "value" in item:
            yield f"{name}: {item['name']} is written out"


def with_choice(text, cloud):
    """The file with the lines uncommented that end in the cloud's name."""
    return re.sub(rf"^( *)# (.*)  # {cloud}$", r"\1\2", text, flags=re.MULTILINE)
