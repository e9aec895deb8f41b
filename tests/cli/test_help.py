"""What the help says: every option with its meaning and default, every command, every recipe."""

import re

import pytest
from conftest import call
from tables import each_of

from wmdd.cli.fields import default_text
from wmdd.config.distill import DistillConfig, section_names
from wmdd.config.recipes import recipe, recipes

FIELDS = [
    f"{section}.{name}" for section in section_names() for name in type(getattr(DistillConfig(), section)).model_fields
]


@pytest.fixture(scope="module")
def help_texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("help")
    texts = {}
    for words in (("distill",), ("plan",), ("distill", "digits")):
        result = call(folder, *words, "--help-all")
        assert (result.returncode, result.stderr) == (0, "")
        texts[words] = "".join(result.stdout.split())  # lines are folded, at hyphens too
    return texts


@each_of("label", FIELDS)
def test_help_describes_every_option_and_default(help_texts, label):
    section, name = label.split(".")
    for words, text in help_texts.items():
        values = getattr(recipe(words[1]) if len(words) > 1 else DistillConfig(), section)
        meaning = type(values).model_fields[name].description
        told = "".join(f"{meaning} [default: {default_text(getattr(values, name))}]".split())
        assert re.search(rf"--{re.escape(label)}\S{{0,120}}?{re.escape(told)}", text), (words, told)


def test_help_of_the_other_commands_and_the_recipes(tmp_path):
    overview = call(tmp_path, "--help").stdout
    assert all(f"  {name} " in overview for name in ("distill", "plan", "recipes", "report"))
    assert "RUN" in call(tmp_path, "report", "--help").stdout
    listed = call(tmp_path, "recipes").stdout
    assert all(name in listed for name in recipes())
