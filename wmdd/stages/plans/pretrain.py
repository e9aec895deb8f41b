"""The units of stage "pretrain": networks that are trained on the real set, or loaded and measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from wmdd.config.base import Stem
from wmdd.config.students import RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.models.names import is_file
from wmdd.stages.base import Groups, PlannedUnit, Stage
from wmdd.stages.planning import UNKEYED, Planner
from wmdd.storage.folder import absolute_url

TEACHER, BESIDE = "teacher", "teacher-"


@dataclass(frozen=True)
class Params:
    """Of a network; `weights` is the file, or the name of published ones, to load, and None if it is trained."""

    model: str
    stem: Stem
    geometry: Geometry
    weights: str | None = field(default=None, metadata=UNKEYED)  # a file's digest is in the key, not its path


def plan(planner: Planner) -> Groups:
    """Plan the teacher, the networks that label together with it, and the students that are trained on all data."""
    config = planner.config
    units = [_unit(planner, TEACHER, config.pretrain.model, config.pretrain.checkpoint)]
    if config.evaluate.labels != "hard":
        units += [_ensemble_unit(planner, name) for name in config.relabel.teachers]
    if config.evaluate.full_data:
        students = [name for name in dict.fromkeys(config.evaluate.students) if name != config.pretrain.model]
        units += [_unit(planner, f"full-{name}", name, None) for name in students]
    return [[unit] for unit in {unit.ref: unit for unit in units}.values()]


def _unit(planner: Planner, name: str, model: str, weights: str | None) -> PlannedUnit:
    config, index = planner.config, planner.index
    labels = name == TEACHER or name.startswith(BESIDE)
    stem = config.pretrain.stem if labels else config.evaluate.stem
    identity = {"index": f"{index.digest('train')}-{index.digest('val')}"}
    if weights and is_file(weights):
        weights = absolute_url(weights)
        identity["weights"] = str(planner.weights)
    elif weights:
        identity["weights"] = weights
    params = Params(model, stem, planner.geometry, weights)
    return planner.unit(PRETRAIN, name, params, {"index": planner.index_ref}, identity=identity)


def _ensemble_unit(planner: Planner, name: str) -> PlannedUnit:
    """Return a network that labels together with the teacher: published if the teacher is, else trained as it is."""
    weights = planner.config.pretrain.checkpoint
    published = "default" if weights and not is_file(weights) else None
    # Trained on all data in the same way, a student may be this network.
    shared = published is None and planner.config.pretrain.stem == planner.config.evaluate.stem
    return _unit(planner, f"full-{name}" if shared else f"{BESIDE}{name}", name, published)


def ensemble_of(section: RelabelConfig, planned: list[PlannedUnit]) -> list[PlannedUnit]:
    """Find the planned networks that label together with the teacher."""
    units = {unit.ref.unit: unit for unit in planned}
    return [units.get(f"{BESIDE}{name}") or units[f"full-{name}"] for name in section.teachers]


PRETRAIN = Stage(
    "pretrain",
    1,
    "pretrain",
    "wmdd.models.teacher:Teacher",
    Params,
    plan,
    "wmdd.stages.pretrain:pretrain",
    snapshots=True,
)
