"""Every command of the guides names files and options that there are."""

import os
import re
import subprocess

import click
import pytest
import yaml
from commands import READMES, ROOT, check_ray, check_wmdd, shell_commands, words_of
from kuberay_rules import operator_errors, schema_errors, security_errors

from wmdd.errors import ConfigError

PLACES = {path.name for path in ROOT.iterdir()}
FILES = [path for path in (ROOT / "cluster").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
# What the guides have the reader set; a filled-in file holds none of the names any more.
SETTINGS = {
    "IMAGE": "example.com/team/wmdd:0.1.0",
    "BUCKET": "team-bucket",
    "MY_ADDRESS": "192.0.2.7",
    "AMI": "ami-0123456789abcdef0",
    "PROJECT": "team-project",
    "MACHINE_IMAGE": "projects/some/global/images/family/some",
}
COMMANDS = [(path.parent.name, command) for path in READMES for command in shell_commands(path)]
each_command = pytest.mark.parametrize(
    ("room", "command"), COMMANDS, ids=[f"{room}-{number}" for number, (room, _) in enumerate(COMMANDS)]
)


def of(program):
    return [words_of(command) for _, command in COMMANDS if command.split()[0] == program]


@each_command
def test_files_that_a_command_names_exist(room, command):
    named = {word for word in re.findall(r"[\w./-]+", command) if word.split("/")[0] in PLACES and "/" in word}
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_commands_of_wmdd_parse():
    found = of("wmdd")
    assert len(found) >= 4
    for words in found:
        check_wmdd(words[1:])


def test_commands_of_wmdd_inside_other_commands_parse():
    containers = [words[words.index("wmdd") :] for words in of("docker") if "wmdd" in words]
    jobs = [words[words.index("distill") - 1 :] for words in of("sbatch")]
    assert len(containers) == len(jobs) == 2
    for words in containers + jobs:
        check_wmdd(words[1:])


def test_commands_of_ray_parse():
    found = of("ray")
    assert {words[1] for words in found} == {"up", "dashboard", "down"}
    for words in found:
        check_ray(words[1:])


@pytest.mark.parametrize("words", [["distil"], ["distill", "imagenet-2k"], ["distill", "digits", "--ray.actor", "2"]])
def test_a_mistaken_command_would_be_found(words):
    with pytest.raises((ConfigError, click.ClickException), match=r"imagenet-2k|No such"):
        check_wmdd(words)


def filled_in(command):
    """What a guide's sed prints, with the reader's settings."""
    command = re.split(r"[|>](?=[^|>]*$)", command)[0]
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env={**SETTINGS, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SEDS = [command for _, command in COMMANDS if command.startswith("sed ")]


@pytest.mark.parametrize("command", SEDS, ids=lambda command: re.search(r"\w+\.yaml", command)[0])
def test_filling_in_a_file_leaves_no_word_to_fill_in(command):
    document = yaml.safe_load(filled_in(command))
    assert SETTINGS["IMAGE"] in str(document)
    assert not re.search(rf"\b({'|'.join(SETTINGS)})\b", str(document).replace("AMI_", ""))
    if "kind" in document:
        assert schema_errors(document) == operator_errors(document) == security_errors(document) == []


def test_every_file_to_fill_in_has_its_command():
    with_gaps = {path for path in FILES if path.suffix == ".yaml" and re.search(r"\bIMAGE\b", path.read_text())}
    assert len(with_gaps) == 4
    assert all(any(path.name in command for command in SEDS) for path in with_gaps)


def test_every_file_is_in_a_guide_and_links_resolve():
    guides = "".join(path.read_text() for path in READMES)
    assert [path.name for path in FILES if path.name not in guides] == []
    for path in READMES:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path}: {link}"


def test_every_slurm_setting_is_in_its_guide():
    script, guide = ((ROOT / "cluster/slurm" / name).read_text() for name in ("wmdd.sbatch", "README.md"))
    assert set(re.findall(r"WMDD_\w+", script)) == set(re.findall(r"`(WMDD_\w+)` \|", guide))


LITERAL = (
    r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|(?i:secret_access_key|auth_token|password)[\"']?\s*[:=]\s*[\w/+]{8,}"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "cluster").as_posix())
def test_no_file_holds_a_credential_or_a_local_path(path):
    text = path.read_text()
    assert not re.search(LITERAL, text)
    assert not re.search(r"/(root|Users)/|/home/(?!wmdd)", text)


@pytest.mark.parametrize(
    "text", ["key: AKIAABCDEFGHIJKLMNOP", "AWS_SECRET_ACCESS_KEY=abcdefgh1234", "password: hunter22"]
)
def test_a_planted_credential_would_be_found(text):
    assert re.search(LITERAL, text)
