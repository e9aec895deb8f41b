"""What the targets of the Makefile would run."""

import os
import subprocess
from pathlib import Path

import pytest


def test_make_clean_keeps_what_was_distilled():
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of make test
    root = Path(__file__).parents[1]
    told = subprocess.run(["make", "-n", "clean"], cwd=root, env=outside, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("rm -rf ")
    assert not {"runs", "store"} & set(told.stdout.split())


@pytest.mark.parametrize("uv", ["UV=/bin/uv", "UV="])
def test_make_puts_the_checkout_on_the_path(uv):
    """Else a folder named wmdd, such as the clone, hides the package from scripts that lie next to it."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words, root = ["make", "-n", "-B", ".venv/.installed", uv], Path(__file__).parents[1]
    told = subprocess.run(words, cwd=root, env=outside, capture_output=True, text=True, check=True)
    (line,) = [line for line in told.stdout.splitlines() if line.endswith(" -e .")]
    assert "--config-settings editable_mode=compat" in line
    assert line.startswith("uv " if uv != "UV=" else ".venv/bin/python -m pip ")
