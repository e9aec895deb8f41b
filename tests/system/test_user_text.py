"""Names of classes, files and folders as people have them, on terminals, pipes and locales as they are."""

import json
import os
import subprocess
import sys

import pytest
from conftest import TINY, environment, run, start
from image_files import folder

from wmdd import load_distilled

CLASSES = ("$", "$$", "_b", "[red]a[", ":smile:", "a\x1b[31m", "café")
FEWER = ("--evaluate.baselines", "none", "--evaluate.full_data", "false", "--evaluate.num_students", "1")
NARROW = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "20"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A run over odd names, whose folder lies in the home and has brackets, printed in ASCII."""
    home = tmp_path_factory.mktemp("home")
    paths = [f"set/{split}/{name}/{i}.png" for split in ("train", "val") for name in CLASSES for i in range(2)]
    folder(home, *paths)
    words = ("distill", "digits", *TINY, "--ipc", "1", "--executor", "local", "--data.path=~/set", *FEWER)
    return home, run(home, *words, "--run=~/runs/old[/red]x", env=environment(HOME=str(home), **NARROW))


def test_run_over_odd_names_is_whole(odd):
    home, result = odd
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr
    assert not (home / "~").exists()
    assert load_distilled(str(home / "runs/old[/red]x")).class_names == tuple(sorted(CLASSES))
    assert json.loads((home / "runs/old[/red]x/manifest.json").read_text())["config"]["data"]["path"] == f"{home}/set"


def test_lines_name_the_true_folder_in_ascii(odd):
    home, result = odd
    url = f"{home}/runs/old[/red]x"
    assert f"images  {url}/images/   picture {url}/images.png\n" in result.stdout
    assert f"report  {url}/report.html\n" in result.stdout
    assert (result.stdout + result.stderr).isascii()
    assert "\x1b" not in result.stdout + result.stderr


def test_page_shows_every_name_and_no_control_code(odd):
    page = (odd[0] / "runs/old[/red]x/report.html").read_text(encoding="utf-8")
    for name in CLASSES:
        shown = name.replace("\x1b", "\\x1b")
        assert f"<figcaption>{shown}</figcaption>" in page
        assert f"<!-- {shown} -->" in page  # in the legend of the barycenters
    assert "\x1b" not in page


def test_reader_that_goes_is_no_traceback(tmp_path):
    read, written = os.pipe()
    process = start(tmp_path, "recipes", stdout=written)
    os.close(written)
    os.close(read)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode in (0, 1)  # 0: it was all written before
    assert stderr == ""


def test_output_without_room_is_told_in_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        result = start(tmp_path, "recipes", stdout=full)
        _, stderr = result.communicate(timeout=100)
    assert result.returncode == 1
    (line,) = stderr.splitlines()
    assert "standard output cannot be written (No space left on device)" in line


def test_closed_streams_go_to_no_file_of_ours():
    code = (
        "import os; from wmdd.process.terminal import prepare_streams; prepare_streams();"
        "assert os.open('/dev/null', os.O_RDONLY) > 2"
    )
    command = 'exec "$0" -c "$1" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, sys.executable, code]).returncode == 0
