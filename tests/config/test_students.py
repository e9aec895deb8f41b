"""Options of students: learning rates of single ones among several."""

import pytest

from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import recipe
from wmdd.config.students import EvaluateConfig
from wmdd.engine.plan import make_plan
from wmdd.errors import ConfigError
from wmdd.storage.store import ArtifactStore


def test_score_of_one_of_several_is_found_alone(tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    several = {"evaluate.students": ("convnet2", "vgg11_bn"), "evaluate.rates": ("vgg11_bn=0.002:2",)}
    base = override(recipe("digits"), {"data.image_size": 32})
    together = make_plan(override(base, several), store)
    lone = {"evaluate.students": ("vgg11_bn",), "evaluate.lr": 0.002, "evaluate.cosine_stretch": 2.0}
    alone = make_plan(override(base, lone), store)
    assert set(alone.refs("evaluate")) < set(together.refs("evaluate"))
    sections = {
        student: EvaluateConfig(**task.section).of(student)
        for task in together.tasks["evaluate"]
        for student in [task.units[0].params.student]
    }
    assert {name: (section.lr, section.cosine_stretch) for name, section in sections.items()} == {
        "convnet2": (0.005, 1.0),
        "vgg11_bn": (0.002, 2.0),
    }


def test_rate_that_means_nothing_is_refused(subtests):
    cases = [
        ("resnet18", "write NAME=LR"),
        ("resnet18=fast", "write NAME=LR"),
        ("resnet18=0", "write NAME=LR"),
        ("resnet18=0.1:0.5", "write NAME=LR"),
        ("resnet18=0.1:2:3", "write NAME=LR"),
        ("=0.1", "write NAME=LR"),
        ("vgg11=0.1", "vgg11 is none of evaluate.students=resnet18; leave it out"),
    ]
    for rate, message in cases:
        with subtests.test(rate=rate), pytest.raises(ConfigError, match=rf"evaluate\.rates=.*{message}"):
            override(DistillConfig(), {"evaluate.rates": (rate,)})


def test_rate_may_leave_the_stretch_as_it_is():
    made = override(DistillConfig(), {"evaluate.rates": ("resnet18=0.1",), "evaluate.cosine_stretch": 3.0})
    assert (made.evaluate.of("resnet18").lr, made.evaluate.of("resnet18").cosine_stretch) == (0.1, 3.0)
