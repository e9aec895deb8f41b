"""The CPUs that this process may use, how many of them are free, what they can do, and how their memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import time
from collections.abc import Collection, Iterator
from pathlib import Path

FLOPS_PER_THREAD = 0.5e9  # of a batch's forward pass; with less each, threads wait for each other longer than they work
# Pixels in all steps of a tensor batch (steps x images x height x width) from which recovery is compiled on a CPU if
# `runtime.compile` is auto: as in 1,000 steps of 100 images of 32 px. Compilation takes 30 to 60 s of a CPU, and a step
# afterwards 0.4 (ConvNet-3) to 0.85 times as long (ResNet-18 at 224 px; in fp32 1).
CPU_RECOVERY_PIXELS = 10**8
SAMPLE_S = 0.4
SAMPLES = 5
BF16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512"}  # by the flag that Linux lists
ONE_ARENA = ("MALLOC_ARENA_MAX", "1")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def set_environment() -> None:
    """Set what OpenMP and the C library of this process's children read when they start; call it before torch's import.

    OpenMP's threads sleep while they wait. By default they spin, and on a machine with other work a thread that spins
    keeps the CPU from the one that it waits for.

    All threads take memory from one arena of glibc. Workers of Ray compute in another thread than the first, whose
    arena would return blocks of more than 64 MiB to the kernel at each step, whatever `keep_freed_memory` says: a
    teacher's epoch took 1.4 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault(*ONE_ARENA)


def keep_freed_memory() -> None:
    """Let the C library keep up to 1 GiB of freed memory for the next tensors, if it is glibc.

    Each step frees what the next one allocates. By default glibc returns it to the kernel, which clears every page
    again: a quarter to a half of a small network's step. What an earlier call let it keep is returned first.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.malloc_trim(0)  # what the task before this one has left
        library.mallopt(_TRIM_THRESHOLD, 2**30)
        library.mallopt(_MMAP_MAX, 0)  # else each block of 32 MiB or more is mapped, and returned when it is freed


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use: at least 1.

    That is the least of its affinity and the CPU quotas of its control groups (containers, Slurm, systemd), neither of
    which `os.cpu_count` knows; `joblib.cpu_count` knows no quota of a nested group. ``proc`` and ``sys`` are mounted
    below the root.
    """
    limits = [len(_affinity()), *(math.ceil(quota) for quota in _quotas(root))]
    return max(1, min(limits))


def compute_cpus() -> int:
    """Return on how many CPUs this process may compute: `usable_cpus`, or fewer if ``OMP_NUM_THREADS`` says so."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(usable_cpus(), int(first)) if first.isdecimal() and int(first) else usable_cpus()


def free_cpus(usable: int, root: Path = Path("/")) -> int:
    """Return how many of the usable CPUs are free of other work: at least 1.

    This is the largest number of idle CPUs in a few short samples: a Ray that starts at the same time is busy for a
    moment only. On an idle machine the first sample decides.
    """
    free = 1
    for _ in range(SAMPLES if usable > 1 else 0):
        before = _idle_ticks(root)
        if not before:
            return usable
        time.sleep(SAMPLE_S)
        free = max(free, min(usable, _idle_between(before, _idle_ticks(root))))
        if free == usable:
            break
    return free


def bf16_on_cpu(precision: str, flags: Collection[str]) -> tuple[bool, str]:
    """Return whether a CPU with these flags computes networks in bf16, and why: by default if that is faster.

    Measured (``benchmarks/precision.py``): 1.7 to 2.5 times as fast with AMX, 0.3 to 0.5 times without either
    instruction, where bf16 is emulated. avx512_bf16 alone is what AMD has, where recovery is 1.5 times as fast; an
    Intel CPU limited to it reaches 0.7 to 0.9. The smallest networks, of some milliseconds a step, gain nothing.

    Args:
        precision: ``auto``, ``bf16`` or ``fp32``.
    """
    if precision != "auto":
        return precision == "bf16", "set by runtime.precision"
    if flag := bf16_flag(flags):
        return True, f"auto: the CPU has {flag}"
    return False, f"auto: the CPU has neither {' nor '.join(BF16_UNITS)}"


def bf16_flag(flags: Collection[str]) -> str:
    """Return the flag of the unit that computes in bf16, a key of `BF16_UNITS`; "" if it is emulated."""
    return next((flag for flag in BF16_UNITS if flag in flags), "")


def busy_threads(flops: float, usable: int) -> int:
    """Return how many of the usable CPUs training keeps busy: at least 1.

    Args:
        flops: floating-point operations of a batch's forward pass in this process.
    """
    return min(usable, max(1, int(flops / FLOPS_PER_THREAD)))


def cpu_flags() -> frozenset[str]:
    """Return the names of the CPU's features, as Linux lists them; an empty set on other systems."""
    lines = [line.partition(":")[2] for line in _cpuinfo().splitlines() if line.startswith("flags")]
    return frozenset(lines[0].split()) if lines else frozenset()


def cpu_name() -> str:
    """Return the CPU's model and how many cores this process may use."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {usable_cpus()} cores"


def _idle_between(before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]) -> int:
    shares = [
        (after[cpu][0] - idle) / max(1, after[cpu][1] - total) for cpu, (idle, total) in before.items() if cpu in after
    ]
    return math.floor(sum(shares) + 0.5)


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's control groups, from its own up to the outermost that it sees."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree, version 1 one for each set of controllers.
        mounts = ("sys/fs/cgroup", "sys/fs/cgroup/unified") if not controllers else ("sys/fs/cgroup/cpu",)
        for mount in (*mounts, f"sys/fs/cgroup/{controllers}"):
            base = root / mount
            group = base / path.lstrip("/")
            # In a container the path is often the host's, of which only the mount point is there.
            for folder in (group, *group.parents):
                if not folder.is_relative_to(base):
                    break
                yield from _quota(folder)


def _quota(group: Path) -> Iterator[float]:
    numbers = [word for line in _lines(group / "cpu.max") for word in line.split()]
    numbers = numbers or [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    with contextlib.suppress(ValueError):  # "max", or a file that is no quota
        quota, period = map(int, numbers)
        if quota > 0 and period > 0:
            yield quota / period


def _idle_ticks(root: Path) -> dict[int, tuple[int, int]]:
    """Return the ticks of each CPU of the affinity that it was idle, and in all; empty where the system counts none."""
    allowed, ticks = _affinity(), {}
    for line in _lines(root / "proc/stat"):
        name, *counts = line.split()
        number = name.removeprefix("cpu")
        if name.startswith("cpu") and number.isdecimal() and int(number) in allowed:
            values = [int(count) for count in counts[:8]]  # what follows, guests, is part of the user's
            ticks[int(number)] = (sum(values[3:5]), sum(values))
    return ticks


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError, UnicodeError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


@functools.cache
def _cpuinfo() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
        return cpuinfo.read()
    return ""
