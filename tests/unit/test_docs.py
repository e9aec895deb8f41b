"""Words of the guides that stand for options and commands are such."""

import re
from pathlib import Path

import pytest

from wmdd.cli import cli
from wmdd.config import DistillConfig, section_names
from wmdd.methods import methods
from wmdd.protocols import protocols

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_options_that_a_guide_names_are_there(guide):
    named = re.findall(rf"(?<![\w/.])(?:--)?({'|'.join(section_names())})\.(\w+)\b(?!/|\.py)", guide.read_text())
    known = {section: type(getattr(DistillConfig(), section)).model_fields for section in section_names()}
    assert [f"{section}.{name}" for section, name in named if name not in {*known[section], "npy"}] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_commands_methods_and_protocols_that_a_guide_names_are_there(guide):
    text = guide.read_text()
    assert set(re.findall(r"(?m)(?:^|`)wmdd ([a-z]+)", text)) <= {*cli.commands, "is", "distils"}
    assert set(re.findall(r"--protocol ([a-z0-9]+)", text)) <= set(protocols())
    named = {name for names in re.findall(r"--methods ([a-z0-9,-]+)", text) for name in names.split(",")}
    assert named <= set(methods())


def test_every_method_and_protocol_is_in_a_guide():
    text = " ".join(guide.read_text() for guide in GUIDES)
    assert [name for name in (*methods(), *protocols()) if f"{name}" not in text] == []
