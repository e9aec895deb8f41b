"""Stage "barycenter": a class's features become ipc atoms."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wmdd.config.recovery import BarycenterConfig
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.barycenter import free_support_barycenter
from wmdd.outputs import Output
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.plans.barycenter import Params


def barycenter(
    section: BarycenterConfig, units: list[Unit[Params]], seeds: SeedTree, _runtime: Runtime
) -> Iterator[Yielded]:
    """Solve each unit's class: input ``statistics``."""
    for unit in units:
        statistics: ClassStatistics = unit.load("statistics")
        result = free_support_barycenter(
            statistics.features.numpy(),
            unit.params.ipc,
            mass=section.mass,
            rng=seeds.child("barycenter", statistics.class_id).numpy(),
            init=section.init,
            max_iterations=section.max_iterations,
            tolerance=section.tolerance,
        )
        norms = statistics.features.norm(dim=1).quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]))
        value = Barycenter(
            class_id=statistics.class_id,
            support=torch.from_numpy(result.support),
            mass=torch.from_numpy(result.mass).float(),
            nearest=torch.from_numpy(result.nearest),
            objective=result.objective,
            converged=result.converged,
            norms=tuple(norms.tolist()),
            class_name=statistics.class_name,
        )
        yield Output(unit.name, value)
