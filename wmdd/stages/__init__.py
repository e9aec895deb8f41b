"""The stages, by name."""

from wmdd.stages.base import Stage, Unit
from wmdd.stages.plans.barycenter import BARYCENTER
from wmdd.stages.plans.evaluate import EVALUATE
from wmdd.stages.plans.pretrain import PRETRAIN
from wmdd.stages.plans.recover import RECOVER
from wmdd.stages.plans.relabel import RELABEL
from wmdd.stages.plans.select import SELECT
from wmdd.stages.plans.statistics import STATISTICS

STAGES = {stage.name: stage for stage in (PRETRAIN, STATISTICS, BARYCENTER, RECOVER, SELECT, RELABEL, EVALUATE)}

__all__ = ["STAGES", "Stage", "Unit"]
