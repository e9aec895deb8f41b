"""Prove the GPU path in a few minutes: tests, speed and whole recipes, in the order of their worth.

    make gpu                                     # python -m benchmarks.gpu, seven minutes
    make gpu TOY=1                               # the same steps on the CPU, at toy size
    python -m benchmarks.gpu --data CIFAR10 --tiny TINY_IMAGENET --minutes 30 --out DIR
    python -m benchmarks.gpu --steps cifar10     # goes on where the time of an earlier call ended

Needs neither Ray nor a network. Every step runs in a process of its own with a time limit, and its JSON line is written
as soon as it ends; a step that fails or takes too long keeps what it measured until then, and the next one runs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.runner import PRELOAD, Session
from benchmarks.gpu.steps import STEPS, Setting

RESULTS = Path(__file__).parents[1] / "results"
CIFAR10 = Path(__file__).parents[2] / ".gpu" / "cifar10"
WORK = Path(__file__).parents[2] / "build" / "gpu"


def main() -> int:
    """Run the steps that were asked for; return the exit status."""
    args = _arguments()
    names = args.steps.split(",") if args.steps else list(STEPS)
    names = ["machine", *(name for name in names if name != "machine")]
    if unknown := [name for name in names if name not in STEPS]:
        return _refuse(f"--steps {unknown[0]}: there is no such step; choose from {','.join(STEPS)}")
    if args.minutes <= 0:
        return _refuse(f"--minutes {args.minutes:g}: must be above 0; seven are enough for most cards")
    data = args.data or (str(CIFAR10) if CIFAR10.is_dir() else None)
    for option, folder in (("--data", data), ("--tiny", args.tiny)):
        if folder and not Path(folder).is_dir():
            return _refuse(f"{option} {folder}: there is no such folder")
    # Its parent holds nothing of torch: the processes of the steps are forked from one that has imported it once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    with tempfile.TemporaryDirectory(prefix="wmdd-gpu-") as made:
        out = args.out or (made if args.toy else str(RESULTS))
        work = args.work or (made if args.toy else str(WORK))
        for folder in (out, work):
            Path(folder).mkdir(parents=True, exist_ok=True)
        session = Session(context, Setting(args.toy, data, args.tiny, work, out), args.minutes * 60)
        return session.run([STEPS[name] for name in names])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="folder of gpu-<card>.jsonl and pictures (default: benchmarks/results)")
    parser.add_argument("--minutes", type=float, default=7.0, help="for all steps together (default: 7)")
    parser.add_argument("--data", help="CIFAR-10, in any layout of wmdd (default: .gpu/cifar10, where it is there)")
    parser.add_argument("--tiny", help="Tiny-ImageNet, for a further recipe")
    parser.add_argument("--work", help="folder of stores, kept, so that a second call goes on (default: build/gpu)")
    parser.add_argument("--steps", help=f"only these, separated by commas: {','.join(STEPS)}")
    parser.add_argument("--toy", action="store_true", help="rehearse every step on the CPU, at toy size")
    return parser.parse_args()


def _refuse(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
