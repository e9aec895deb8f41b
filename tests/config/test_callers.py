"""Messages name options as the caller wrote them: flags on the command line, keyword arguments from Python."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import wmdd
from wmdd.cli.main import _run
from wmdd.cli.types import Value
from wmdd.commands.compare import compare
from wmdd.commands.export import export
from wmdd.commands.rank import rank
from wmdd.config.callers import command_line, in_callers_words, names_arguments
from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import recipe
from wmdd.engine.console import ConsoleListener
from wmdd.engine.events import Event
from wmdd.errors import ArtifactError, ConfigError, DataError


def test_flags_become_arguments_but_in_commands(subtests):
    cases = [
        ("--until foo: choose", "until=foo: choose"),
        ("--run /a--b c: held; give another --run, or delete it", "run=/a--b c: held; give another run=, or delete it"),
        ("x; use --executor local (--until recover)", "x; use executor=local (until=recover)"),
        ("give a file: --pretrain.checkpoint FILE", "give a file: pretrain.checkpoint=FILE"),
        ("--address h:1: nobody answers", "ray.address=h:1: nobody answers"),
        ("submit it: wmdd submit --address URL -- distill --run URL", None),
        ("no run; give the folder of wmdd distill --run", None),
        ("data.path=/a/--x: no such folder", None),
    ]
    for flags, arguments in cases:
        with subtests.test(flags=flags):
            assert in_callers_words(flags) == (arguments or flags)
            with command_line():
                assert in_callers_words(flags) == flags


def config(**changes):
    return override(recipe("digits"), {name.replace("__", "."): value for name, value in changes.items()})


PYTHON = {
    "no executor": (lambda: wmdd.distill("digits", executor=None, run="r"), "^executor=None: choose ray or local"),
    "path of the run": (
        lambda: wmdd.distill("digits", run=Path("/proc/x")),
        "^run=/proc/x: its store /proc/store cannot",
    ),
    "path of the store": (lambda: wmdd.distill("digits", store=Path("/proc/x")), "^store=/proc/x: cannot be written"),
    "path of a report": (lambda: wmdd.rewrite(Path("none")), "^url=none: holds no run"),
    "path of images": (lambda: wmdd.load_distilled(Path("none")), "^none/images holds no Parquet file"),
    "path of the set": (lambda: wmdd.distill(config(data__path=Path("none"))), "^data.path=.*none: there is no such"),
    "until": (lambda: wmdd.distill("digits", until="foo"), "^until=foo: there is no such stage"),
    "executor": (lambda: wmdd.distill("digits", executor="foo", run="r"), "^executor=foo: choose ray or local"),
    "run": (
        lambda: wmdd.distill("digits", run="/proc/x"),
        "^run=/proc/x: its store /proc/store cannot .* another run=, or",
    ),
    "store": (lambda: wmdd.distill("digits", store="http://x/y"), "^store=http://x/y: web servers cannot"),
    "address": (lambda: wmdd.distill(config(ray__address="localhost:1")), r"^ray\.address=localhost:1: nobody answers"),
    "workers": (
        lambda: wmdd.distill(config(pretrain__workers=2), executor="local"),
        "use executor=ray, or set pretrain",
    ),
    "path": (lambda: wmdd.distill("cifar10"), "give a folder or Parquet, data.path=PATH"),
    "config": (lambda: wmdd.distill({"seed": 3}), "^config: is of type dict; give a recipe's name, or a DistillConfig"),
    "report": (lambda: wmdd.rewrite("none"), "^url=none: holds no run"),
    "images": (lambda: wmdd.load_distilled("none"), r"none/images holds no Parquet file.*\(until=recover\)$"),
    "export": (lambda: export("none", "folder"), "^run=none: holds no run"),
    "format": (lambda: export("none", "zip"), "^kind=zip: there is none of this name"),
    "methods": (lambda: compare("digits", ["wmdd", "wmdd"], [1]), "^methods=wmdd,wmdd: names wmdd twice"),
    "ipcs": (lambda: compare(config(), ["wmdd"], []), "^methods, ipcs: name at least"),
    "changes": (lambda: compare(config(), ["wmdd"], [1], changes={"cda": {}}), "^changes=cda: is not compared"),
    "compared by": (lambda: compare(config(), ["wmdd"], [1], executor="x"), "^executor=x: choose ray or local"),
    "rates": (lambda: rank("digits", rates=()), r"^rates=\(\): give rates above 0"),
    "weight": (lambda: rank(config(), weight=2), "^weight=2: give one between 0 and 1"),
    "run that is no text": (lambda: wmdd.distill("digits", run=3), "^run=3: input should be text.*, or leave it out$"),
    "empty run": (lambda: wmdd.distill("digits", run=""), "^run='': is empty; give a name, path or URL, or leave it"),
    "empty store": (lambda: compare(config(), ["wmdd"], [1], store=" "), "^store=' ': is empty"),
    "images of no run": (lambda: wmdd.load_distilled(None), "^run=None: input should be text; write it in quotes$"),
    "report of no run": (lambda: wmdd.rewrite(""), "^url='': is empty; give a name, path or URL$"),
    "methods as text": (lambda: compare("digits", "wmdd,wmdd", 1), "^methods=wmdd,wmdd: names wmdd twice"),
    "ipcs as text": (lambda: compare("digits", ["wmdd"], "1,x"), "^ipcs='1,x': input should be a whole number"),
    "truth value": (lambda: compare("digits", ["wmdd"], [True]), r"^ipcs=\[True\]: input should be a whole number"),
    "no mapping": (lambda: compare(config(), "wmdd", 1, changes=3), "^changes: is of type int; give a mapping"),
    "no options": (
        lambda: compare(config(), "wmdd", 1, changes={"wmdd": 3}),
        r'^changes=wmdd: is of type int; give a mapping, such as {"wmdd": {"recover\.lr": 0\.1}}, by method',
    ),
    "unknown method": (lambda: compare(config(), "wmd", 1), "^methods=wmd: no such method; .*did you mean wmdd"),
    "recipe as a list": (lambda: wmdd.recipe(["digits"]), r"^recipe \['digits'\]: no such recipe; choose from"),
    "no function": (lambda: wmdd.distill("digits", listener=3), "^listener=3: is of type int; give a function, or"),
    "no transform": (lambda: wmdd.load_distilled("none", transform="x"), "^transform='x': is of type str; give a"),
    "no number": (lambda: rank("digits", weight="half"), "^weight='half': input should be a number, such as 0.1"),
    "one rate": (lambda: rank("digits", rates=-1), "^rates=-1: give rates above 0"),
    "ranked by": (lambda: rank(config(), executor="x"), "^executor=x: choose ray or local"),
}


def test_caller_may_want_no_events():
    heard = []

    @names_arguments()
    def work(*, listener: "Callable[[str], None]" = heard.append, said: "Callable[[str], None] | None" = heard.append):
        listener("news")
        return said

    assert (work(listener=None, said=None), heard) == (None, [])
    work()
    assert heard == ["news"]


def test_error_names_the_argument_of_the_call(subtests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for case, (call, message) in PYTHON.items():
        with subtests.test(case=case):
            with pytest.raises((ConfigError, DataError, ArtifactError), match=message):
                call()
            assert not any(tmp_path.glob("r*/*.yaml")), "nothing began"


def test_note_is_in_the_words_of_the_caller():
    shown = io.StringIO()
    with ConsoleListener(Console(file=shown)) as listener:
        listener(Event("note", "", text="images lie on their side; --data.exif_orientation apply turns them"))
    assert "; data.exif_orientation=apply turns" in shown.getvalue()


# Words of `wmdd`, and the beginning and the end of its one line.
COMMANDS = {
    "run": (
        ("distill", "digits", "--executor", "local", "--run", "/proc/x"),
        ("--run /proc/x: its store /proc/store cannot be written", "give another --run, or --store URL"),
    ),
    "planned run": (
        ("plan", "digits", "--run", "/proc/x"),
        ("--run /proc/x: its store /proc/store cannot", "--store URL"),
    ),
    "store": (("plan", "digits", "--store", "/proc/x"), ("--store /proc/x: cannot be written", "storage")),
    "run in the set": (
        ("plan", "digits", "--data.path", "set", "--run", "set/train/x"),
        (
            "--run set/train/x: its store set/train/store is a folder of the data set (set)",
            "such as set/runs/a",
        ),
    ),
    "report": (("report", "none"), ("RUN none: holds no run (run.json)", "give the folder of wmdd distill --run")),
    "export": (("export", "none"), ("RUN none: holds no run (run.json)", "give the folder of wmdd distill --run")),
    "export of a file": (("export", "file"), ("RUN file: holds no run (run.json)", "wmdd distill --run")),
    "export of a comparison": (("export", "all"), ("RUN all: holds a comparison", "all/wmdd-ipc-1")),
    "recipe": (("rank", "old/"), ("RECIPE old/: is a run folder", "--config old/config.yaml")),
}


def test_command_names_the_flag_that_was_given(subtests, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "all/compare.json", "old/config.yaml", "set/train/store/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    for case, (words, (begins, ends)) in COMMANDS.items():
        with subtests.test(case=case):
            assert _run(list(words)) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"wmdd: {begins}")
            assert line.endswith(ends)


BOUNDS, WHOLE = "input should be greater than or equal to 1", "input should be a whole number, such as 10"
# Words of `wmdd`, and its line: option, value, what it should be.
LINES = {
    "ipc": (("plan", "digits", "--ipc", "x"), f"--ipc x: {WHOLE}"),
    "seed": (("plan", "digits", "--seed", "1.5"), f"--seed 1.5: {WHOLE}"),
    "too few": (("rank", "digits", "--num-students", "0"), f"--num-students 0: {BOUNDS}"),
    "number": (("rank", "digits", "--weight", "half"), "--weight half: input should be a number, such as 0.1"),
    "names": (("plan", "digits", "--executor", "x"), "--executor x: no such executor; choose from ray, local"),
    "field": (("plan", "digits", "--recover.iterations", "x"), f"--recover.iterations x: {WHOLE}"),
    "below": (("plan", "digits", "--ipc=-5"), f"--ipc -5: {BOUNDS}"),
    "choice": (
        ("plan", "digits", "--recover.curriculum", ""),
        "--recover.curriculum '': input should be 'none', 'step',",
    ),
    "truth": (("plan", "digits", "--recover.flip", "maybe"), "--recover.flip maybe: input should be true or false"),
    "pair": (("plan", "digits", "--recover.betas", "0.5,2"), "--recover.betas 0.5,2: input should be less than 1"),
    "colons": (
        ("plan", "digits", "--recover.init", "a: b; c=d: e"),
        "--recover.init a: b; c=d: e: input should be 'noise'",
    ),
    "several": (
        ("plan", "digits", "--recover.lr", "fast", "--recover.flip", "no!"),
        "--recover.lr fast: input should be a number, such as 0.1; --recover.flip no!: input should be true or false",
    ),
    "method's own": (
        ("compare", "digits", "--set", "cda:recover.lr=fast"),
        "--set cda:recover.lr=fast: input should be a number, such as 0.1",
    ),
    "search": (("tune", "digits", "--tune.samples", "x"), f"--tune.samples x: {WHOLE}"),
    "no value": (("plan", "digits", "--recover.lr"), "--recover.lr: requires an argument; write its value behind it ("),
    "no run": (("report",), "RUN: is missing; give one (wmdd report --help"),
    "empty": (("plan", "digits", "--run", ""), "--run: it is empty; name a folder or file"),
    "blank": (
        ("plan", "digits", "--evaluate.students", "resnet18", "resnet50"),
        "Got unexpected extra argument (resnet50); several values of an option are written a,b (",
    ),
}


def test_short_and_full_option_read_a_number_alike(subtests):
    short, full = Value(int), lambda given: override(DistillConfig(), {"seed": given}).seed
    for text in ("3", "3.0", " 3", "1_000", "x", "3.5", "0x3", "1e3", "", "True", "9" * 30):
        with subtests.test(text=text):
            try:
                expected = full(text)
            except ConfigError:
                with pytest.raises(ConfigError):
                    short.convert(text, None, None)
            else:
                assert short.convert(text, None, None) == expected


def test_help_shows_the_bounds_that_there_are(subtests, capsys):
    for command in ["distill", "compare", "rank", "tune"]:
        with subtests.test(command=command):
            assert _run([command, "--help"]) == 0
            told = capsys.readouterr().out
            assert "None]" not in told
            assert "[x>=1]" in told


def test_value_that_cannot_be_is_one_line_in_one_style(subtests, capsys):
    for case, (words, line) in LINES.items():
        with subtests.test(case=case):
            assert _run(list(words)) == 2
            (told,) = capsys.readouterr().err.splitlines()
            assert told.startswith(f"wmdd: {line}")
