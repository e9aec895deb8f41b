"""Several networks label together: whose logits are the mean, and what is trained for it."""

import pytest
import torch
from builders import CPU

from wmdd.commands.rank import trials
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.students import RelabelConfig
from wmdd.data.scan import build_index
from wmdd.engine.plan import plan_from
from wmdd.engine.preflight import check, check_weights
from wmdd.errors import ConfigError
from wmdd.method.artifacts import DistilledClass
from wmdd.method.soft_labels import SoftLabels
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.plans.relabel import RELABEL, Params
from wmdd.storage.store import ArtifactRef

NAMES = ("convnet1_w8", "convnet2_w8", "convnet1_w16")


@pytest.fixture(scope="module")
def planned():
    index = build_index("builtin:digits")
    base = {
        "pretrain.model": "convnet2_w16",
        "evaluate.students": ("convnet2_w16", "convnet2_w8"),
        "relabel.epochs": 50,
    }

    def make(**changes):
        config = override(recipe("digits"), base | changes)
        check(config, index)
        return plan_from(config, index, ArtifactRef("index", "index", "i"))

    return make


def network(name, seed):
    with SeedTree(seed).scoped():
        built = build_model(name, 3, 16)
    return Teacher(name, "auto", dict(built.state_dict()), tuple("abc"), 0.5, 16, 1.0, "half")


def labels(teacher, others, bn):
    pixels = torch.randint(0, 256, (3, 2, 3, 16, 16), generator=SeedTree(0).torch(), dtype=torch.uint8)
    given = {
        "teacher": teacher,
        "others": others,
        "classes": [DistilledClass(i, pixels[i], torch.full((2,), 0.5), class_name="abc"[i]) for i in range(3)],
    }
    section = RelabelConfig(epochs=2, batch_size=4, bn_mode=bn, teachers=tuple(other.model for other in others))
    unit = Unit("block", Params("distilled", 0, 2), given.__getitem__)
    (block,) = [news.value for news in RELABEL.run(section, [unit], SeedTree(5), CPU) if isinstance(news, Output)]
    read = SoftLabels([block])
    return [batch for epoch in range(2) for batch in read.epoch(epoch)]


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_labels_are_the_mean_logits_on_the_same_views(bn):
    members = [network(name, seed) for seed, name in enumerate(NAMES)]
    together = labels(members[0], members[1:], bn)
    alone = [labels(member, [], bn) for member in members]
    for place, batch in enumerate(together):
        voices = torch.stack([own[place].logits.float() for own in alone])
        assert voices.std(dim=0).max() > 0.01, "the case tells nothing"
        torch.testing.assert_close(batch.logits.float(), voices.mean(dim=0), rtol=2e-3, atol=2e-3)
        assert all(torch.equal(batch.images, own[place].images) for own in alone)
        assert all(torch.equal(batch.views.box, own[place].views.box) for own in alone)


def test_networks_that_label_are_left_as_they_were():
    members = [network(name, seed) for seed, name in enumerate(NAMES)]
    before = [{key: value.clone() for key, value in member.network.state_dict().items()} for member in members]
    labels(members[0], members[1:], "batch")
    for member, state in zip(members, before, strict=True):
        kept = {key: value for key, value in member.network.state_dict().items() if "num_batches" not in key}
        assert all(torch.equal(value, state[key]) for key, value in kept.items())
        assert not member.network.training


def test_ensemble_student_is_trained_once(planned):
    plain, committee = planned(), planned(**{"relabel.teachers": ("convnet2_w8", "convnet1_w8")})
    for stage in ("statistics", "barycenter", "recover", "select"):
        assert plain.refs(stage) == committee.refs(stage)
    assert not set(plain.refs("relabel")) & set(committee.refs("relabel"))
    trained = [unit.ref.unit for unit in committee.units("pretrain")]
    assert trained == ["teacher", "full-convnet2_w8", "full-convnet1_w8"]
    assert set(plain.refs("pretrain")) < set(committee.refs("pretrain"))
    for unit in committee.units("relabel"):
        assert [ref.unit for ref in unit.inputs["others"]] == ["full-convnet2_w8", "full-convnet1_w8"]
    assert all("others" not in unit.inputs for unit in plain.units("relabel"))


def test_published_teachers_label_with_published_ones(planned):
    index = build_index("builtin:digits")
    config = override(recipe("imagenet-1k"), {"data.path": "x", "relabel.teachers": ("mobilenet_v2",)})
    made = plan_from(config, index, ArtifactRef("index", "index", "i"))
    assert [(unit.ref.unit, unit.params.weights) for unit in made.units("pretrain")] == [
        ("teacher", "default"), ("teacher-mobilenet_v2", "default")
    ]  # fmt: skip


def test_published_network_of_other_pixels_is_refused(planned):
    config = override(recipe("imagenet-1k"), {"data.path": "x", "relabel.teachers": ("timm/resnetv2_50x1_bit",)})
    with pytest.raises(ConfigError, match=r"teachers=timm/resnetv2_50x1_bit: its published weights do not fit"):
        check_weights(config, 1000, fetch=False)


def test_hard_labels_take_no_committee(planned):
    with pytest.raises(ConfigError, match=r"relabel\.teachers=convnet1_w8: nobody labels with evaluate\.labels=hard"):
        planned(**{"evaluate.labels": "hard", "relabel.mix": "none", "relabel.teachers": ("convnet1_w8",)})
    ranked = trials(override(recipe("digits"), {"relabel.teachers": ("convnet1_w8",)}), [0.01])
    assert ranked["made_hard"][0.01].relabel.teachers == ()
    assert ranked["random_soft"][0.01].relabel.teachers == ("convnet1_w8",)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("convnet2_w16",), r"relabel\.teachers=convnet2_w16: is pretrain\.model"),
        (("convnet1_w8", "convnet1_w8"), "names convnet1_w8 twice"),
        (("nosuch",), r"relabel\.teachers=nosuch"),
    ],
)
def test_committee_that_cannot_label_is_refused(planned, names, told):
    with pytest.raises(ConfigError, match=told):
        planned(**{"relabel.teachers": names})
