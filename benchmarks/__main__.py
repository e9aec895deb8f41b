"""Measure wmdd on this machine's GPU or CPU in a few minutes, against plain loops; most important first.

    make bench                               # python -m benchmarks cpu
    make bench FULL=1 DATA=CIFAR10           # also the steps that take longer: an hour
    make gpu                                 # python -m benchmarks gpu: also tests
    make gpu TOY=1                           # a rehearsal of the GPU's steps on the CPU, at toy size
    python -m benchmarks gpu --data CIFAR10 --tiny TINY_IMAGENET --minutes 30 --out DIR
    python -m benchmarks gpu --steps cifar10 # goes on where the time of an earlier call ended

The steps on a GPU need neither Ray nor a network. Each step runs in a separate process with a time limit, and its JSON
line is written as soon as it ends; a step that fails or takes too long keeps what it measured until then, and the next
one runs.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import sys
import tempfile
import uuid
from pathlib import Path

from benchmarks.runner import PRELOAD, Session
from benchmarks.steps import STEPS, On, Setting, form

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CIFAR10 = ROOT / ".gpu" / "cifar10"
WORK = ROOT / "build" / "gpu"
MINUTES: dict[On, float] = {"gpu": 6.5, "cpu": 9.5}  # with imports and an environment's start, seven and ten
FULL_MINUTES = 59.5  # of the CPU's full form, likewise an hour


def main() -> int:
    """Run the steps that were asked for; return the exit status."""
    args = _arguments()
    steps = STEPS[args.on]
    names = args.steps.split(",") if args.steps else form(args.on, args.full)
    names = ["machine", *(name for name in names if name != "machine")]
    if unknown := [name for name in names if name not in steps]:
        return _refuse(f"--steps {unknown[0]}: there is no such step; choose from {','.join(steps)}")
    if args.full and not any(step.full for step in steps.values()):
        return _refuse(f"--full: the steps on a {args.on.upper()} have one form; leave it out")
    minutes = FULL_MINUTES if any(steps[name].full for name in names) else MINUTES[args.on]
    if args.minutes is None:
        args.minutes = minutes
    if not 0 < args.minutes < math.inf:
        return _refuse(f"--minutes {args.minutes:g}: must be a number above 0, such as {minutes:g}")
    for option, folder in (("--data", args.data), ("--tiny", args.tiny)):
        if folder and ":" not in folder and not Path(folder).exists():
            return _refuse(f"{option} {folder}: there is no such file or folder")
    with tempfile.TemporaryDirectory(prefix="wmdd-bench-") as made:
        out, work = args.out or (made if args.toy else str(RESULTS)), args.work or (made if args.toy else str(WORK))
        for option, folder in (("--out", out), ("--work", work)):
            if reason := _unwritable(Path(folder)):
                return _refuse(f"{option} {folder}: cannot be written ({reason}); give another folder")
        data = args.data or (str(CIFAR10) if CIFAR10.is_dir() else None)
        setting = Setting(args.toy, data, args.tiny, work, out, is_temporary=out == made, on=args.on)
        # This process imports no torch; those of the steps are forked from one that has imported it once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOAD])
        return Session(context, setting, args.minutes * 60).run([steps[name] for name in names])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("on", choices=list(STEPS), help="the device")
    parser.add_argument("--out", help="folder of <device>-<name>.jsonl, its log, and pictures (benchmarks/results)")
    parser.add_argument("--full", action="store_true", help="also the steps of the CPU that take longer")
    minutes = ", ".join(f"{on}: {value:g}" for on, value in (MINUTES | {"full": FULL_MINUTES}).items())
    parser.add_argument("--minutes", type=float, help=f"for all steps together (default: {minutes})")
    parser.add_argument("--data", help="CIFAR-10, as data.path takes it (default: .gpu/cifar10, if that is there)")
    parser.add_argument("--tiny", help="Tiny-ImageNet, for a further recipe")
    parser.add_argument("--work", help="folder of stores, kept, so that a second call goes on (default: build/gpu)")
    steps = "; ".join(f"{on}: {', '.join(names)}" for on, names in STEPS.items())
    parser.add_argument("--steps", metavar="NAME,...", help=f"only these of: {steps}")
    parser.add_argument("--toy", action="store_true", help="rehearse the steps on the CPU, at toy size")
    args = parser.parse_args()
    for name in ("out", "data", "tiny", "work"):  # quoted by make, so not expanded by a shell
        setattr(args, name, getattr(args, name) and os.path.expanduser(getattr(args, name)))
    return args


def _unwritable(folder: Path) -> str:
    """Return why nothing can be written into a folder, new or old; "" if it can."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as exc:
        return exc.strerror or str(exc)
    with contextlib.suppress(OSError):
        os.unlink(probe)
    return ""


def _refuse(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
