"""What would an idea be worth? Ideas are tried in a plain loop before wmdd gets an option for one.

    python -m benchmarks.trials --data CIFAR10                       # every idea of benchmarks.trials.ideas
    python -m benchmarks.trials --data CIFAR10 --only plain,groups-2 # some
    python -m benchmarks.trials --data CIFAR10 --ipc 1
    python -m benchmarks.trials --data CIFAR10 --ipc 50 --quick

Teacher, weaker networks, statistics and barycenters are wmdd's, of the recipe, and stay in the store of ``--work``.
Images are made by the loop, with the crops of the ablation's reference, and labelled by wmdd's stage relabel; students
are trained on them by stage evaluate. A JSON line for each idea has their scores, and the loss of a network that saw
neither the images nor the labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.cells import CROPS
from benchmarks.trials.bench import Bench
from benchmarks.trials.ideas import IDEAS
from benchmarks.trials.lines import RECIPE, ROOT, kept, measure, with_table
from wmdd.config.distill import override
from wmdd.config.recipes import quick_options, recipe
from wmdd.errors import ConfigError, DataError

OUT = ROOT / "benchmarks" / "results" / "trials.jsonl"
PAGE = ROOT / "docs" / "accuracy.md"
WORK = ROOT / "build" / "trials"


def chosen(only: str | None, count: int) -> list[str]:
    """Return the ideas to try on classes of this number of images: those that were asked for, or all that fit."""
    if not only:
        return [name for name, idea in IDEAS.items() if idea.fits(count)]
    for name in (names := only.split(",")):
        if name not in IDEAS:
            raise ConfigError(f"--only {name}: there is no such idea; choose from {','.join(IDEAS)}")
        if not IDEAS[name].fits(count):
            raise ConfigError(f"--only {name}: does not cut the {count} images of a class into equal groups")
    return names


def main() -> int:
    """Measure the ideas that were asked for; return the exit status."""
    parser = _parser()
    args = parser.parse_args()
    if not args.data and not args.table:
        parser.error("--data: give the folder of CIFAR-10")
    if args.table:
        args.page.write_text(with_table(args.page.read_text(encoding="utf-8"), kept(args.out)), encoding="utf-8")
        return 0
    config = override(recipe(RECIPE), {"data.path": args.data, "ipc": args.ipc, **CROPS})
    config = override(config, quick_options(config) if args.quick else {}).settled()
    try:
        names = chosen(args.only, config.atoms)
        torch.set_num_threads(args.threads)
        bench = Bench(config, args.work)
    except (ConfigError, DataError) as exc:
        print(exc, file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        line = json.dumps(measure(bench, name, args.students))
        with args.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.trials", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="CIFAR-10")
    parser.add_argument("--ipc", type=int, default=10, help="images per class (10)")
    parser.add_argument("--students", type=int, default=2, help="students of each idea (2)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the label epochs, as wmdd --quick")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {','.join(IDEAS)}")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the loop (1)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of runs and their store, kept (build/trials)")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON lines, to which the ideas are added")
    parser.add_argument("--table", action="store_true", help="write the table of --out into --page, only")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the table (docs/accuracy.md)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
