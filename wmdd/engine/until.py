"""Runs that end before their last stage, such as after the images, without students."""

from __future__ import annotations

from dataclasses import replace

from wmdd.config.distill import STAGE_NAMES
from wmdd.engine.task import Plan, StageTask
from wmdd.errors import ConfigError
from wmdd.stages import STAGES
from wmdd.stages.plans.pretrain import TEACHER
from wmdd.storage.store import ArtifactStore

assert tuple(STAGES) == STAGE_NAMES


def check_until(until: str | None) -> None:
    """Raise ConfigError, which lists the stages, for a name that is none."""
    if until is not None and until not in STAGE_NAMES:
        raise ConfigError(f"--until {until}: there is no such stage; choose from {', '.join(STAGE_NAMES)}")


def cut(plan: Plan, until: str | None) -> Plan:
    """Return a plan as far as a stage, without the networks that only later stages need.

    A stage that the run does not have is refused, such as the recovery of herding.
    """
    check_until(until)
    stages = [stage for stage, tasks in plan.tasks.items() if tasks]
    if until is None or until == stages[-1]:
        return plan
    if until not in stages:
        raise ConfigError(
            f"--until {until}: is no stage of this run (method {plan.config.method}); choose from {', '.join(stages)}"
        )
    kept = stages[: stages.index(until) + 1]
    tasks: dict[str, tuple[StageTask, ...]] = {stage: plan.tasks[stage] if stage in kept else () for stage in STAGES}
    needed = {ref for stage in kept for task in tasks[stage] for ref in task.inputs}
    tasks["pretrain"] = tuple(
        task for task in tasks["pretrain"] if any(unit.ref.unit == TEACHER or unit.ref in needed for unit in task.units)
    )
    if until != "barycenter":
        tasks["barycenter"] = tuple(
            task for task in tasks["barycenter"] if any(unit.ref in needed for unit in task.units)
        )
    return replace(plan, tasks=tasks, until=until)


def cut_or_further(plan: Plan, until: str | None, store: ArtifactStore) -> Plan:
    """Return a plan as far as a stage, or further if what comes next is in the store already.

    So the folder of a finished run keeps its students when its images are asked for again.
    """
    asked = cut(plan, until)
    later = [stage for stage in plan.tasks if plan.tasks[stage] and not asked.tasks[stage]]
    for stage in reversed(later):
        further = cut(plan, stage)
        if not store.absent(ref for name in further.tasks for ref in further.refs(name)):
            return further
    return asked
