"""Names of run folders say how a configuration differs from its recipe; reports name its set."""

import pytest
from digits import changed

from wmdd.cli.main import cli
from wmdd.cli.options import configure
from wmdd.config.distill import DistillConfig, from_yaml, override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.engine.run_folder import default_run
from wmdd.engine.run_names import contrast, located, portable_yaml, set_name, subject


def configured(*words):
    command = cli.commands["distill"]
    return configure(command.make_context("distill", list(words)).params)


# Words, and the folder's name.
NAMED = {
    ("digits",): "digits",
    ("digits", "--ipc", "2"): "digits-ipc2",
    ("digits", "--debug"): "digits-debug",
    ("digits", "--method", "sre2l"): "digits-sre2l",
    ("digits", "--protocol", "rded"): "digits-protocol-rded",
    ("digits", "--protocol", "wmdd"): "digits-protocol-wmdd",
    ("digits", "--protocol", "rded", "--ipc", "10"): "digits-protocol-rded-ipc10",  # whose batches follow the size
    ("digits", "--debug", "--protocol", "sre2l"): "digits-debug-protocol-sre2l",
    ("digits", "--seed", "3", "--recover.lr", "0.5"): "digits-seed3-recover.lr-0.5",
    ("digits", "--pretrain.lr", "0.5"): "digits-pretrain.lr-0.5",
    ("digits", "--evaluate.num_students", "2", "--recover.flip", "true"): "digits-students2-recover.flip-true",
    ("digits", "--runtime.threads", "3", "--ray.actors", "2", "--runtime.device", "cpu"): "digits",
    ("cifar10", "--data.path", "~/data/cifar10"): "cifar10",
    ("cifar10", "--data.path", "torchvision:CIFAR10?split=x", "--data.download", "true"): "cifar10",
    ("cifar100", "--data.path", "/d/cifar10"): "cifar100-cifar10",
    ("cifar10-quick", "--data.path", "/d/pets/", "--ipc", "5"): "cifar10-quick-pets-ipc5",
    ("cifar10-quick", "--data.path", "s3://b/a pets'!"): "cifar10-quick-a_pets",
    ("cifar10-quick", "--data.path", "zip://cats::/d/x.zip"): "cifar10-quick-cats-x",
    ("cifar10-quick", "--data.path", "/d/café"): "cifar10-quick-café",
    ("imagenette", "--data.path", "/d/in", "--data.subset", "imagewoof"): "imagenette-in-imagewoof",
}


def test_default_folder_names_changes_of_the_recipe():
    assert [default_run(configured(*words)) for words in NAMED] == [f"runs/{name}" for name in NAMED.values()]


@pytest.mark.parametrize(
    "options",
    [
        {"recover.lr": 0.5, "pretrain.lr": 0.5, "evaluate.lr": 0.5},
        {"data.classes": [f"class {i}" for i in range(9)]},
        {"data.path": "/"},
        {"pretrain.checkpoint": "/a/b/teacher.safetensors"},
    ],
)
def test_many_changes_are_named_by_a_digest(options):
    names = [default_run(override(recipe("digits"), options | more)) for more in ({}, {}, {"recover.iterations": 3})]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("runs/digits-")
    assert len(names[0]) < 60
    assert "/" not in names[0].removeprefix("runs/")


def test_folder_names_are_safe_for_any_set_and_recipe():
    for path in ("/d/a\\b:c*?", "/d/" + "x" * 300, "/d/caf\udce9", "/d/..."):
        name = default_run(changed(data__path=path))
        name.encode()
        assert len(name) < 60
        assert not set(name.removeprefix("runs/")) & set('/\\:*?"<>|= ')
    assert default_run(override(recipe("digits"), {"recipe": "../mine"})).startswith("runs/mine-")
    assert default_run(DistillConfig()) == "runs/custom"


def test_options_outside_keys_make_no_difference():
    moved = changed(ray__address="auto", runtime__device="cpu", data__download=True, evaluate__val_batch_size=7)
    assert contrast(recipe("digits"), moved) == ""
    assert contrast(recipe("digits"), changed(runtime__precision="fp32")) == "runtime.precision=auto (not fp32)"
    told = contrast(recipe("digits"), changed(ipc=2, recover__lr=3, recover__crop_scale=(0.5, 1)))
    assert told == "ipc=1 (not 2), and 2 other options"


def test_options_of_a_command_change_default_folders():
    plain, other = (default_run(recipe("digits"), "compare", more) for more in ({}, {"cda": {"recover.lr": "1"}}))
    assert plain == "runs/digits-compare"
    assert other.startswith("runs/digits-compare-")
    assert default_run(changed(evaluate__num_students=2), "tune") == "runs/digits-students2-tune"
    assert default_run(changed(ipc=2), "rank", {"weight": 0.7}).startswith("runs/digits-ipc2-rank-")


def test_written_configuration_is_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = changed(data__path="set", pretrain__checkpoint="t.pth", ray__address="auto")
    written = from_yaml(portable_yaml(located(config)))
    assert written.data.path == f"{tmp_path}/set"
    assert written.pretrain.checkpoint == f"{tmp_path}/t.pth"
    assert written.ray.address is None
    for path in ("builtin:digits", "torchvision:CIFAR10", "s3://b/set", None):
        assert located(changed(data__path=path)).data.path == path
    assert located(changed(pretrain__checkpoint="IMAGENET1K_V1")).pretrain.checkpoint == "IMAGENET1K_V1"


def test_subject_names_the_set_and_the_images():
    assert subject(recipe("digits")) == "digits, 1 image per class"
    assert subject(override(recipe("cifar10"), {"data.path": "/d/CIFAR10"})) == "cifar10, 10 images per class"
    pets = override(recipe("cifar10-quick"), {"data.path": "/d/pets", "ipc": 5})
    assert subject(with_method(pets, "cda")) == "pets (recipe cifar10-quick), 5 images per class"
    assert set_name(recipe("cifar10")) == ""
    assert subject(recipe("cifar10")) == "cifar10, 10 images per class"
