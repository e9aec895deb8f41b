"""Run folders: each belongs to one configuration and one process, and its name says which."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wmdd.cli.main import _run, cli
from wmdd.cli.options import configure
from wmdd.commands.compare import cases
from wmdd.commands.distill import distill
from wmdd.commands.rank import rank
from wmdd.config.distill import DistillConfig, from_yaml, override
from wmdd.config.methods import with_method
from wmdd.config.protocols import with_protocol
from wmdd.config.recipes import recipe
from wmdd.engine import run_folder
from wmdd.engine.run_folder import choose_run, default_run, hold, replaced
from wmdd.engine.run_names import contrast, located, portable_yaml, set_name, subject
from wmdd.engine.run_start import note_config
from wmdd.engine.session import Session
from wmdd.errors import ConfigError
from wmdd.storage.folder import Folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(**options):
    return override(recipe("digits"), {name.replace("__", "."): value for name, value in options.items()})


def configured(*words):
    command = cli.commands["distill"]
    return configure(command.make_context("distill", list(words)).params)


def leave_run(url, config, *, finished=True, units=1):
    """Leave what a run of a configuration leaves in its folder."""
    note_config(url, config)
    folder = Folder(url)
    folder.write("metrics.jsonl", b'{"kind": "begin"}\n' + b'{"kind": "unit"}\n' * units)
    if finished:
        folder.write("manifest.json", json.dumps({"config": config.model_dump(mode="json")}).encode())
    return {path.name: path.read_bytes() for path in Path(url).iterdir()}


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


def test_finished_run_of_other_options_is_left_alone():
    held = leave_run("mine", changed(ipc=2))
    line = r"run=mine: holds a run with ipc=2 \(not 1\), and is left alone; give another run=, or delete"
    with pytest.raises(ConfigError, match=line):
        distill("digits", run="mine", executor="local")
    assert {path.name: path.read_bytes() for path in Path("mine").iterdir()} == held
    assert not Path("store").exists()
    assert choose_run("mine/", changed(ipc=2, ray__actors=3)) == ("mine", "")


def test_run_that_ended_during_the_wait_is_left_alone(monkeypatch):
    held, plan = {}, Session.plan

    def plan_late(*given, **options):
        held.update(leave_run("mine", changed(ipc=2)))
        return plan(*given, **options)

    monkeypatch.setattr(Session, "plan", plan_late)
    with pytest.raises(ConfigError, match=r"run=mine: holds a run with ipc=2 \(not 1\)"):
        distill("digits", run="mine", executor="local")
    assert {path.name: path.read_bytes() for path in Path("mine").iterdir()} == held
    with hold("mine"):  # is free again
        pass


def test_relative_and_absolute_path_are_the_same_run():
    leave_run("mine", changed(data__path="set"))
    assert choose_run("mine", changed(data__path=str(Path("set").absolute()))) == ("mine", "")
    with pytest.raises(ConfigError, match=r"data\.path=.*/set \(not .*/other\)"):
        choose_run("mine", changed(data__path="other"))


def test_remote_folder_belongs_to_one_configuration():
    url = "memory://bucket/runs/mine"
    note_config(url, changed(ipc=2))
    with hold(url):  # there are no locks
        pass
    assert choose_run(url, recipe("digits")) == (url, "")
    folder = Folder(url)
    folder.write("metrics.jsonl", b'{"kind": "unit"}\n')
    with pytest.raises(ConfigError, match=rf"--run {url}: holds a run with ipc=2 \(not 1\)"):
        choose_run(url, recipe("digits"))


def test_begun_run_is_left_alone_after_its_first_unit():
    leave_run("mine", changed(ipc=2), finished=False)
    with pytest.raises(ConfigError, match=r"--run mine: holds a run with ipc=2"):
        choose_run("mine", recipe("digits"))
    leave_run("tried", changed(ipc=2), finished=False, units=0)
    assert choose_run("tried", recipe("digits")) == ("tried", "")
    note_config("tried", recipe("digits"))
    assert not Path("tried/metrics.jsonl").exists()  # its events are not those of the new run
    assert leave_run("again", recipe("digits"), finished=False).keys() >= {"metrics.jsonl"}
    note_config("again", changed(ray__actors=4))
    assert Path("again/metrics.jsonl").exists()


def test_default_folder_in_use_is_replaced_with_a_note():
    leave_run("runs/cifar10-quick-pets", override(recipe("cifar10-quick"), {"data.path": "/a/pets"}))
    config, told = override(recipe("cifar10-quick"), {"data.path": "/b/pets"}), []
    session = Session("distill", config, None, None, told.append)
    assert session.url.startswith("runs/cifar10-quick-pets-")
    assert session.store.folder.root.endswith("runs/store")
    (note,) = told
    assert note.text.startswith("runs/cifar10-quick-pets holds a run with data.path=/a/pets (not /b/pets), and is left")
    assert note.text.endswith(f"this one goes to {session.url}")
    leave_run(session.url, config)
    assert choose_run(None, config)[0] == session.url


def test_plan_says_what_a_run_would_of_its_folder(capsys):
    leave_run("mine", changed(ipc=2))
    assert _run(["plan", "digits", "--run", "mine"]) == 2
    line = "wmdd: --run mine: holds a run with ipc=2 (not 1), and is left alone; give another --run, or delete"
    assert capsys.readouterr().err.startswith(line)
    Path("all").mkdir()
    Path("all/compare.json").write_text("{}")
    assert _run(["plan", "digits", "--run", "all"]) == 2
    assert "--run all: holds a comparison" in capsys.readouterr().err
    leave_run("runs/digits", changed(recover__lr=3))
    assert _run(["plan", "digits"]) == 0
    assert "runs/digits holds a run with recover.lr=3 (not 0.1), and is left alone; this one goes to" in (
        capsys.readouterr().out
    )


def test_damaged_folder_is_written_again():
    leave_run("mine", recipe("digits"))
    for name in ("config.yaml", "manifest.json"):
        Path("mine", name).write_bytes(b"\xff{")
    assert choose_run("mine", changed(ipc=2)) == ("mine", "")


def test_finished_run_of_another_version_is_left_alone():
    leave_run("mine", recipe("digits"))
    Path("mine/manifest.json").write_text('{"config": {"recipe": "digits", "upscale": {}}}')
    with pytest.raises(ConfigError, match=r"--run mine: holds a run with options that this version of wmdd does not"):
        choose_run("mine", recipe("digits"))


def test_same_run_over_changed_images_leaves_a_note():
    held = {"artifacts": {"evaluate": {"distilled-seed-0": "a"}}}
    assert replaced("mine", {"distilled-seed-0": "a"}) == ""
    Path("mine").mkdir()
    Path("mine/manifest.json").write_text(json.dumps(held))
    assert replaced("mine", {"distilled-seed-0": "a", "distilled-seed-1": "b"}) == ""
    assert "mine: images, weights or wmdd's version have changed" in replaced("mine", {"distilled-seed-0": "b"})


def test_comparison_folder_belongs_to_what_cases_share():
    config = with_protocol(recipe("digits"), "rded")

    def choose(config, ipcs, changes=None):
        made = {
            f"{name}-ipc-{ipc}": case for (name, ipc), case in cases(config, ["sre2l"], ipcs, changes or {}).items()
        }
        return choose_run("c", config, "compare", cases=made)

    for name, case in {
        f"sre2l-ipc-{ipc}": cases(config, ["sre2l"], [ipc], {})["sre2l", ipc] for ipc in (1, 10)
    }.items():
        leave_run(f"c/{name}", case)
    note_config("c", config)
    Path("c/compare.json").write_text("{}")
    # More sizes are the same comparison, though the protocol's batches follow the size.
    for ipc in (1, 10, 50):
        sized = with_protocol(override(recipe("digits"), {"ipc": ipc}), "rded")
        assert choose(sized, [ipc]) == ("c", "")
    with pytest.raises(ConfigError, match=r"--run c: holds a run with evaluate\.num_students=5 \(not 2\)"):
        choose(override(config, {"evaluate.num_students": 2}), [50])
    with pytest.raises(ConfigError, match=r"--run c: holds a run with recover\.lr=0\.1 \(not 7\)"):
        choose(config, [1], {"sre2l": {"recover.lr": 7}})
    sized = with_protocol(override(recipe("digits"), {"ipc": 10}), "rded")
    assert default_run(sized, "compare") == default_run(config, "compare") == "runs/digits-protocol-rded-compare"


def test_options_of_a_command_change_default_folders():
    plain, other = (default_run(recipe("digits"), "compare", more) for more in ({}, {"cda": {"recover.lr": "1"}}))
    assert plain == "runs/digits-compare"
    assert other.startswith("runs/digits-compare-")
    assert default_run(changed(evaluate__num_students=2), "tune") == "runs/digits-students2-tune"
    assert default_run(changed(ipc=2), "rank", {"weight": 0.7}).startswith("runs/digits-ipc2-rank-")


def test_ranking_with_another_weight_is_left_alone():
    note_config("r", recipe("digits"))
    Path("r/ranking.json").write_text(json.dumps({"weight": 0.7, "rates": [0.1, 0.01]}))
    for options, told in (({}, "rates=0.1,0.01"), ({"rates": (0.1, 0.01)}, "weight=0.7")):
        with pytest.raises(ConfigError, match=f"run=.*/r: holds a ranking with {told}, and is left alone"):
            rank(recipe("digits"), run="r", executor="local", **options)
    with pytest.raises(ConfigError, match=r"holds a run with ipc=1 \(not 2\)"):
        rank(changed(ipc=2), run="r", executor="local", weight=0.7, rates=(0.1, 0.01))


def test_one_process_at_a_time_is_at_work_in_a_folder(monkeypatch):
    monkeypatch.setattr(run_folder, "WAIT_S", 0.0)
    with hold("mine"):
        with pytest.raises(ConfigError, match="run=mine: another process is at work in it"):
            distill(changed(data__path="builtin:digits"), run="mine", executor="local")
        with hold("other"):
            pass
        child = multiprocessing.get_context("fork").Process(target=Path("go").exists)
        child.start()
        child.join()
        assert list(Path("mine").iterdir()) == []
    with hold("mine"):
        pass


def test_lock_ends_with_its_process_not_with_a_fork(monkeypatch):
    monkeypatch.setattr(run_folder, "WAIT_S", 0.0)
    code = (
        "import os, sys, time; from wmdd.engine.run_folder import hold\n"
        "with hold('mine'):\n    child = os.fork() or (time.sleep(600), os._exit(0)); print(child, flush=True)\n"
        "    sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        child = int(process.stdout.readline())
        try:
            with pytest.raises(ConfigError, match="at work"), hold("mine"):
                pass
            process.kill()
            process.wait()
            with hold("mine"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_make_clean_keeps_what_was_distilled():
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of make test
    root = Path(__file__).parents[2]
    told = subprocess.run(["make", "-n", "clean"], cwd=root, env=outside, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("rm -rf ")
    assert not {"runs", "store"} & set(told.stdout.split())


@pytest.mark.parametrize("uv", ["UV=/bin/uv", "UV="])
def test_make_puts_the_checkout_on_the_path(uv):
    """Else a folder named wmdd, such as the clone, hides the package from scripts that lie beside it."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words, root = ["make", "-n", "-B", ".venv/.installed", uv], Path(__file__).parents[2]
    told = subprocess.run(words, cwd=root, env=outside, capture_output=True, text=True, check=True)
    (line,) = [line for line in told.stdout.splitlines() if line.endswith(" -e .")]
    assert "--config-settings editable_mode=compat" in line
    assert line.startswith("uv " if uv != "UV=" else ".venv/bin/python -m pip ")


def test_written_configuration_is_the_same_everywhere(place):
    config = changed(data__path="set", pretrain__checkpoint="t.pth", ray__address="auto")
    written = from_yaml(portable_yaml(located(config)))
    assert written.data.path == f"{place}/set"
    assert written.pretrain.checkpoint == f"{place}/t.pth"
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
