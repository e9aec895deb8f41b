"""What would an idea be worth? Ideas are tried in a plain loop before wmdd gets an option for one.

    python -m benchmarks.trials --data CIFAR10                       # every idea of benchmarks.trial_ideas
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
import functools
import json
import re
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cells import CROPS
from benchmarks.common import machine
from benchmarks.steps import output_of
from benchmarks.trial_ideas import IDEAS
from benchmarks.trial_loop import Labellers, Loop, Real, run_network
from wmdd.commands.distill import distill
from wmdd.config.distill import DistillConfig, override
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recipes import quick_options, recipe
from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.data.index import DatasetIndex
from wmdd.engine.plan import plan_from
from wmdd.engine.run_start import read_start
from wmdd.engine.task import Plan
from wmdd.errors import ConfigError, DataError
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass, ImageSet
from wmdd.method.batch_sizes import with_equal_steps
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output, Snapshot
from wmdd.report.tables import markdown_table
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans import evaluate, pretrain, relabel
from wmdd.stages.plans.pretrain import TEACHER
from wmdd.storage.artifact import unpack
from wmdd.storage.store import ArtifactStore

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "trials.jsonl"
PAGE = ROOT / "docs" / "accuracy.md"
MARK, END = "<!-- trials -->", "<!-- end -->"
WORK = ROOT / "build" / "trials"
RECIPE = "cifar10-quick"
SNAPSHOTS = (3, 6)  # epochs of the teacher's training
WEAK_EPOCHS, WEAK = 5, 3  # networks: the first of them takes no part in any idea
Line = dict[str, Any]


class Bench:
    """Real images, networks, and the validation images that students are scored on.

    Args:
        config: the recipe, with the number of images per class.
        work: folder of the runs and of their store.
    """

    def __init__(self, config: DistillConfig, work: Path) -> None:
        plan, store = _computed(config, work, "barycenter")
        self.config, self.index = plan.config, plan.index
        weak = [_computed(_weak(config, seed), work, "pretrain") for seed in range(1, WEAK + 1)]
        self._others = [_teacher(other, kept) for other, kept in weak]
        self._teacher = _teacher(plan, store)
        self.geometry = Geometry(config.data.image_size, config.data.crop_ratio, self._teacher.normalization)
        classes = range(len(self.index.class_names))
        self.real = Real(
            [class_images(self.index, number, self.geometry) for number in classes],
            self._teacher,
            self._others[1:],
            [store.load(ref, ClassStatistics) for ref in plan.refs("statistics")],
            [store.load(ref, Barycenter) for ref in plan.refs("barycenter")],
            lambda: self.snapshots,
        )
        self._runtime = Runtime.create(RuntimeConfig(device="cpu"))

    def images(self, idea: type[Loop]) -> tuple[list[DistilledClass], float]:
        """Return the images of an idea, and the seconds that the loop took."""
        seeds = SeedTree(self.config.seed).child("trial")
        begun = time.perf_counter()
        loop = idea(self.real, self.config.recover, seeds)
        stored = loop.run().unflatten(0, (len(self.index.class_names), -1))
        seconds = time.perf_counter() - begun
        tiles, count = self.config.recover.tiles, self.config.ipc
        masses = torch.full((count,), 1 / count)
        return [DistilledClass(number, part, masses, tiles=tiles) for number, part in enumerate(stored)], seconds

    def top1(self, classes: list[DistilledClass], idea: type[Loop], students: int) -> list[float]:
        """Return the top-1 of students after their last epoch, in %."""
        first, *more = self._labellers(idea.labellers)
        shown = len(ImageSet.of(classes))
        section = with_equal_steps(self.config.relabel, len(classes) * self.config.ipc, shown)
        inputs = {"teacher": first, "classes": classes, "index": self.index}
        if more:
            section = section.model_copy(update={"teachers": ("others",)})
            inputs["others"] = more
        params = relabel.Params("distilled", 0, section.epochs)
        inputs["labels"] = self._outputs("relabel", section, params, inputs)
        name = self.config.evaluate.students[0]
        final = override(self.config, {"evaluate.val_every": section.epochs}).evaluate.of(name)
        scores = []
        for seed in range(students):
            trained = evaluate.Params(name, seed, "distilled", self.geometry, final.protocol, "trial")
            scores += [result.top1_last for result in self._outputs("evaluate", final, trained, inputs)]
        return [round(100 * score, 2) for score in scores]

    def _labellers(self, names: Labellers) -> list[Teacher]:
        """Return the networks that label, the first of them as the stage's teacher."""
        match names:
            case "weak":
                return self._others[1:2]
            case "teacher and others":
                return [self._teacher, *self._others[1:]]
            case "teacher and snapshots":
                return [self._teacher, *self.snapshots]
        return [self._teacher]

    @functools.cached_property
    def snapshots(self) -> list[Teacher]:
        """The networks of a training like the teacher's, after some of its epochs.

        On another number of threads than the teacher's, its rounding differs.
        """
        params = pretrain.Params(self._teacher.model, self._teacher.stem, self.geometry)
        unit = Unit(TEACHER, params, {"index": self.index}.__getitem__)
        training = STAGES["pretrain"].run(self.config.pretrain, [unit], SeedTree(self.config.seed), self._runtime)
        networks = []
        for snapshot in (unpack(event.data) for event in training if isinstance(event, Snapshot)):
            tensors, position = snapshot
            if position["epoch"] in SNAPSHOTS:
                networks.append(replace(self._teacher, weights=_network_of(tensors), curve=tuple(position["curve"])))
            if position["epoch"] == SNAPSHOTS[-1]:
                break
        return networks

    def _outputs(self, stage: str, section: Any, params: Any, inputs: dict[str, Any]) -> list[Any]:
        unit = Unit("trial", params, inputs.__getitem__)
        events = STAGES[stage].run(section, [unit], SeedTree(self.config.seed), self._runtime)
        return [event.value for event in events if isinstance(event, Output)]

    @torch.no_grad()
    def unseen_loss(self, classes: list[DistilledClass]) -> float:
        """Return the cross-entropy of a weak network that no idea uses, on the images as networks see them."""
        shown, network = ImageSet.of(classes), self._others[0]
        logits: Tensor = run_network(network, network.pixels.normalize(shown.images)).logits
        return round(float(F.cross_entropy(logits, shown.labels)), 4)


def _network_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights among the tensors of a training's snapshot."""
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _computed(config: DistillConfig, work: Path, until: str) -> tuple[Plan, ArtifactStore]:
    """Compute what a run needs up to a stage, unless the store has it; return its plan."""
    url, store = (
        str(work / f"run-{until}-{config.seed}-ipc-{config.ipc}-epochs-{config.relabel.epochs}"),
        str(work / "store"),
    )
    distill(config, run=url, store=store, executor="local", until=until)
    start, artifacts = read_start(url), ArtifactStore(store)
    return plan_from(start.config, artifacts.load(start.index, DatasetIndex), start.index), artifacts


def _teacher(plan: Plan, store: ArtifactStore) -> Teacher:
    return next(store.load(ref, Teacher) for ref in plan.refs("pretrain") if ref.unit == TEACHER)


def _weak(config: DistillConfig, seed: int) -> DistillConfig:
    return override(config, {"pretrain.epochs": WEAK_EPOCHS, "seed": config.seed + seed})


def measure(bench: Bench, name: str, students: int) -> Line:
    """Return the line of an idea."""
    idea = IDEAS[name]
    classes, seconds = bench.images(idea)
    return {
        "benchmark": "trials",
        "recipe": RECIPE,
        "ipc": bench.config.ipc,
        "label_epochs": bench.config.relabel.epochs,
        "idea": name,
        "top1": bench.top1(classes, idea, students),
        "loop_s": round(seconds, 1),
        "unseen_loss": bench.unseen_loss(classes),
        "commit": output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "machine": machine(),
    }


def table(lines: list[Line]) -> str:
    """Return the last line of each idea, size and number of label epochs as a table in Markdown, sorted as `IDEAS`."""
    usual = recipe(RECIPE).relabel.epochs
    last = {(line["ipc"], line.get("label_epochs", usual), line["idea"]): line for line in lines}
    sizes = sorted({(ipc, epochs) for ipc, epochs, _ in last})
    rows = []
    for name, idea in IDEAS.items():
        of_sizes = [last.get((*size, name)) for size in sizes]
        if any(of_sizes):
            about = " ".join((idea.__doc__ or "").split()).rstrip(".")
            rows.append([about, *(cell for line in of_sizes for cell in _cells(line))])
    heads = [f"{ipc} per class" + (f", {epochs} epochs" if epochs != usual else "") for ipc, epochs in sizes]
    return markdown_table(["idea", *(f"{head}{of}" for head in heads for of in ("", ": unseen loss"))], rows)


def _cells(line: Line | None) -> tuple[str, str]:
    """Return the top-1 with its deviation, and the loss of the unseen network."""
    if line is None:
        return "", ""
    top1 = line["top1"]
    spread = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
    return f"{statistics.mean(top1):.1f}{spread}", f"{line['unseen_loss']:.2f}"


def with_table(page: str, lines: list[Line]) -> str:
    """Return a page whose table of trials is that of the lines."""
    return re.sub(f"{MARK}\n.*?{END}", lambda _: f"{MARK}\n{table(lines)}\n{END}", page, flags=re.DOTALL)


def _kept(out: Path) -> list[Line]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _names(only: str | None, count: int) -> list[str]:
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
        args.page.write_text(with_table(args.page.read_text(encoding="utf-8"), _kept(args.out)), encoding="utf-8")
        return 0
    config = override(recipe(RECIPE), {"data.path": args.data, "ipc": args.ipc, **CROPS})
    config = override(config, quick_options(config) if args.quick else {}).settled()
    try:
        names = _names(args.only, config.atoms)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
