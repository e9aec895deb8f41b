"""One trial: recovery, labels and students of one setting, at ever more of their cost. Knows no Ray."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuning.config import TuneConfig
from wmdd.config.distill import DistillConfig, override
from wmdd.config.fidelity import Fidelity
from wmdd.data.index import DatasetIndex
from wmdd.engine.events import Listener
from wmdd.engine.plan import plan_from
from wmdd.engine.run import Executor, load_value, run_plan, run_stage
from wmdd.engine.snapshots import ResumeNote
from wmdd.engine.task import Plan
from wmdd.errors import ArtifactError, StageError
from wmdd.runtime import Runtime
from wmdd.storage.store import ArtifactRef, ArtifactStore

SHARED_STAGES = ("pretrain", "statistics", "barycenter")
OWN_STAGES = ("recover", "relabel", "evaluate")


@dataclass(frozen=True)
class Objective:
    """What all trials of a search share; plain values, so that it can travel.

    Args:
        config: of `tuning.config.search_config`.
        index_ref: of the indexed set without its search split.
        gpu: whether a trial has a GPU, or a part of one.
    """

    config: DistillConfig
    tune: TuneConfig
    store_url: str
    index_ref: ArtifactRef
    gpu: bool

    def plan(self, values: dict[str, Any], level: int) -> Plan:
        """Plan a setting at one of the levels."""
        index = ArtifactStore(self.store_url).load(self.index_ref, DatasetIndex, keep=True)
        return plan_from(override(self.config, values), index, self.index_ref, Fidelity(*self.tune.levels[level]))

    def climb(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Run a setting from level to level; what the store holds costs nothing.

        Yields:
            for each level: ``level`` (from 1), ``score`` (mean top-1 of the students on the search split, in [0, 1]),
            ``spread`` (their standard deviation), ``cost_s`` (seconds of work up to here, whenever it was done), and
            ``failed``, a line, where the method cannot work with the setting: its score is 0.

        Raises:
            StageError: for what another try may mend.
            ArtifactError: if what the trials share is not there.
        """
        config = self.config.runtime if self.gpu else self.config.runtime.model_copy(update={"device": "cpu"})
        runtime = Runtime.create(config)
        store, cost, done = ArtifactStore(self.store_url), 0.0, set[ArtifactRef]()
        for level in range(len(self.tune.levels)):
            plan = self.plan(values, level)
            self._check_shared(plan, store)
            try:
                for task in (task for stage in OWN_STAGES for task in plan.tasks[stage]):
                    for _ in run_stage(task, store, runtime):
                        pass
            except StageError as exc:
                if exc.passing:
                    raise
                yield {"level": level + 1, "score": 0.0, "spread": 0.0, "cost_s": cost, "failed": str(exc)}
                return
            fresh = {ref for stage in OWN_STAGES for ref in plan.refs(stage)} - done
            cost, done = cost + seconds_of(fresh, store), done | fresh
            scores = [load_value(ref, store).top1_last for ref in plan.refs("evaluate")]
            score, spread = statistics.fmean(scores), statistics.stdev(scores)
            yield {"level": level + 1, "score": score, "spread": spread, "cost_s": cost, "failed": ""}

    def snapshots(self, values: dict[str, Any], level: int) -> list[ResumeNote]:
        """Return the snapshots that the recovery of a level left, from which only a higher level would go on."""
        store, tasks = ArtifactStore(self.store_url), self.plan(values, level).tasks["recover"]
        groups = ([unit.whole for unit in task.units if unit.whole] for task in tasks)
        return [ResumeNote(store, wholes, wholes) for wholes in groups if wholes]

    def _check_shared(self, plan: Plan, store: ArtifactStore) -> None:
        absent = store.absent(ref for stage in SHARED_STAGES for ref in plan.refs(stage))
        if absent:
            first = min(absent, key=lambda ref: (SHARED_STAGES.index(ref.stage), ref.unit))
            raise ArtifactError(
                f"{first.stage} of {first.unit} is missing, which all trials share; start the search again"
            )


def prepare(plan: Plan, store: ArtifactStore, executor: Executor, listener: Listener) -> None:
    """Compute what all trials share, unless the store holds it."""
    run_plan(replace(plan, tasks={stage: plan.tasks[stage] for stage in SHARED_STAGES}), store, executor, listener)


def seconds_of(refs: Sequence[ArtifactRef] | set[ArtifactRef], store: ArtifactStore) -> float:
    """Add up the seconds that artifacts took to make."""
    return sum(float((commit or {}).get("seconds") or 0.0) for commit in store.commits(refs).values())
