"""Text of users on terminals, in files and in paths: shown as it is, obeyed nowhere."""

import io
import logging
import os
import sys

import click
import pytest
from rich.console import Console
from rich.table import Table

from ray_jobs.connect import find_address
from wmdd.cli.jobs import _expanded
from wmdd.cli.main import _run
from wmdd.engine.console import ConsoleListener
from wmdd.engine.events import Event
from wmdd.errors import ConfigError
from wmdd.process.home import expand_home
from wmdd.process.terminal import LineFormatter, Terminal, full_path
from wmdd.storage.filesystem import open_fs
from wmdd.storage.folder import absolute_url
from wmdd.text import (
    SPELL,
    counted,
    escape_markdown,
    escape_tex,
    near_names,
    on_a_page,
    one_line,
    printable,
    rough_bytes,
    rough_time,
    suggestion,
    unknown,
)

ODD = [
    "exp[lr=0.1]",
    "old[/red]x",
    "[bold]a",
    ":smile:",
    "[link=http://x]y[/link]",
    "$x$",
    "a\\b",
    "10.5 True",
    "café 猫",
]


def test_error_is_text_in_one_line():
    assert one_line(OSError("a\n  b ")) == "a b"
    assert one_line(KeyError()) == "KeyError"


def test_unknown_name_is_answered_with_what_there_is():
    known = {"cifar10": 1, "cifar100": 2, "digits": 3}
    assert unknown("--set", "digts", known) == (
        "--set digts: no such set; choose from cifar10, cifar100, digits; did you mean digits?"
    )
    assert unknown("data.path=", "x", known, "layout") == (
        "data.path=x: no such layout; choose from cifar10, cifar100, digits"
    )
    many = {"noun": "set", "common": ("digits",)}
    assert unknown("--sets", "cifar", known, **many) == "--sets cifar: no such set; did you mean cifar10 or cifar100?"
    assert unknown("--sets", "x", known, **many) == "--sets x: no such set; common ones are digits"


@pytest.mark.parametrize("name", ODD)
def test_printable_leaves_what_can_be_shown(name):
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b2J", r"\x9b2J"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud83d", r"\ud83d"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("a\u2028b\u2066c", r"a\u2028b\u2066c"),
    ],
)
def test_printable_escapes_control_codes(name, shown):
    assert printable(name) == shown
    assert printable(name).encode().decode() == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_no_character_is_too_much_for_a_stream(encoding):
    text = "café 猫 \udce9 ± … 🙂"
    data = text.encode(encoding, errors=SPELL)
    assert data.decode(encoding).startswith("caf")
    if encoding == "ascii":
        assert data == rb"caf\xe9 \u732b \xe9 +- ~ \U0001f642"


@pytest.mark.parametrize("name", ODD)
def test_terminal_takes_nothing_in_a_name_for_markup(name):
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, width=60, color_system="truecolor", legacy_windows=False)
    console.print(f"images  {name}/images/", soft_wrap=True)
    table = Table(name, title=name)
    table.add_row(name)
    console.print(table)
    shown = out.getvalue()
    assert shown.splitlines()[0] == f"images  {name}/images/"
    assert shown.count(name) == 4


def test_terminal_obeys_no_control_code():
    out = io.StringIO()
    Terminal(file=out, width=60).print("a\x1b[31mb\nc")
    assert out.getvalue() == "a\\x1b[31mb\\nc\n"


@pytest.mark.parametrize("make", [Console, Terminal])
def test_events_are_shown_as_they_are_on_any_console(make):
    out = io.StringIO()
    with ConsoleListener(make(file=out, width=60)) as listener:
        listener(Event("note", "", text="class :smile: [red]x[/red] \x1b[2J\nof 10 images"))
    assert out.getvalue() == "class :smile: [red]x[/red] \\x1b[2J\\nof 10 images\n"


def test_dumb_terminal_gets_lines_during_the_run(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with ConsoleListener(Terminal(file=out, force_terminal=True, width=60)) as listener:
        listener(Event("stage", "statistics", done=0, total=1))
        listener(Event("end", "statistics", done=1, total=1))
    assert out.getvalue().startswith("statistics 1/1 done in ")
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("columns", ["0", "1", "x", "-5"])
def test_table_is_shown_at_any_width(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    out = io.StringIO()
    Terminal(file=out).print(Table("recipe", title="digits"))
    assert "recipe" in out.getvalue()


@pytest.mark.parametrize(
    ("word", "full"),
    [
        ("~/x", "/home/a/x"),
        ("--run=~/x", "--run=/home/a/x"),
        ("a=~/x", "a=~/x"),
        ("--data.classes=a~", "--data.classes=a~"),
    ],
)
def test_words_of_a_job_know_the_home_of_who_submits(monkeypatch, word, full):
    monkeypatch.setenv("HOME", "/home/a")
    assert _expanded(word) == full


def test_names_that_ray_cannot_pass_are_refused_early(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["wmdd", "distill", "digits", "--run", "r\udce9"])
    with pytest.raises(ConfigError, match=r"--executor ray: r\\xe9 is not UTF-8.*--executor local"):
        find_address(None)
    monkeypatch.setattr(sys, "argv", ["wmdd", "distill", "digits", "--run", "ré猫"])
    assert find_address(None) is None


def test_log_has_one_line_for_a_record():
    record = logging.LogRecord("x", logging.WARNING, "", 1, "lost %s", ("a\x1b[2J\nb",), None)
    assert LineFormatter("%(levelname)s %(message)s").format(record) == r"WARNING lost a\x1b[2J\nb"


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("~", "/home/a"),
        ("~/x", "/home/a/x"),
        ("file://~/x", "file:///home/a/x"),
        ("zip://train::~/x.zip", "zip://train::/home/a/x.zip"),
        ("zip://train::file://~/x.zip", "zip://train::file:///home/a/x.zip"),
        *((path, path) for path in ("x~", "x/~/y", "./~", "s3://b/~/x", "$HOME/x", "runs/a~b", "~nobody-here/x")),
    ],
)
def test_home_is_put_for_the_tilde_at_the_start_alone(monkeypatch, path, full):
    monkeypatch.setenv("HOME", "/home/a")
    assert expand_home(path) == full


def test_stores_and_file_systems_know_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_url("~/x") == f"{tmp_path}/x"
    assert open_fs("~/x")[1] == f"{tmp_path}/x"
    assert open_fs("file://~/x")[1] == f"{tmp_path}/x"


def test_unknown_home_is_no_folder_called_tilde(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="set HOME"):
        expand_home("~/x")


def test_empty_place_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    assert full_path("~/x") == "/home/a/x"
    with pytest.raises(click.BadParameter, match="empty"):
        full_path(" ")


# Words of `wmdd plan digits`, and what its one line must hold.
REFUSED = {
    "no file": (("--config=~/none.yaml",), ("--config /home/a/none.yaml", "No such file")),
    "empty run": (("--run", ""), ("--run", "it is empty")),
    "empty store": (("--store", " "), ("--store", "it is empty")),
    "no classes": (("--data.classes", ""), ("--data.classes ''", "no name")),
    "empty path": (("--data.path", ""), ("--data.path", "it is empty")),
    "home": (("--data.path=~/none",), ("data.path=/home/a/none", "no such folder")),
    "control codes": (("--data.path", "a\x1b[31m\nb"), (r"a\x1b[31m\nb", "no such folder")),
    "markup": (("--data.path", "a[/red]"), ("a[/red]", "no such folder")),
    "bytes": (("--recover.init", "\udce9"), (r"--recover.init \xe9", "no UTF-8")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_is_one_line_whatever_is_in_a_value(case, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.chdir(tmp_path)
    words, parts = REFUSED[case]
    assert _run(["plan", "digits", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    for part in parts:
        assert part in line


def test_markdown_and_tex_show_a_name_as_it_is():
    assert escape_markdown("a|b_c*<d>\n") == r"a\|b\_c\*\<d\>\\n"
    assert escape_tex("a_b & 5 % ± $x$ {y} ~^\\") == (
        r"a\_b \& 5 \% $\pm$ \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_page_takes_no_control_code_from_a_value():
    class Ready(str):
        def __html__(self):
            return self

    assert on_a_page("a\x00b\udce9") == r"a\x00b\xe9"
    assert on_a_page(Ready("<svg>\n")) == "<svg>\n"
    assert on_a_page(3) == 3


def test_estimates_are_rounded():
    seconds = (0, 0.9, 1.2, 47.4, 99.4, 330, 100 * 60, 47 * 3600, 22.4 * 86400)
    texts = ["under 1 s", "under 1 s", "1 s", "47 s", "99 s", "5.5 min", "1.7 h", "47 h", "22 days"]
    assert [rough_time(value) for value in seconds] == texts
    sizes = (0, 640, 315_200, 5_440_000, 33e9, 1.24e12)
    assert [rough_bytes(size) for size in sizes] == ["0 kB", "0.64 kB", "320 kB", "5.4 MB", "33 GB", "1.2 TB"]


def test_one_of_a_kind_is_counted_as_one():
    assert [counted(count, "class", "classes") for count in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("resnt18", ["resnet18"]),
        ("ResNet-18", ["resnet18"]),
        ("conv", ["convnet3"]),
        ("zebra", []),
        ("", []),
    ],
)
def test_near_names_leave_case_and_punctuation_aside(given, near):
    assert near_names(given, ["resnet18", "convnet3", "vgg16"]) == near


def test_error_is_one_line_of_its_text_or_type():
    assert one_line(OSError("no such\n  host ")) == "no such host"
    assert one_line(ValueError("x" * 99), 10) == "x" * 10
    assert one_line(ValueError(" \n")) == "ValueError"


def test_suggestion_is_near_names_or_the_other_hint():
    assert suggestion("resnt", ["resnet18", "vgg16"], "none") == "did you mean resnet18?"
    assert suggestion("xyz", ["resnet18", "vgg16"], "none") == "none"
