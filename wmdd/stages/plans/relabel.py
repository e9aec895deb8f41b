"""The units of stage "relabel": the labels of an image set, a block of epochs each."""

from __future__ import annotations

from dataclasses import dataclass

from wmdd.stages.base import Groups, Inputs, Stage
from wmdd.stages.planning import Planner
from wmdd.stages.plans.pretrain import ensemble_of


@dataclass(frozen=True)
class Params:
    """Of a block of epochs.

    Args:
        images: name of the set of images.
        batch_size: in place of the section's; 0 for that.
    """

    images: str
    first_epoch: int
    epochs: int
    batch_size: int = 0


def plan(planner: Planner) -> Groups:
    """Plan the blocks of each set of images; none for labels that are not stored."""
    section, units = planner.config.relabel, []
    if planner.config.evaluate.labels != "soft":
        return []
    ensemble = tuple(unit.ref for unit in ensemble_of(section, planner.units("pretrain")))
    for images, planned in planner.image_sets.items():
        inputs: Inputs = {"teacher": planner.teacher, "classes": tuple(planned.refs)}
        inputs |= {"others": ensemble} if ensemble else {}
        own = planner.relabel(planned)
        batch = own.batch_size if own.batch_size != section.batch_size else 0
        for first in range(0, own.epochs, section.epochs_per_block):
            params = Params(images, first, min(section.epochs_per_block, own.epochs - first), batch)
            units.append(planner.unit(RELABEL, f"{images}-epochs-{first:04d}", params, inputs))
    return [[unit] for unit in units]


RELABEL = Stage(
    "relabel",
    3,
    "relabel",
    "wmdd.method.soft_labels:LabelBlock",
    Params,
    plan,
    "wmdd.stages.relabel:relabel",
)
