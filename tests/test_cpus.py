"""The CPUs that a process may use: affinity, quotas of control groups, and what other programs leave."""

import os
import subprocess
import sys

import pytest

from wmdd import cpus
from wmdd.cpus import compute_cpus, free_cpus, usable_cpus


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cpus.time, "sleep", lambda seconds: None)


def system(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


GROUPS = {
    "container, version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "no limit, version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "a part of a CPU": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "rounded up": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
    "job of a batch system": (
        {
            "proc/self/cgroup": "0::/system.slice/job_7/step_0\n",
            "sys/fs/cgroup/system.slice/job_7/step_0/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/job_7/cpu.max": "400000 100000\n",
        },
        4,
    ),
    "path of the host in a container": (
        {"proc/self/cgroup": "0::/kubepods/pod-1/x\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1 without a limit": (
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    "group of another controller": (
        {
            "proc/self/cgroup": "5:memory:/\n",
            "sys/fs/cgroup/memory/cpu.max": "100000 100000\n",
        },
        8,
    ),
    "nothing known": ({}, 8),
}


@pytest.mark.parametrize(("files", "usable"), GROUPS.values(), ids=list(GROUPS))
@pytest.mark.usefixtures("eight")
def test_quota_of_control_groups_limits_usable_cpus(tmp_path, files, usable):
    assert usable_cpus(system(tmp_path, files)) == usable


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_bounds_the_usable_cpus():
    first = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{first}}}); from wmdd.cpus import usable_cpus as n; assert n() == 1"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("value", "count"), [("3", 3), ("99", None), ("2,1", 2), ("", None), ("0", None), ("x", None)])
def test_openmp_setting_limits_computing_not_reading(monkeypatch, value, count):
    usable = usable_cpus()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert compute_cpus() == min(usable, count or usable)
    assert usable_cpus() == usable


def ticks(root, *counts):
    """Write /proc/stat: of each CPU, the ticks that it was busy and idle."""
    lines = [f"cpu{number} {busy} 0 0 {idle - idle // 4} {idle // 4} 0 0 0 9 9" for number, (busy, idle) in counts]
    return system(root, {"proc/stat": "\n".join(["cpu 0 0 0 0 0 0 0 0 0 0", *lines, "intr 0"])})


def watched(monkeypatch, root, *moments):
    """Let each sleep of `free_cpus` bring the next moment: idle ticks of every CPU out of 100 more."""
    total = [[0, 0] for _ in range(8)]
    coming = iter(moments)

    def sleep(seconds):
        for count, idle in zip(total, next(coming), strict=True):
            count[0] += 100 - idle
            count[1] += idle
        ticks(root, *enumerate(total))

    ticks(root, *enumerate(total))
    monkeypatch.setattr(cpus.time, "sleep", sleep)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("idle", "free"),
    [((100,) * 8, 8), ((0,) * 8, 1), ((100, 100, 100, 0, 0, 0, 0, 0), 3), ((90, 80, 70, 90, 5, 0, 8, 0), 3)],
    ids=["idle", "busy", "five busy", "partly busy"],
)
def test_free_cpus_are_those_that_were_idle(tmp_path, monkeypatch, idle, free):
    watched(monkeypatch, tmp_path, *[idle] * cpus.SAMPLES)
    assert free_cpus(8, tmp_path) == free
    watched(monkeypatch, tmp_path)
    assert free_cpus(1, tmp_path) == 1, "one thread needs no look"


@pytest.mark.usefixtures("eight")
def test_short_burst_of_work_takes_no_cpu(tmp_path, monkeypatch):
    watched(monkeypatch, tmp_path, (0,) * 8, (10,) * 8, (100,) * 8)
    assert free_cpus(8, tmp_path) == 8


@pytest.mark.usefixtures("eight")
def test_system_that_counts_no_ticks_is_taken_for_idle(tmp_path):
    assert free_cpus(8, tmp_path) == 8


@pytest.mark.parametrize(
    ("variable", "default", "other"), [("OMP_WAIT_POLICY", "passive", "active"), ("MALLOC_ARENA_MAX", "1", "4")]
)
def test_environment_has_defaults_that_users_may_change(variable, default, other):
    """What OpenMP and the C library read: in workers of Ray, which import ray_jobs, and in what a command starts."""
    bare = {name: value for name, value in os.environ.items() if name != variable}
    for asked, expected in (({}, default), ({variable: other}, other)):
        code = f"import os, ray_jobs; assert os.environ[{variable!r}] == {expected!r}"
        subprocess.run([sys.executable, "-c", code], env=bare | asked, check=True)
