"""The Slurm script, run for real with stand-ins for Slurm, Ray and the command."""

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from commands import check_ray

SCRIPT = Path(__file__).parents[2] / "cluster/slurm/wmdd.sbatch"

# Each notes what it was called with. A step of srun is a process that lives until it is told to end.
STANDINS = {
    "slurm/srun": """
        options=; while [[ $1 == --* ]]; do options+=" $1"; shift; done; echo "srun$options" >> $NOTES
        [[ $options != *--exclude* ]] || export RAY_TMPDIR=$RAY_TMPDIR-on-another-node
        exec "$@"
        """,
    "slurm/scontrol": '[[ $1 == show ]] && printf "%s\\n" $NODES || echo "scontrol $*" >> $NOTES; exit ${SCONTROL:-0}',
    "env/bin/ray": """
        echo "ray $*" >> $NOTES
        [[ $1 == start ]] || { [[ -e $FOLDER/head-is-up ]]; exit; }
        [[ -z ${RAY_FAILS:-} ]] || { echo "no room" >&2; exit 3; }
        cat $RAY_AUTH_TOKEN_PATH > $FOLDER/token; stat -c %a $RAY_AUTH_TOKEN_PATH $RAY_TMPDIR >> $NOTES
        echo $$ >> $FOLDER/rays
        trap 'echo "ray ended" >> $NOTES; exit 0' TERM
        touch $FOLDER/head-is-up; while :; do sleep 0.05; done""",
    "env/bin/python": """
        echo "python $* at $RAY_ADDRESS in $RAY_AUTH_MODE" >> $NOTES
        while [[ $(wc -l < $FOLDER/rays) -lt ${STEPS:-1} ]]; do sleep 0.05; done
        [[ -n ${WAITS:-} ]] || exit ${STATUS:-0}
        trap "exit ${ON_TERM:-130}" TERM; touch $FOLDER/running; while :; do sleep 0.05; done""",
}


class Job:
    def __init__(self, folder):
        self.folder = folder
        for name, body in STANDINS.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/bash\n{body}\n")
            path.chmod(0o755)
        (folder / "tmp").mkdir()
        self.environment = {
            "PATH": f"{folder}/slurm:{os.environ['PATH']}",
            "HOME": str(folder),
            "FOLDER": str(folder),
            "NOTES": f"{folder}/notes",
            "NODES": "first",
            "WMDD_ENV": f"{folder}/env",
            "WMDD_LOCAL": f"{folder}/tmp",
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST": "nodes[1-3]",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": "4",
        }

    def start(self, *words, **variables):
        words = words or ("distill", "digits", "--run", "/shared/a run")
        command = ["bash", SCRIPT, *words]
        environment = {name: value for name, value in {**self.environment, **variables}.items() if value is not None}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def run(self, *words, **variables):
        process = self.start(*words, **variables)
        _, self.said = process.communicate(timeout=60)
        return process.returncode

    @property
    def notes(self):
        path = self.folder / "notes"
        return path.read_text() if path.exists() else ""

    def wait_for(self, name):
        limit = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < limit, f"{name} never came: {self.notes}"
            time.sleep(0.02)

    def leftovers(self):
        """Rays that still live, the token, and what lies in the node's folder."""
        pids = (self.folder / "rays").read_text().split() if (self.folder / "rays").exists() else []
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        return [*alive, *(self.folder / ".wmdd/slurm").glob("*"), *(self.folder / "tmp").iterdir()]


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_the_script_is_sound_bash():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", SCRIPT], check=True)


@pytest.mark.parametrize("status", [0, 1, 2, 5])
def test_exit_status_of_the_command_is_the_jobs(job, status):
    assert job.run(STATUS=str(status)) == status
    assert "scontrol requeue" not in job.notes
    assert job.leftovers() == []


def test_command_gets_its_words_and_the_heads_address(job):
    job.run("distill", "digits", "--run", "/shared/a run")
    assert "python -m wmdd distill digits --run /shared/a run at first:6379 in token\n" in job.notes


def test_ray_that_does_not_start_fails_the_job(job):
    assert job.run(RAY_FAILS="yes") == 1
    assert "Ray did not start on first" in job.said
    assert "no room" in job.said
    assert "python" not in job.notes
    assert job.leftovers() == []


def test_other_nodes_join_in_one_step_without_kill(job):
    assert job.run(NODES="first\nsecond\nthird", STEPS="2") == 0
    head, others = [line for line in job.notes.splitlines() if line.startswith("srun ")]
    assert "--nodes=1 --ntasks=1 " in head
    assert "--nodelist=first" in head
    assert "--nodes=2 --ntasks=2 " in others
    assert "--exclude=first" in others
    assert all("--no-kill --kill-on-bad-exit=0" in step for step in (head, others))
    assert "--address=first:6379" in job.notes
    assert job.leftovers() == []


def test_ray_offers_what_slurm_gave(job):
    job.run()
    (start,) = [line.split() for line in job.notes.splitlines() if line.startswith("ray start")]
    assert {"--num-cpus=16", "--num-gpus=4", "--dashboard-host=127.0.0.1"} <= set(start)
    check_ray(start[1:])
    check_ray(next(line.split()[1:] for line in job.notes.splitlines() if line.startswith("ray health-check")))


def test_a_job_without_gpus_offers_none(job):
    job.run(SLURM_GPUS_ON_NODE=None)
    assert "--num-gpus=0" in job.notes


def test_token_and_ray_folder_are_private_and_new(job):
    tokens = job.folder / ".wmdd/slurm"
    tokens.mkdir(parents=True)
    (tokens / "42.token").write_text("old")
    (tokens / "42.token").chmod(stat.S_IRUSR | stat.S_IROTH)
    assert job.run() == 0
    assert "\n600\n700\n" in job.notes
    assert len((job.folder / "token").read_text()) == 64


@pytest.mark.parametrize("status", [130, 143, 15])
def test_time_limit_ends_the_command_and_requeues(job, status):
    process = job.start(WAITS="yes", ON_TERM=str(status))
    job.wait_for("running")
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert job.notes.splitlines()[-2:] == ["ray ended", "scontrol requeue 42"]
    assert "queued again" in said
    assert job.leftovers() == []


@pytest.mark.parametrize("status", [0, 1, 2])
def test_run_that_ends_at_time_limit_is_not_requeued(job, status):
    process = job.start(WAITS="yes", ON_TERM=str(status))
    job.wait_for("running")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert "scontrol requeue" not in job.notes


def test_a_job_that_cannot_be_queued_again_says_so(job):
    process = job.start(WAITS="yes", SCONTROL="1")
    job.wait_for("running")
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "submit the same command" in said


def test_a_cancelled_job_is_not_queued_again(job):
    process = job.start(WAITS="yes")
    job.wait_for("running")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert "scontrol requeue" not in job.notes
    assert job.leftovers() == []


def test_requeues_are_bounded(job):
    process = job.start(WAITS="yes", SLURM_RESTART_COUNT="3", WMDD_RESTARTS="3")
    job.wait_for("running")
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "enough" in said
    assert "scontrol requeue" not in job.notes


def test_ray_that_is_gone_does_not_delay_the_end(job):
    process = job.start(WAITS="yes")
    job.wait_for("running")
    os.kill(int((job.folder / "rays").read_text()), signal.SIGKILL)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert job.leftovers() == []


@pytest.mark.parametrize(("words", "variables"), [(("distill",), {"SLURM_JOB_ID": None}), ((), {})])
def test_a_wrong_call_says_how_it_is_meant(job, words, variables):
    process = subprocess.run(
        ["bash", SCRIPT, *words],
        env={name: value for name, value in {**job.environment, **variables}.items() if value},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "sbatch" in process.stderr
    assert job.notes == ""


def test_directives_request_what_the_script_relies_on():
    lines = [line.split(maxsplit=1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    options = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert {"exclusive", "requeue", "no-kill", "mem", "gpus-per-node"} <= set(options)
    assert options["ntasks-per-node"] == "1"
    assert int(options["cpus-per-task"]) > 0
    assert options["signal"].startswith("B:USR1@")
    assert options["open-mode"] == "append"
