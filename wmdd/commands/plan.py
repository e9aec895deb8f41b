"""Plan a run from Python or the command line: what it would compute, and what that costs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig
from wmdd.config.recipes import as_config
from wmdd.engine.cost import Cost, cost_of
from wmdd.engine.events import Listener
from wmdd.engine.plan import make_plan
from wmdd.engine.session import Session
from wmdd.engine.task import Plan
from wmdd.engine.until import check_until, cut
from wmdd.storage.store import ArtifactRef


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """What a run would compute.

    Args:
        plan: its tasks and units by stage, and the index of its images.
        missing: artifacts that are not in the store.
    """

    plan: Plan
    missing: frozenset[ArtifactRef]

    def __repr__(self) -> str:
        return f"PlannedRun({len(self.missing)} units to run; {'; '.join(self.cost.lines())})"

    @property
    def is_begun(self) -> bool:
        """Whether some of it is in the store."""
        return len(self.missing) < sum(len(self.plan.refs(stage)) for stage in self.plan.tasks)

    @functools.cached_property
    def cost(self) -> Cost:
        """What it costs to compute what is missing."""
        return cost_of(self.plan, self.missing)

    @functools.cached_property
    def whole_cost(self) -> Cost:
        """What it would cost if nothing was in the store."""
        return cost_of(self.plan, {ref for stage in self.plan.tasks for ref in self.plan.refs(stage)})


@names_arguments()
def plan(
    config: DistillConfig | str,
    *,
    run: str | None = None,
    store: str | None = None,
    listener: Listener | None = None,
    status: Callable[[int, int], None] | None = None,
    until: str | None = None,
) -> PlannedRun:
    """Index the data set and return what `distill` with the same arguments would compute; run nothing.

    Raises:
        ConfigError, DataError: as `distill` does before it runs anything.
    """
    check_until(until)
    config = as_config(config)
    artifacts = Session("distill", config, run, store, listener or (lambda event: None)).store
    planned = cut(make_plan(config, artifacts, status or (lambda done, total: None)), until)
    refs = [ref for stage in planned.tasks for ref in planned.refs(stage)]
    return PlannedRun(planned, frozenset(artifacts.absent(refs)))
