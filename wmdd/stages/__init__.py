"""The stages, by name."""

from wmdd.stages.barycenter import BARYCENTER
from wmdd.stages.base import Stage, Unit
from wmdd.stages.evaluate import EVALUATE
from wmdd.stages.pretrain import PRETRAIN
from wmdd.stages.recover import RECOVER
from wmdd.stages.relabel import RELABEL
from wmdd.stages.select import SELECT
from wmdd.stages.statistics import STATISTICS

STAGES = {stage.name: stage for stage in (PRETRAIN, STATISTICS, BARYCENTER, RECOVER, SELECT, RELABEL, EVALUATE)}

__all__ = ["STAGES", "Stage", "Unit"]
