"""What commands refuse before they make anything, and how they start."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from tables import each_of

from wmdd.cli.main import cli
from wmdd.commands.distill import distill
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.errors import ConfigError


@each_of("option", ["pretrain.workers", "evaluate.workers"])
def test_several_workers_in_one_process_are_refused(tmp_path, option):
    config = override(recipe("digits"), {option: 2})
    with pytest.raises(ConfigError, match=rf"{option}=2: one process cannot train as several"):
        distill(config, run=str(tmp_path / "run"), store=str(tmp_path / "store"), executor="local")
    assert not (tmp_path / "run").exists()


@each_of("command", [("distill",), ("compare", "--methods", "random"), ("rank",)])
@each_of("option", ["--address", "--ray.address"])
def test_cluster_for_one_process_is_refused(command, option):
    words = [command[0], "digits", *command[1:], "--executor", "local", option, "1.2.3.4:6379"]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, ConfigError)
    assert "1.2.3.4:6379: --executor local joins no cluster" in str(result.exception)


SMALL = ("--ipc", "1", "--pretrain.epochs", "1", "--recover.iterations", "2", "--relabel.epochs", "2")
SMALL += ("--evaluate.num_students", "1", "--evaluate.baselines", "none")

# Each takes a second or more, or hundreds of MiB.
SLOW = ("torch", "torchvision", "timm", "ot", "scipy", "sklearn", "matplotlib", "pandas", "ray", "jinja2")


def imported_by(folder, *words):
    """Return which slow libraries a command imports, and what it writes to stderr."""
    code = (
        "import sys; from wmdd.cli.main import cli\n"
        f"cli.main(args={list(words)!r}, standalone_mode=False)\n"
        f"sys.stderr.write(repr([name for name in {SLOW} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stderr


def test_plan_of_convnets_imports_no_slow_library(tmp_path):
    assert imported_by(tmp_path, "plan", "digits") == "[]"  # indexes the set
    assert imported_by(tmp_path, "plan", "digits") == "[]"  # finds the index


def test_second_run_imports_no_slow_library(tmp_path):
    words = ("distill", "digits", "--executor", "local", *SMALL)
    assert "torch" in imported_by(tmp_path, *words)
    assert imported_by(tmp_path, "distill", "digits", *SMALL) == "[]"


def test_command_draws_with_any_backend_of_a_notebook():
    code = "from wmdd.cli.main import main\ntry:\n    main(['recipes'])\nexcept SystemExit:\n    import matplotlib"
    there = {**os.environ, "MPLBACKEND": "module://nowhere.backend"}
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
