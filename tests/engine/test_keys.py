"""What an option changes: the keys of the stage that reads it and of what follows from it, and no others.

Keys and the protocol's hash leave out values at their default. Who changes a default raises the version of each stage
that reads it and writes the table of defaults again (`PYTHONPATH=tests python tests/engine/test_keys.py`); who adds an
option adds a line to the table.
"""

import json
import typing
from collections import defaultdict
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import pytest

from wmdd.config.distill import override, section_names
from wmdd.config.recipes import recipe
from wmdd.config.recovery import RecoverConfig
from wmdd.data.geometry import Geometry
from wmdd.engine.plan import make_plan
from wmdd.engine.run_names import contrast
from wmdd.stages import STAGES as DEFINED
from wmdd.stages.planning import UNKEYED, params_for_key
from wmdd.storage.store import ArtifactStore

DEFAULTS = Path(__file__).with_name("defaults.json")
STAGES = ("pretrain", "statistics", "barycenter", "recover", "select", "relabel", "evaluate")
TEACHER = STAGES  # the easiest real images are selected by its features
IMAGES = ("recover", "relabel", "evaluate")
STUDENTS = ("evaluate",)
BASELINES = ("select", "relabel", "evaluate")  # real images of each student's seed, and their labels
NOTHING = ()

BY_SECTION = {
    "data": STAGES,
    "pretrain": TEACHER,
    "statistics": TEACHER[1:],
    "barycenter": ("barycenter", *IMAGES),
    "recover": IMAGES,
    "relabel": ("relabel", "evaluate"),
    "evaluate": STUDENTS,
    "runtime": NOTHING,
    "ray": NOTHING,
}
BY_OPTION = {
    "data.download": NOTHING,
    "ipc": STAGES[2:],  # of random images too
    "recover.tiles": ("barycenter", *IMAGES),  # an atom for each
    "evaluate.students": ("pretrain", "evaluate"),  # another network is trained on all data too
    "evaluate.num_students": BASELINES,
    "evaluate.baselines": BASELINES,
    "evaluate.worth": BASELINES,
    "relabel.teachers": ("pretrain", "relabel", "evaluate"),  # one more network, and its labels
    "evaluate.labels": ("relabel", "evaluate"),  # hard ones need no teacher's
    "evaluate.full_data": NOTHING,  # the only student is the teacher's own network
    "evaluate.val_batch_size": NOTHING,
    "evaluate.workers": NOTHING,  # but for rounding
    "runtime.precision": TEACHER,  # by the numbers that it gives
}
# Where no other value follows from the option's kind.
VALUES = {
    "data.path": None,  # the signature of the files is the key: see the tests of images
    "data.subset": None,  # of ImageNet-1K alone
    "data.classes": ("0", "1", "2"),
    "pretrain.model": "convnet2_w8",
    "pretrain.checkpoint": None,  # a file: see the tests of outside teachers
    "pretrain.crop_scale": (0.5, 1.0),
    "data.bits": 12,
    "data.per_class": 20,
    "pretrain.lr_min": 0.001,
    "pretrain.norm_weight_decay": 0.5,
    "pretrain.bias_weight_decay": 0.5,
    "pretrain.sync_bn": None,  # needs several workers
    "recover.betas": (0.5, 0.8),
    "recover.crop_scale": (0.5, 1.0),
    "recover.curriculum": "cosine",
    "statistics.crop_scale": (0.5, 1.0),
    "relabel.crop_scale": (0.5, 1.0),
    "evaluate.baselines": ("nearest", "easiest"),
    "evaluate.worth": (2, 3),
    "relabel.teachers": ("convnet2_w8",),
    "evaluate.students": ("convnet2_w8",),
    "evaluate.cosine_stretch": 2.0,
    "evaluate.rates": ("convnet2_w16=0.001",),
    "ray.address": "auto",
}
# The other options that an option needs.
BESIDE = {
    "recover.transport_sample": {"recover.feature_loss": "transport"},
    "relabel.micro_batch": {"relabel.bn_mode": "batch"},
    "evaluate.augment": {"evaluate.labels": "hard"},
    "evaluate.muon_lr": {"evaluate.optimizer": "muon"},
    "evaluate.student_temperature_lr": {"evaluate.student_temperature": "fitted"},
    "evaluate.temperature_every": {"evaluate.temperature_decay": 0.5},
    "evaluate.temperature_floor": {"evaluate.temperature_decay": 0.5},
    "pretrain.decode": {"runtime.device": "cuda"},
    "pretrain.augment_strength": {"pretrain.augment": "randaugment"},
    "pretrain.ema_every": {"pretrain.ema": 0.5},
    "pretrain.lr_gamma": {"pretrain.schedule": "steps"},
    "pretrain.lr_step_epochs": {"pretrain.schedule": "steps"},
}
BASE = override(
    recipe("digits"),
    {"pretrain.model": "convnet2_w16", "evaluate.students": ("convnet2_w16",), "ipc": 2},
)
OPTIONS = [
    f"{section}.{name}"
    for section in section_names()
    for name in type(getattr(BASE, section)).model_fields
    if VALUES.get(f"{section}.{name}", "") is not None
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(str(tmp_path_factory.mktemp("store")))


def keys(config, store):
    plan, found = make_plan(config, store), defaultdict(set)
    for stage in plan.tasks:
        found[stage] = {(unit.ref.unit, unit.ref.key) for unit in plan.units(stage)}
    return found


def another(option):
    if option in VALUES:
        return VALUES[option]
    section, name = option.split(".")
    value, kind = getattr(getattr(BASE, section), name), type(getattr(BASE, section)).model_fields[name].annotation
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 or 0.5


@pytest.mark.parametrize("option", OPTIONS)
def test_option_changes_its_stage_and_what_follows(option, store):
    base = override(BASE, BESIDE.get(option, {}))
    before, after = keys(base, store), keys(override(base, {option: another(option)}), store)
    changed = tuple(stage for stage in STAGES if before[stage] != after[stage])
    assert changed == BY_OPTION.get(option, BY_SECTION[option.split(".")[0]])


@pytest.mark.parametrize(("ipc", "tiles"), [(1, 2), (2, 1)])
def test_tiles_that_follow_from_the_images_per_class_have_the_keys_of_their_number(ipc, tiles, store):
    follows, given = (override(BASE, {"ipc": ipc, "recover.tiles": value}) for value in (0, tiles))
    assert keys(follows, store) == keys(given, store)
    assert contrast(follows, given) == ""


def defaults():
    """Every default that keys leave out, by stage with its version, and those that the protocol's hash leaves out."""
    table = {"protocol": {name: getattr(BASE, name).defaults("protocol") for name in ("relabel", "evaluate")}}
    for stage in DEFINED.values():
        optional = [item for item in fields(stage.params) if item.default is not MISSING]
        params = {item.name: item.default for item in optional if item.metadata != UNKEYED}
        section = stage.section_of(BASE).defaults("keyed")
        table[stage.name] = {"version": stage.version, "section": section, "params": params}
    return json.loads(json.dumps(table))


def test_defaults_left_out_of_keys_are_in_the_table():
    kept = json.loads(DEFAULTS.read_text())
    assert defaults() == kept, f"raise the version of the stages that read it, and write {DEFAULTS.name} again"


def test_new_option_leaves_keys_as_they_were():
    class Longer(RecoverConfig):
        prior: float = 0.0

    changes = {"lr": 0.1, "tv_weight": 1.0}
    assert Longer(**changes).for_key() == RecoverConfig(**changes).for_key() == changes
    assert Longer(**changes, prior=2.0).for_key() == {**changes, "prior": 2.0}


def test_new_param_leaves_keys_as_they_were():
    @dataclass(frozen=True)
    class Params:
        class_id: int
        geometry: Geometry
        steps: int | None = None
        path: str = field(default="", metadata=UNKEYED)

    shown = Geometry(8, 1.0, "half")
    kept = {"class_id": 0, "geometry": {"image_size": 8, "crop_ratio": 1.0, "normalization": "half"}}
    assert params_for_key(Params(0, shown)) == params_for_key(Params(0, shown, path="x")) == kept
    assert params_for_key(Params(0, shown, steps=3)) == kept | {"steps": 3}


if __name__ == "__main__":
    DEFAULTS.write_text(json.dumps(defaults(), indent=1) + "\n")
