"""The units of stage "evaluate": students, each of one seed on one image set."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from wmdd.config.distill import DistillConfig
from wmdd.config.protocol_hash import protocol_hash
from wmdd.config.students import RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.errors import ConfigError
from wmdd.method.batch_sizes import batch_sizes
from wmdd.stages.base import Groups, Inputs, Stage
from wmdd.stages.planning import UNKEYED, Planner
from wmdd.stages.plans.pretrain import ensemble_of


@dataclass(frozen=True)
class Params:
    """Of a student.

    Args:
        images: name of the set of images that it is trained on.
        class_ids: of the validation images that it is scored on, if not all are.
        views: that fixed and hard labels are trained on.
    """

    student: str
    seed: int
    images: str
    geometry: Geometry
    protocol: str
    protocol_hash: str
    class_ids: tuple[int, ...] = ()
    views: RelabelConfig | None = field(default=None, metadata=UNKEYED)  # in the key by the protocol's hash


def plan(planner: Planner) -> Groups:
    """Plan each student on each set of images: with one seed on each random draw, with every seed on other sets."""
    units, identity = [], {"index": planner.index.digest("val")}
    labels, class_ids = planner.config.evaluate.labels, planner.class_ids
    networks = _networks(planner)
    for images, planned in planner.image_sets.items():
        relabel = planner.relabel(planned)
        config = planner.config.model_copy(update={"relabel": relabel})
        _check_parts(config, len(planned))
        inputs: Inputs = {"classes": tuple(planned.refs), "index": planner.index_ref, **networks}
        if labels == "soft":
            inputs["labels"] = tuple(block.ref for block in planner.units("relabel") if block.params.images == images)
        seeds = list(range(config.evaluate.num_students)) if planned.draw is None else [planned.draw]
        for student, seed in itertools.product(dict.fromkeys(config.evaluate.students), seeds):
            params = Params(
                student=student,
                seed=seed,
                images=images,
                geometry=planner.geometry,
                protocol=config.evaluate.protocol,
                protocol_hash=protocol_hash(config, student),
                class_ids=tuple(class_ids) if len(class_ids) < len(planner.index.class_names) else (),
                views=None if labels == "soft" else relabel.drawn(labels),
            )
            name, section = f"{images}-{student.replace('/', '_')}-seed-{seed}", config.evaluate.of(student)
            units.append(planner.unit(EVALUATE, name, params, inputs, section=section, identity=identity))
    return [[unit] for unit in units]


def _networks(planner: Planner) -> Inputs:
    """Return the networks that label images while a student is trained; none unless labels are fixed."""
    if planner.config.evaluate.labels != "fixed":
        return {}
    ensemble = tuple(unit.ref for unit in ensemble_of(planner.config.relabel, planner.units("pretrain")))
    return {"teacher": planner.teacher, **({"others": ensemble} if ensemble else {})}


def _check_parts(config: DistillConfig, num_images: int) -> None:
    """Raise ConfigError if a step of the students has fewer images than workers."""
    workers, section = config.evaluate.workers, config.relabel
    if workers == 1:
        return
    from wmdd.training.trainer import part_rows  # torch takes a second to import

    sizes = set(batch_sizes(section, num_images))
    part = min(len(rows) for size in sizes for rows in part_rows(size, config.evaluate.accumulate))
    if workers > part:
        raise ConfigError(
            f"evaluate.workers={workers}: gradients of {part} images are summed up in one of an epoch's steps, fewer "
            "than one for each worker; lower evaluate.workers"
        )


EVALUATE = Stage(
    "evaluate",
    2,
    "evaluate",
    "wmdd.stages.evaluate:StudentResult",
    Params,
    plan,
    "wmdd.stages.evaluate:evaluate",
    snapshots=True,
)
