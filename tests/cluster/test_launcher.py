import copy
import logging
import re

import jsonschema
import pytest
import yaml
from commands import ROOT, check_ray
from ray.autoscaler._private.util import prepare_config, validate_config

FILES = {cloud: yaml.safe_load((ROOT / f"cluster/{cloud}.yaml").read_text()) for cloud in ("aws", "gcp")}
each_cloud = pytest.mark.parametrize("cloud", FILES)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.WARNING)


def prepared(config):
    """The file as `ray up` sees it before it speaks to a cloud."""
    made = prepare_config(copy.deepcopy(config))
    validate_config(made)
    return made


def workers(config):
    return {name: node for name, node in config["available_node_types"].items() if name != config["head_node_type"]}


def run_options(config, name):
    """The options of a node's container, as the launcher puts them together."""
    docker = config["docker"] | config["available_node_types"][name].get("docker", {})
    kind = "head" if name == config["head_node_type"] else "worker"
    return docker.get("run_options", []) + docker.get(f"{kind}_run_options", [])


def security_errors(config):
    for name in config["available_node_types"]:
        options = run_options(config, name)
        given = dict(option.removeprefix("--").partition("=")[::2] for option in options)
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", given.get("user", "")):
            yield f"{name}: root in the container"
        if given.get("cap-drop") != "ALL" or "cap-add" in given or given.get("security-opt") != "no-new-privileges":
            yield f"{name}: more rights than it needs"
        if "privileged" in given or any(word in option for option in options for word in ("docker.sock", "--volume")):
            yield f"{name}: a way out of the container"
        if not {"cpus", "memory", "pids-limit"} <= set(given):
            yield f"{name}: no limits"
        if "--env=RAY_AUTH_MODE=token" not in options:
            yield f"{name}: no token authentication"
    if not any(
        path in option for path in config["file_mounts"] for option in options if "RAY_AUTH_TOKEN_PATH" in option
    ):
        yield "the token is not where Ray looks for it"
    starts = " ".join(config["head_start_ray_commands"])
    if "--dashboard-host=127.0.0.1" not in starts:
        yield "the dashboard listens to others"
    rules = config["provider"].get("security_group", {}).get("IpPermissions", [])
    for rule in rules:
        addresses = [item["CidrIp"] for item in rule["IpRanges"]]
        if (rule["FromPort"], rule["ToPort"]) != (22, 22) or any(item.startswith("0.0.0.0") for item in addresses):
            yield "open to more than ssh from one address"


@each_cloud
def test_files_pass_the_launchers_own_validation(cloud):
    prepared(FILES[cloud])


@each_cloud
def test_containers_are_confined_and_dashboard_closed(cloud):
    assert list(security_errors(FILES[cloud])) == []


@each_cloud
def test_nothing_is_installed_beside_the_image(cloud):
    made = prepared(FILES[cloud])
    keys = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    commands = [command for key in keys for command in made[key]]
    commands += [command for node in workers(made).values() for command in node["initialization_commands"]]
    assert not any(word in command for command in commands for word in ("install", "pip", "curl", "wget", "http"))


@each_cloud
def test_gpu_nodes_start_at_zero_with_spot_nodes_first(cloud):
    made = prepared(FILES[cloud])
    nodes = workers(made)
    assert {node["min_workers"] for node in nodes.values()} == {0}
    assert all(node["resources"]["GPU"] == 1 for node in nodes.values())
    assert sum(node["max_workers"] for node in nodes.values()) <= made["max_workers"]
    spot = {name for name, node in nodes.items() if "spot" in str(node["node_config"]).lower()}
    assert {name for name, node in nodes.items() if node.get("priority")} == spot == {"gpu_spot"}
    assert made["available_node_types"]["head"]["resources"] == {"CPU": 0}


@each_cloud
def test_ray_is_told_the_cpus_that_its_container_has(cloud):
    for name, node in workers(FILES[cloud]).items():
        assert f"--cpus={node['resources']['CPU']}" in run_options(FILES[cloud], name)


@each_cloud
def test_commands_that_start_ray_are_valid(cloud):
    commands = FILES[cloud]["head_start_ray_commands"] + FILES[cloud]["worker_start_ray_commands"]
    assert len(commands) == 4
    for command in commands:
        program, *words = command.split()
        assert program == "ray"
        check_ray(words)


def test_machines_and_firewall_are_ones_that_ec2_takes():
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    ec2 = session.get_service_model("ec2")
    for node in FILES["aws"]["available_node_types"].values():
        request = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, ec2.operation_model("RunInstances").input_shape)
        assert not report.has_errors(), report.generate_report()
        report = ParamValidator().validate(
            node["node_config"] | {"InstanceTyp": "x"}, ec2.operation_model("RunInstances").input_shape
        )
        assert report.has_errors()
    group = FILES["aws"]["provider"]["security_group"]
    shape = ec2.operation_model("AuthorizeSecurityGroupIngress").input_shape
    report = ParamValidator().validate({"IpPermissions": group["IpPermissions"]}, shape)
    assert not report.has_errors(), report.generate_report()


def planted(change):
    config = copy.deepcopy(FILES["aws"])
    change(config)
    return config


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(max_worker=4),
        lambda config: config.update(idle_timeout_minutes="5 minutes"),
        lambda config: config.update(head_node_type="heads"),
        lambda config: config["docker"].update(run_option=[]),
        lambda config: config["docker"].pop("image"),
        lambda config: config["available_node_types"]["gpu"].update(max_worker=1),
        lambda config: config["available_node_types"]["gpu"].update(min_workers=21),
        lambda config: config["available_node_types"]["gpu"]["resources"].update(GPU="one"),
        lambda config: config.pop("provider"),
    ],
)
def test_planted_mistakes_of_form_are_found(change):
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError, AssertionError)):
        prepared(planted(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["docker"]["run_options"].append("--privileged"),
        lambda config: config["docker"]["run_options"].append("--cap-add=SYS_ADMIN"),
        lambda config: config["docker"]["run_options"].append("--volume=/:/host"),
        lambda config: config["docker"]["run_options"].remove("--user=1000:1000"),
        lambda config: config["docker"]["run_options"].remove("--cap-drop=ALL"),
        lambda config: config["docker"]["run_options"].remove("--env=RAY_AUTH_MODE=token"),
        lambda config: config["docker"].pop("head_run_options"),
        lambda config: config["available_node_types"]["gpu"].pop("docker"),
        lambda config: config.update(file_mounts={"/elsewhere": "~/.wmdd"}),
        lambda config: config.update(head_start_ray_commands=["ray start --head --dashboard-host=0.0.0.0"]),
        lambda config: config["provider"]["security_group"]["IpPermissions"][0].update(ToPort=65535),
        lambda config: config["provider"]["security_group"]["IpPermissions"][0].update(
            IpRanges=[{"CidrIp": "0.0.0.0/0"}]
        ),
    ],
)
def test_planted_mistakes_of_security_are_found(change):
    assert list(security_errors(planted(change)))
