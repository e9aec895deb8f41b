"""The trial cluster for real: what listens where, who may join, what dies with what, and that nothing is left."""

import contextlib
import subprocess
import sys
import time

import psutil
import pytest
from conftest import environment, run
from trial import ready_trial

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
def trial(request):
    return ready_trial(request)


def join(trial, address, **more):
    command, settings = [sys.executable, "-c", JOIN, address], {**trial.env, **more}
    return subprocess.run(command, env=settings, cwd=trial.folder, capture_output=True, text=True, timeout=120)


def test_it_comes_up_and_tells_how_to_use_it(trial):
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
def test_its_user_joins_without_a_word_about_tokens(trial, address):
    joined = join(trial, trial.facts["address"] if address == "its own" else address)
    assert joined.stdout.split() == ["False", "2.0"], joined.stderr[-500:]


def test_a_stranger_is_told_about_the_token(trial, tmp_path):
    """Ray itself looks for such a head at another address, for ever."""
    joined = join(trial, trial.facts["address"], WMDD_STATE=str(tmp_path))
    assert "ConfigError" in joined.stderr.splitlines()[-1]
    assert "RAY_AUTH_TOKEN_PATH" in joined.stderr.splitlines()[-1]
    asked = run(trial.folder, "jobs", "--address", trial.facts["dashboard"], env=environment(WMDD_STATE=str(tmp_path)))
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "RAY_AUTH_TOKEN_PATH" in asked.stderr


def test_a_killed_node_takes_its_own_processes_along_and_the_rest_stays(trial):
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


def test_down_after_kill_9_leaves_nothing_and_touches_nothing_else(trial):
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
