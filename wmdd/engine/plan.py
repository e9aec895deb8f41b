"""Plan a run: walk the stages in order, each of which names its units, before anything runs."""

from __future__ import annotations

from collections.abc import Callable

from wmdd.config.distill import DistillConfig, override
from wmdd.config.fidelity import WHOLE, Fidelity
from wmdd.data.index import DatasetIndex
from wmdd.data.load_index import load_index
from wmdd.engine.preflight import check, check_weights
from wmdd.engine.task import Plan, StageTask
from wmdd.keys import content_digest
from wmdd.models.names import is_file
from wmdd.stages import STAGES
from wmdd.stages.base import PlannedUnit, Stage
from wmdd.stages.planning import Planner
from wmdd.storage.store import ArtifactRef, ArtifactStore


def make_plan(
    config: DistillConfig, store: ArtifactStore, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Plan:
    """Index the data (once per set), check that the run can work, and name every unit.

    Raises:
        ConfigError, DataError: one line, before anything runs.
    """
    # A store with a teacher may hold this run's, whose weights need not be fetched again.
    is_new = not store.folder.entries("pretrain")
    index, ref = load_index(
        config, store, on_progress, lambda num_classes: check_weights(config, num_classes, fetch=is_new)
    )
    plan = plan_from(config, index, ref)
    if absent := store.absent(ref for stage in plan.tasks for ref in plan.refs(stage)):
        check(plan.config, index)
        if absent & set(plan.refs("pretrain")):
            check_weights(config, len(index.class_names))
        store.check_writable()
    return plan


def _fitting(config: DistillConfig, index: DatasetIndex) -> DistillConfig:
    """Return it with whole images if tiles follow from other options, and a class has too few images to start from."""
    if config.recover.tiles or config.atoms <= index.smallest_class:
        return config
    return override(config, {"recover.tiles": 1})


def plan_from(
    config: DistillConfig, index: DatasetIndex, ref: ArtifactRef, level: Fidelity = WHOLE, weights: str | None = None
) -> Plan:
    """Name every unit of a run over an indexed set.

    Args:
        level: how much of the run is done; its recovery goes on from the snapshot of a lower level that was run.
        weights: digest of the teacher's file, if it is known already: the file may be gone.
    """
    config = _fitting(level.apply(config), index)
    source = config.pretrain.checkpoint
    digest = weights or (_digest(source) if source and is_file(source) else None)
    planner = Planner(config, index, ref, level, digest)
    tasks = {}
    for name, stage in STAGES.items():
        planner.planned[name] = stage.plan(planner)
        tasks[name] = tuple(_task(stage, group, config) for group in planner.planned[name])
    return Plan(config, index, ref, tasks, digest)


def _digest(file: str) -> str:
    from wmdd.models.weight_files import read_bytes  # imports torch

    return content_digest(read_bytes(file))


def _task(stage: Stage, group: list[PlannedUnit], config: DistillConfig) -> StageTask:
    name = group[0].ref.unit + (f"..{group[-1].ref.unit}" if len(group) > 1 else "")
    return StageTask(stage.name, name, stage.section_of(config).model_dump(mode="json"), config.seed, tuple(group))
