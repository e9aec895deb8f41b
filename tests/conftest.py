"""What command and Ray tests share: tiny runs through real processes, and one finished run to look at."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from wmdd.cli.main import main

pytest_plugins = ["ray_cluster"]

# Of whole processes, clusters, servers and large networks; `make test` leaves them out, `make test-all` does not.
SLOW = (
    "benchmarks/",
    "cluster/test_trial_cluster.py",
    "commands/test_rank.py",
    "engine/test_plans_together.py",
    "models/test_published.py",
    "ray_jobs/test_devices.py",
    "ray_jobs/test_faults.py",
    "ray_jobs/test_hangs.py",
    "ray_jobs/test_stopping.py",
    "ray_jobs/test_train.py",
    "storage/test_failing_storage.py",
    "storage/test_servers.py",
    "system/",
    "training/test_distributed.py",
    "tuning/test_search.py",
    "tuning/test_search_faults.py",
    "tuning/test_snapshots.py",
)
# Begun first: files that take longest, of which no process should begin one when the others are done.
FIRST = ("ray_jobs/", "tuning/test_search", "cluster/test_trial_cluster.py", "system/", "storage/test_servers.py")


def pytest_collection_modifyitems(items):
    for item in items:
        if name_of(item).startswith(SLOW):
            item.add_marker("slow")
    items.sort(key=lambda item: not name_of(item).startswith(FIRST))


def name_of(item):
    """A test's file, below this folder."""
    return item.path.relative_to(Path(__file__).parent).as_posix()


# Two training threads on a busy machine take ten times as long as one, and give a teacher of other rounding.
TINY = (
    *("--ipc", "2", "--pretrain.model", "convnet2_w16", "--pretrain.epochs", "4", "--runtime.train_threads", "1"),
    *("--evaluate.students", "convnet2_w16", "--evaluate.num_students", "2", "--evaluate.val_every", "2"),
    *("--recover.iterations", "10", "--recover.classes_per_batch", "5"),
    *("--relabel.epochs", "4", "--relabel.epochs_per_block", "2"),
)
# For commands that have --num-students.
UNSEEDED = tuple(
    word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] != "--evaluate.num_students" for word in pair
)
STAGES = ("pretrain", "statistics", "barycenter", "recover", "select", "relabel", "evaluate")


def environment(**more):
    """The caller's environment without Ray's settings, so that a run starts its own Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", **more}


def start(folder, *words, **options):
    words = [sys.executable, "-m", "wmdd", *map(str, words)]
    # A suite that runs in the background was told to ignore Ctrl-C, and its children would be too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=folder, **{"env": environment(), **pipes, **options})


def run(folder, *words, **options):
    process = start(folder, *words, **options)
    try:
        stdout, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def call(folder, *words):
    """Like `run`, inside this process: for commands whose own process is not what is tested."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.ExitStack()
    streams.enter_context(contextlib.redirect_stdout(out))
    streams.enter_context(contextlib.redirect_stderr(err))
    columns = mock.patch.dict(os.environ, COLUMNS="120")
    with streams, columns, contextlib.chdir(folder), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return subprocess.CompletedProcess(words, ended.value.code, out.getvalue(), err.getvalue())


def distill(folder, *words, recipe="digits", executor="local", begin=run):
    place = ("--run", f"runs/{recipe}")  # the default folder's name would say what TINY changes
    return begin(folder, "distill", recipe, *TINY, *place, "--executor", executor, *words)


def news(folder):
    """The events of a run folder, oldest first; a line that is still being written is left out."""
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def commits(store):
    """The commit of every artifact by its folder; saved_at and attempt tell whether it was made again."""
    return {str(path.parent.relative_to(store)): path.read_text() for path in Path(store).glob("*/*/commit.json")}


def contents(store):
    """The bytes of every artifact but the index by stage, key and unit."""
    found = {}
    for path in Path(store).glob("*/*/commit.json"):
        commit = json.loads(path.read_text())
        files = path.parent / commit["attempt"]
        key = (commit["stage"], path.parent.name, commit["unit"])
        found[key] = {name: (files / name).read_bytes() for name in commit["files"]}
    return {key: value for key, value in found.items() if key[0] != "index"}


def to_run(folder, *words):
    """What `wmdd plan` says is to run, by stage."""
    result = call(folder, "plan", *words)
    assert result.returncode == 0, result.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    return {row[0]: int(row[3]) for row in rows if row[0] in STAGES}


@dataclass(frozen=True)
class TinyRun:
    """An undisturbed run of the digits with the local executor."""

    folder: Path
    result: subprocess.CompletedProcess

    @property
    def run(self):
        return self.folder / "runs/digits"

    @property
    def store(self):
        return self.folder / "runs/store"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Made once for all processes of the suite; each gets a copy."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny-made"
    with FileLock(f"{made}.lock"):
        if not (made / "said.json").exists():
            made.mkdir()
            done = distill(made)
            assert done.returncode == 0, done.stderr
            (made / "said.json").write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(made / "runs", folder / "runs")
    return TinyRun(folder, subprocess.CompletedProcess(*json.loads((made / "said.json").read_text())))
