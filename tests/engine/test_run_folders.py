"""Run folders: each belongs to one configuration and one process."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from digits import changed

from wmdd.cli.main import _run
from wmdd.commands.compare import cases
from wmdd.commands.distill import distill
from wmdd.commands.rank import rank
from wmdd.config.cases import Case
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_protocol
from wmdd.engine import run_folder
from wmdd.engine.run_folder import choose_run, default_run, hold, replaced
from wmdd.engine.run_start import note_config
from wmdd.engine.session import Session
from wmdd.errors import ConfigError
from wmdd.storage.folder import Folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leave_run(url, config, *, finished=True, units=1):
    """Leave what a run of a configuration leaves in its folder."""
    note_config(url, config)
    folder = Folder(url)
    folder.write("metrics.jsonl", b'{"kind": "begin"}\n' + b'{"kind": "unit"}\n' * units)
    if finished:
        folder.write("manifest.json", json.dumps({"config": config.model_dump(mode="json")}).encode())
    return {path.name: path.read_bytes() for path in Path(url).iterdir()}


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
        made = {case.folder: made for case, made in cases(config, ["sre2l"], ipcs, changes or {}).items()}
        return choose_run("c", config, "compare", cases=made)

    for name, case in {
        f"sre2l-ipc-{ipc}": cases(config, ["sre2l"], [ipc], {})[Case("sre2l", ipc)] for ipc in (1, 10)
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
            monkeypatch.setattr(run_folder, "WAIT_S", 20.0)  # the child may not have run yet
            with hold("mine"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
