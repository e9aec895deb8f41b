"""Step: what the driver of a large run needs before anything runs: the plan, and the board of its tasks.

The set is made up: its index names images that do not exist, which planning never reads. Most units are drawn images
of the classes, of which a run with many students has most. The plain loop hashes as many keys of the same parts, which
any plan by content must do.
"""

from __future__ import annotations

import gc
import json
import math
import time

import numpy as np
import psutil

from benchmarks.steps import Record, Setting
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.index import DatasetIndex, Split
from wmdd.engine.board import Board
from wmdd.engine.plan import plan_from
from wmdd.engine.task import Plan, StageTask
from wmdd.keys import content_key
from wmdd.storage.store import ArtifactRef

CLASSES, PER_CLASS = 10_000, 128


def index_of(classes: int, per_class: int, validation: int) -> DatasetIndex:
    """Return the index of a set that does not exist, of images of 256 px.

    Args:
        validation: number of validation images, of all classes together.
    """

    def split(count: int) -> Split:
        label = np.repeat(np.arange(classes, dtype=np.int32), count // classes)
        zero, size = np.zeros(len(label), np.int32), np.full(len(label), 256, np.int32)
        row, digest = zero.astype(np.int64), zero.astype(np.uint64)
        return Split(("none",), zero, row, label, size, size, digest, np.ones(len(label), np.int8), *[zero] * 5)

    names = tuple(f"class {number}" for number in range(classes))
    return DatasetIndex("none", "folder", names, split(classes * per_class), split(validation), val_held_out=False)


def run(setting: Setting, record: Record, units: int) -> None:
    """Plan about `units` units of 10,000 classes, and take every task from the board, in this process."""
    classes = 100 if setting.toy else CLASSES
    units = 1000 if setting.toy else units
    index, memory = index_of(classes, PER_CLASS, classes), psutil.Process().memory_info
    # Three units for each class, besides one for each draw.
    draws = max(1, units // classes - 3)
    gc.collect()
    before, begun = memory().rss, time.process_time()
    plan = _plan(index, draws)
    planned = time.process_time()
    taken = _take_all([task for tasks in plan.tasks.values() for task in tasks])
    ended, grew_mib = time.process_time(), (memory().rss - before) / 2**20
    count = sum(len(plan.units(stage)) for stage in plan.tasks)
    plain_s = _plain(plan, count)
    figures = {"plan_s": planned - begun, "board_s": ended - planned, "plain_hashes_s": plain_s}
    ways = {name: round(seconds, 3) for name, seconds in figures.items()}
    record(
        units=count,
        classes=classes,
        tasks=taken,
        driver_grew_mib=round(grew_mib, 1),
        ways=ways,
        ratio=round((ended - begun) / plain_s, 2),
        result=f"{count:,} units of {classes:,} classes: planned in {planned - begun:.1f} s, {taken:,} tasks taken in "
        f"{ended - planned:.1f} s, {grew_mib:.0f} MiB; hashing as many keys alone takes {plain_s:.1f} s",
    )


def _plan(index: DatasetIndex, draws: int) -> Plan:
    changes = {"evaluate.num_students": draws, "relabel.epochs_per_block": 100}
    return plan_from(override(recipe("imagenet-1k"), changes), index, ArtifactRef("index", "index", "i"))


def _take_all(tasks: list[StageTask]) -> int:
    """Take and finish every task, and return their number."""
    board, count = Board(tasks, {unit.ref for task in tasks for unit in task.units}), 0
    while len(board):
        task = board.take()
        assert task is not None
        board.finish(task)
        count += 1
    return count


def _plain(plan: Plan, count: int) -> float:
    unit = plan.units("select")[0]
    parts = {"stage": "select", "unit": unit.ref.unit, "params": vars(unit.params) | {"geometry": {}}, "inputs": {}}
    parts = json.loads(json.dumps(parts))
    begun = time.process_time()
    keys = {content_key(parts | {"number": number}) for number in range(count)}
    assert len(keys) == count
    return math.fsum((time.process_time(), -begun))
