"""The units of stage "statistics": features and batch-norm moments of each class's real images."""

from __future__ import annotations

from wmdd.stages.base import Groups, Inputs, Stage
from wmdd.stages.planning import ClassParams, Planner


def plan(planner: Planner) -> Groups:
    """Plan a unit for each class, unless all images are random real ones."""
    if not planner.uses("statistics"):
        return []
    inputs: Inputs = {"teacher": planner.teacher}
    class_ids = range(len(planner.index.class_names))
    return [[planner.class_unit(STATISTICS, class_id, ClassParams(class_id), inputs)] for class_id in class_ids]


STATISTICS = Stage(
    "statistics",
    1,
    "statistics",
    "wmdd.method.artifacts:ClassStatistics",
    ClassParams,
    plan,
    "wmdd.stages.statistics:statistics",
)
