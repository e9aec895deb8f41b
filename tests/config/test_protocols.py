"""Named protocols: what papers say, what depends on size and set, and when a score may carry the name."""

import torch

from wmdd.config.distill import override
from wmdd.config.protocol_hash import protocol_hash
from wmdd.config.protocols import COMMON, protocols
from wmdd.config.recipes import recipe
from wmdd.config.resolve import is_exact, with_protocol
from wmdd.config.students import EvaluateConfig, RelabelConfig

OWN = ("relabel", "evaluate")


def settings(name, recipe_name="imagenet-1k", ipc=10, **changes):
    return with_protocol(override(recipe(recipe_name), {"ipc": ipc, **changes}), name)


def test_protocol_sets_students_training_and_no_more(subtests):
    for name in protocols():
        with subtests.test(name=name):
            base = override(recipe("cifar10"), {"relabel.mix": "mixup", "evaluate.ema": 0.5, "relabel.batch_size": 7})
            made = with_protocol(base, name)
            assert made.model_copy(update={part: getattr(base, part) for part in OWN}) == base
            assert is_exact(made)
            assert protocol_hash(made, "resnet18") == protocol_hash(with_protocol(recipe("cifar10"), name), "resnet18")
            assert not is_exact(override(made, {"evaluate.lr": 0.123}))
            assert is_exact(override(made, {"evaluate.val_every": 77}))


def test_every_option_in_the_hash_is_set_by_protocols():
    decisive = {
        f"{name}.{option}"
        for name, section in (("relabel", RelabelConfig), ("evaluate", EvaluateConfig))
        for option in section.defaults("protocol")
    }
    own = {"relabel.teachers", "evaluate.stem", "evaluate.protocol"}
    assert decisive - own == set(COMMON) - {"evaluate.val_every"}


def test_released_recipes_follow_the_papers_protocol():
    for name in ("imagenet-1k", "tiny-imagenet-224", "imagenette"):
        assert is_exact(recipe(name)), name


def test_settings_for_imagenet_are_those_of_the_papers(subtests):
    cases = [
        ("wmdd", {"batch_size": 100, "cosine_stretch": 1.0, "loss": "kl", "temperature": 20.0, "lr": 1e-3}),
        ("sre2l", {"batch_size": 1024, "accumulate": 2}),
        ("cda", {"batch_size": 128, "accumulate": 1}),
        ("rded", {"batch_size": 100, "cosine_stretch": 2.0, "crop_scale": (0.5, 1.0)}),
        ("edc", {"batch_size": 100, "loss": "mse", "ce_weight": 0.025, "ema": 0.99, "cosine_stretch": 2.0}),
        ("cvdd", {"batch_size": 16, "accumulate": 2, "bn_mode": "batch", "micro_batch": 8, "cosine_stretch": 2.0}),
        ("fadrm", {"batch_size": 16, "accumulate": 2, "bn_mode": "batch", "micro_batch": 8, "lr": 1e-3}),
        ("hard", {"labels": "hard", "mix": "none"}),
    ]
    for name, expected in cases:
        with subtests.test(name=name):
            made = settings(name)
            found = made.relabel.model_dump() | made.evaluate.model_dump()
            assert {key: found[key] for key in expected} == expected
            assert (found["epochs"], found["optimizer"], found["weight_decay"]) == (300, "adamw", 0.01)


def test_rded_follows_size_set_and_student():
    assert [settings("rded", "cifar10", ipc).relabel.batch_size for ipc in (1, 10, 50)] == [10, 50, 100]
    assert [settings("rded", ipc=ipc).relabel.batch_size for ipc in (1, 10, 50)] == [20, 100, 200]
    assert settings("rded", "tiny-imagenet").relabel.batch_size == 100
    assert settings("rded", "tiny-imagenet").relabel.crop_scale == (1.0, 1.0)
    assert settings("rded", **{"evaluate.students": ("mobilenet_v2",)}).evaluate.lr == 2.5e-3
    several = settings("rded", **{"evaluate.students": ("resnet18", "resnet50", "vgg11", "vit_tiny_patch16_224")})
    assert several.evaluate.rates == ("vgg11=0.0005:2", "vit_tiny_patch16_224=0.0001:2")
    assert is_exact(several)


def rates(name, recipe_name, student="resnet18", **changes):
    """Learning rate and stretch of the cosine at 1, 10 and 50 images per class."""
    changes |= {"evaluate.students": (student,)}
    made = [settings(name, recipe_name, ipc, **changes).evaluate for ipc in (1, 10, 50)]
    return [(one.lr, one.cosine_stretch) for one in made]


def test_rates_follow_set_student_and_size(subtests):
    cases = [
        ("cvdd", "imagenet-1k", "resnet18", [(1e-3, 2), (1e-3, 2), (1e-3, 1)]),
        ("cvdd", "imagenet-1k", "resnet101", [(1e-3, 2), (1e-3, 2), (5e-4, 2)]),
        ("cvdd", "imagenette", "resnet18", [(5e-4, 2), (5e-4, 1), (5e-4, 2)]),
        ("cvdd", "imagenette", "resnet50", [(5e-4, 2), (1e-3, 1), (5e-4, 1)]),
        ("cvdd", "tiny-imagenet", "resnet18", [(1e-3, 2), (1e-3, 1), (1e-3, 2)]),
        ("cvdd", "cifar100", "resnet18", [(1e-3, 1), (1e-3, 2), (1e-3, 1)]),
        ("cvdd", "cifar10", "resnet18", [(1e-3, 1)] * 3),
        ("cvdd", "cifar10-quick", "convnet3_w64", [(1e-3, 1)] * 3),
        ("fadrm", "imagenet-1k", "resnet18", [(1e-3, 2), (1e-3, 2), (1e-3, 1)]),
        ("fadrm", "imagenet-1k", "resnet50", [(5e-4, 2), (1e-3, 2), (1e-3, 1)]),
        ("fadrm", "imagenette", "resnet18", [(5e-4, 2), (5e-4, 1), (5e-4, 2)]),
        ("fadrm", "tiny-imagenet-224", "resnet50", [(5e-4, 2), (5e-4, 2), (5e-4, 1)]),
        ("fadrm", "cifar100", "resnet18", [(5e-4, 2), (1e-3, 2), (1e-3, 1)]),
    ]
    for name, set_name, student, expected in cases:
        with subtests.test(name=name):
            assert rates(name, set_name, student) == expected


def test_part_of_imagenet_has_settings_for_the_part():
    woof = {"data.subset": "imagewoof"}
    assert rates("fadrm", "imagenet-1k", **woof) == [(5e-4, 2), (5e-4, 1), (1e-3, 2)]
    made = settings("edc", **woof)
    assert (made.relabel.epochs, made.relabel.batch_size) == (1000, 50)
    assert settings("rded", **woof).relabel.batch_size == 50
    assert settings("edc", "imagenette", **{"data.path": "torchvision:CIFAR100?download=x"}).evaluate.optimizer == "sgd"


def test_student_among_others_is_trained_as_alone(subtests):
    for name in ["rded", "cvdd", "fadrm"]:
        with subtests.test(name=name):
            students = ("resnet101", "resnet18", "mobilenet_v2", "resnet50")
            together = settings(name, "imagenette", 50, **{"evaluate.students": students})
            for student in students:
                alone = settings(name, "imagenette", 50, **{"evaluate.students": (student,)})
                assert together.evaluate.of(student).model_dump(exclude={"students"}) == alone.evaluate.model_dump(
                    exclude={"students"}
                )
                assert protocol_hash(together, student) == protocol_hash(alone, student)
            assert len({protocol_hash(together, student) for student in students}) > 1


def test_fadrm_follows_size_and_set():
    nette = [settings("fadrm", "imagenette", ipc).relabel for ipc in (1, 10, 50)]
    assert {(made.batch_size, made.micro_batch, made.epochs) for made in nette} == {(10, 5, 300)}
    tiny = [settings("fadrm", "tiny-imagenet", ipc).relabel for ipc in (1, 10, 50)]
    assert [(made.epochs, made.bn_mode, made.micro_batch) for made in tiny] == [
        (1000, "batch", 8), (300, "batch", 8), (300, "running", 0)
    ]  # fmt: skip
    assert settings("fadrm", "cifar10").relabel.epochs == settings("fadrm", "cifar100").relabel.epochs == 1000


def test_cvdd_uses_smaller_batches_for_imagenette():
    assert (settings("cvdd", "imagenette").relabel.batch_size, settings("cvdd").relabel.batch_size) == (10, 16)


def test_sre2l_trains_on_cifar_in_its_own_way():
    for name in ("cifar10", "cifar10-quick", "cifar100"):
        made = settings("sre2l", name)
        assert (made.relabel.epochs, made.relabel.batch_size, made.relabel.crop_scale) == (400, 128, (1.0, 1.0))
        assert made.evaluate.accumulate == 1
        assert (made.relabel.mix, made.relabel.mix_alpha, made.evaluate.temperature) == ("mixup", 0.8, 30.0)
        assert settings("cda", name).relabel == made.relabel.model_copy(update={"epochs": 800})
    assert settings("cda", "imagenette").relabel.mix == "cutmix"


def test_edc_follows_the_set(subtests):
    cases = [
        ("imagenet-1k", 300, 100, "adamw", 1e-3, 0.01, 0.9, "cosine", 2.0, 0.5),
        ("imagenette", 1000, 50, "adamw", 1e-3, 0.01, 0.9, "tail", 2.0, 0.5),
        ("tiny-imagenet", 300, 100, "sgd", 0.1, 5e-4, 0.875, "cosine", 2.0, 0.5),
        ("cifar100", 1000, 50, "sgd", 0.1, 5e-4, 0.875, "tail", 2.0, 0.5),
        ("cifar10", 1000, 10, "adamw", 1e-3, 0.01, 0.9, "steps", 1.0, 0.08),
    ]
    for name, epochs, batch, optimizer, lr, decay, momentum, schedule, stretch, crop in cases:
        with subtests.test(name=name):
            made = settings("edc", name)
            relabel, student = made.relabel, made.evaluate
            assert (relabel.epochs, relabel.batch_size, relabel.crop_scale) == (epochs, batch, (crop, 1.0))
            assert (student.optimizer, student.lr, student.weight_decay) == (optimizer, lr, decay)
            assert (student.momentum, student.schedule, student.cosine_stretch) == (momentum, schedule, stretch)
            assert (student.loss, student.ce_weight, student.ema) == ("mse", 0.025, 0.99)
            assert relabel.augment == ("none" if name == "imagenet-1k" else "randaugment")


def test_rd3_is_adam_for_400_epochs():
    for name in ("imagenet-1k", "cifar10"):
        made = settings("rd3", name)
        relabel, student = made.relabel, made.evaluate
        assert (relabel.epochs, relabel.batch_size, relabel.mix, relabel.flip) == (400, 50, "cutmix", True)
        assert (student.optimizer, student.lr, student.weight_decay) == ("adamw", 1e-3, 0.0)
        assert (student.loss, student.temperature, student.schedule) == ("kl", 20.0, "cosine")
        assert (student.cosine_stretch, student.temperature_squared) == (1.0, False)


def test_adam_is_adamw_without_decay():
    weights = [torch.linspace(-1, 1, 6).requires_grad_() for _ in range(2)]
    for weight, kind in zip(weights, (torch.optim.Adam, torch.optim.AdamW), strict=True):
        optimizer = kind([weight], lr=0.1, weight_decay=0.0)
        for _ in range(3):
            weight.grad = weight.detach() ** 3
            optimizer.step()
    assert torch.equal(*weights)


def test_bps_follows_size_and_set():
    made = [settings("bps", "cifar10", ipc) for ipc in (1, 10, 50)]
    assert [one.relabel.batch_size for one in made] == [16, 16, 32]
    assert {(one.relabel.epochs, one.relabel.crop_scale) for one in made} == {(500, (0.1, 1.0))}
    assert settings("bps", "tiny-imagenet").relabel.crop_scale == (0.2, 1.0)
    student = made[0].evaluate
    assert (student.loss, student.temperature, student.temperature_squared) == ("kl", 20.0, True)
    assert (student.optimizer, student.lr, student.weight_decay) == ("adamw", 1e-3, 0.01)
    assert (student.schedule, student.cosine_stretch) == ("cosine", 2.0)


def test_cim_follows_the_size_of_the_set():
    assert [settings("cim", "cifar10", ipc).relabel.batch_size for ipc in (1, 10, 50)] == [10, 50, 100]
    assert [settings("cim", "cifar100", ipc).relabel.batch_size for ipc in (1, 10)] == [50, 200]
    assert settings("cim", "imagenette", 50).relabel.batch_size == 100
    assert settings("cim").relabel.batch_size == 200
    made = settings("cim")
    assert (made.relabel.epochs, made.evaluate.loss, made.evaluate.schedule) == (1000, "mse", "fifths")
    assert (made.evaluate.optimizer, made.evaluate.lr, made.evaluate.ce_weight) == ("adamw", 1e-3, 0.0)


def test_cim_follows_the_classes_that_are_named():
    def named(count):
        return {"data.classes": tuple(f"c{number}" for number in range(count))}

    own = [settings("cim", "cifar10", ipc, **named(37)) for ipc in (1, 10, 50)]
    assert [made.relabel.batch_size for made in own] == [50, 100, 200]
    assert all(map(is_exact, own))
    alike = settings("cim", "cifar10", 50)  # 500 images, and 370 above
    assert protocol_hash(own[1], "resnet18") == protocol_hash(alike, "resnet18")
    assert settings("cim", "cifar100", 10, **named(100)).relabel == settings("cim", "cifar100", 10).relabel
    assert settings("cim", "cifar100", 10, **named(5)).relabel.batch_size == 50


def test_rethinkdc_is_the_setting_of_its_package():
    made = settings("rethinkdc")
    relabel, student = made.relabel, made.evaluate
    assert (relabel.epochs, relabel.batch_size, relabel.crop_scale, relabel.mix) == (300, 128, (0.08, 1.0), "cutmix")
    assert (student.optimizer, student.lr, student.weight_decay) == ("adamw", 1e-3, 0.01)
    assert (student.schedule, student.cosine_stretch, student.temperature) == ("cosine", 1.0, 20.0)
    assert protocol_hash(made, "resnet18") != protocol_hash(settings("cda"), "resnet18")
