"""The trial cluster for real: what listens where, who may join, jobs on it, what dies with what, and what is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import TINY, contents, environment, run, start
from striking import store_without
from trial import Trial

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]
JOIN = (
    "import sys; from ray_jobs.connect import connect; owns = connect(sys.argv[1]); import ray;"
    "print(owns, sum(node['Resources'].get('GPU', 0) for node in ray.nodes()))"
)


def wait_for(condition, limit_s=60):
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    made = Trial(tmp_path_factory.mktemp("trial"))
    made.start()
    yield made
    made.down()


def join(trial, address, **more):
    command, settings = [sys.executable, "-c", JOIN, address], {**trial.env, **more}
    return subprocess.run(command, env=settings, cwd=trial.folder, capture_output=True, text=True, timeout=120)


def test_it_starts_and_shows_how_to_use_it(trial):
    assert "up after" in trial.up.stdout
    shown = trial.wmdd("cluster", "status").stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [row[:2] + row[3:] for row in rows] == [
        ["head", "alive", "0 of 0", "0 of 0"],
        ["node 1", "alive", "0 of 1", "0 of 1"],
        ["node 2", "alive", "0 of 1", "0 of 1"],
    ]
    for part in (trial.facts["address"], trial.facts["dashboard"], f"RAY_AUTH_TOKEN_PATH={trial.state}/token"):
        assert part in shown


def test_it_listens_on_loopback_only(trial):
    ports = set()
    for process in trial.family():
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):  # short-lived ones come and go
            ports |= {item.laddr for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN}
    assert len(ports) > 10
    assert {address.ip for address in ports} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_its_token_is_the_owners_alone(trial):
    assert (trial.state.stat().st_mode & 0o777, (trial.state / "token").stat().st_mode & 0o777) == (0o700, 0o600)
    assert len((trial.state / "token").read_text()) == 64


def test_a_second_one_is_refused(trial):
    again = trial.wmdd("cluster", "up")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.count("\n") == 1
    assert trial.facts["address"] in again.stderr


@pytest.mark.parametrize("address", ["its own", "auto"])
def test_its_user_joins_without_naming_a_token(trial, address):
    joined = join(trial, trial.facts["address"] if address == "its own" else address)
    assert joined.stdout.split() == ["False", "2.0"], joined.stderr[-500:]


def test_client_without_token_gets_a_clear_error(trial, tmp_path):
    """Ray itself looks for such a head at another address, for ever."""
    joined = join(trial, trial.facts["address"], WMDD_STATE=str(tmp_path))
    assert "ConfigError" in joined.stderr.splitlines()[-1]
    assert "RAY_AUTH_TOKEN_PATH" in joined.stderr.splitlines()[-1]
    asked = run(trial.folder, "jobs", "--address", trial.facts["dashboard"], env=environment(WMDD_STATE=str(tmp_path)))
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "RAY_AUTH_TOKEN_PATH" in asked.stderr


# -- jobs ------------------------------------------------------------------------------------------------------------


def test_job_gives_the_images_of_a_local_run(trial, tiny_run):
    store_without(tiny_run, trial.folder / "job/runs", "recover", "evaluate")
    done = trial.wmdd("submit", "--", "distill", "digits", *TINY, "--run", "runs/digits", "--ray.actors", "1")
    assert done.returncode == 0, done.stderr + done.stdout
    assert contents(trial.folder / "job/runs/store") == contents(tiny_run.store)
    assert (trial.folder / "job/runs/digits/images.png").read_bytes() == (tiny_run.run / "images.png").read_bytes()
    assert "evaluate   6/6" in done.stdout
    name = done.stderr.split()[1]
    listed = trial.wmdd("jobs").stdout
    assert name in listed
    assert "SUCCEEDED" in listed
    assert "evaluate   6/6" in trial.wmdd("logs", name).stdout


def test_exit_status_of_the_job_is_returned(trial):
    """Only the job sees that the recipe has no images."""
    done = trial.wmdd("submit", "--", "distill", "cifar10", "--run", str(trial.folder / "runs/cifar10"))
    assert done.returncode == 2
    assert "wmdd: data.path: recipe cifar10 brings no images" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("ended with status 2")


def test_ctrl_c_leaves_the_job_and_stop_ends_it(trial):
    words = ("distill", "digits", *TINY, "--pretrain.epochs", "100000", "--ray.actors", "1")
    words += ("--run", str(trial.folder / "runs/long"))
    log = trial.folder / "out"
    with open(log, "w") as out:
        command = ("submit", "--submission-id", "long", "--", *words)
        submitted = start(trial.folder / "job", *command, env=trial.env, stdout=out)
        limit = time.monotonic() + 120
        while "pretrain" not in log.read_text():
            assert time.monotonic() < limit, log.read_text()
            assert submitted.poll() is None, submitted.communicate()
            time.sleep(0.1)
        submitted.send_signal(signal.SIGINT)
        _, said = submitted.communicate(timeout=60)
    assert submitted.returncode == 130
    assert "wmdd logs long --follow" in said
    assert "wmdd stop long" in said
    again = trial.wmdd(*command)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "--submission-id long" in again.stderr
    assert trial.wmdd("stop", "long").stdout == "long: STOPPED\n"
    ended = trial.wmdd("logs", "long").stdout
    assert "wmdd: interrupted. What was finished is kept" in ended


@pytest.mark.parametrize("words", [("logs",), ("logs", "--follow"), ("stop",)])
def test_unknown_job_is_refused(trial, words):
    asked = trial.wmdd(*words, "nosuch")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("wmdd: nosuch: no such job at http://127.0.0.1:")
    assert asked.stderr.count("\n") == 1


def test_working_dir_that_is_too_large_is_refused(trial):
    large = trial.folder / "large"
    large.mkdir()
    (large / "noise.bin").write_bytes(os.urandom(110 * 2**20))
    sent = trial.wmdd("submit", "--working-dir", str(large), "--", "distill", "digits", "--run", "/nowhere")
    (large / "noise.bin").unlink()
    assert (sent.returncode, sent.stderr.count("\n")) == (2, 1)
    assert "--working-dir" in sent.stderr


# -- its end ---------------------------------------------------------------------------------------------------------


def test_killed_node_ends_its_processes_alone(trial):
    node = psutil.Process(trial.nodes[1])
    own = [node, *node.children(recursive=True)]
    node.kill()
    wait_for(lambda: not any(process.is_running() for process in own))
    shown = trial.wmdd("cluster", "status")
    assert [line.split("│")[2].strip() for line in shown.stdout.splitlines() if "│" in line] == [
        "alive",
        "dead",
        "alive",
    ]


def test_down_after_kill_9_ends_the_cluster_alone(trial):
    family, facts = trial.family(), trial.facts
    log = next(path for path in (trial.folder / facts["folder"]).rglob("gcs_server.out"))
    bystander = subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL)
    try:
        family[0].kill()
        ended = trial.wmdd("cluster", "down")
        assert ended.returncode == 0, ended.stderr
        wait_for(lambda: not any(process.is_running() for process in family))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert not log.exists()
    assert sorted(path.name for path in trial.state.iterdir()) == ["lock", "log"]
    assert trial.wmdd("cluster", "down").returncode == 2
