"""The hash of a protocol: what decides a student's score is in it, and nothing else."""

from wmdd.config.distill import override
from wmdd.config.protocol_hash import protocol_hash
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_protocol
from wmdd.engine.plan import make_plan
from wmdd.storage.store import ArtifactStore


def test_every_protocol_has_a_hash_of_its_own():
    assert len({protocol_hash(with_protocol(recipe("imagenet-1k"), name), "resnet18") for name in protocols()}) == len(
        protocols()
    )


def test_hash_of_hard_labels_ignores_soft_options(subtests):
    cases = [
        {"evaluate.temperature": 3.0},
        {"evaluate.temperature_decay": 0.7},
        {"evaluate.temperature_squared": True},
        {"evaluate.student_temperature": "fitted"},
        {"evaluate.loss": "mse"},
        {"evaluate.ce_weight": 0.5},
        {"relabel.bn_mode": "batch"},
        {"relabel.mix": "mixup", "relabel.mix_alpha": 0.5},
    ]
    for changes in cases:
        with subtests.test(changes=changes):
            soft, hard = recipe("imagenette"), with_protocol(recipe("imagenette"), "hard")
            assert protocol_hash(override(soft, changes), "resnet18") != protocol_hash(soft, "resnet18")
            assert protocol_hash(override(hard, changes), "resnet18") == protocol_hash(hard, "resnet18")


def test_option_that_changes_nothing_is_no_part_of_the_hash(subtests):
    falls = {"evaluate.temperature_decay": 0.7}
    cases = [
        ({"evaluate.muon_lr": 0.1}, {"evaluate.optimizer": "muon"}),
        ({"evaluate.temperature_every": 5}, falls),
        ({"evaluate.temperature_floor": 5.0}, falls),
        ({"evaluate.student_temperature_lr": 0.1}, {"evaluate.student_temperature": "fitted"}),
        ({"evaluate.temperature_squared": True}, {}),
        (falls, {}),
    ]
    plain, squared = recipe("imagenette"), override(recipe("imagenette"), {"evaluate.loss": "mse"})
    for changes, needed in cases:
        with subtests.test(changes=changes):
            base = override(plain, needed)
            assert protocol_hash(override(base, changes), "resnet18") != protocol_hash(base, "resnet18")
            if needed:
                assert protocol_hash(override(plain, changes), "resnet18") == protocol_hash(plain, "resnet18")
            if "evaluate.muon_lr" not in changes:
                changed = override(squared, needed | changes)
                assert protocol_hash(changed, "resnet18") == protocol_hash(squared, "resnet18")


def test_views_of_hard_labels_are_part_of_their_hash():
    hard = with_protocol(recipe("cifar10"), "hard")
    for changes in ({"relabel.epochs": 7}, {"relabel.flip": False}, {"evaluate.augment": "randaugment"}):
        assert protocol_hash(override(hard, changes), "resnet18") != protocol_hash(hard, "resnet18")


def test_soft_options_rerun_no_hard_label_student(tmp_path):
    store, hard = ArtifactStore(str(tmp_path)), with_protocol(recipe("digits"), "hard")
    changed = override(hard, {"evaluate.temperature": 3.0, "evaluate.loss": "mse"})
    assert make_plan(hard, store).refs("evaluate") == make_plan(changed, store).refs("evaluate")


def fixed(**changes):
    return override(recipe("digits"), {"evaluate.labels": "fixed", **changes})


def test_every_kind_of_labels_has_a_hash_of_its_own():
    kinds = [override(recipe("digits"), {"evaluate.labels": labels}) for labels in ("soft", "fixed", "hard")]
    assert len({protocol_hash(config, "convnet3_w64") for config in kinds}) == 3


def test_hash_of_fixed_labels_has_what_they_use(subtests):
    used = [
        {"evaluate.temperature": 3.0},
        {"evaluate.loss": "mse"},
        {"relabel.mix": "mixup"},
        {"relabel.mix_alpha": 0.5},
        {"relabel.teachers": ("convnet2_w8",)},
        {"evaluate.augment": "randaugment"},
    ]
    for changes in used:
        with subtests.test(changes=changes):
            assert protocol_hash(fixed(**changes), "convnet3_w64") != protocol_hash(fixed(), "convnet3_w64")
    for changes in ({"relabel.bn_mode": "batch"}, {"relabel.augment": "randaugment"}):
        with subtests.test(changes=changes):
            assert protocol_hash(fixed(**changes), "convnet3_w64") == protocol_hash(fixed(), "convnet3_w64")


def test_students_of_fixed_labels_have_the_teacher_as_an_input(tmp_path):
    store = ArtifactStore(str(tmp_path))
    made = make_plan(fixed(**{"relabel.teachers": ("convnet2_w8",)}), store)
    assert not made.tasks["relabel"]
    teacher, other = made.refs("pretrain")
    for unit in made.units("evaluate"):
        assert (unit.inputs["teacher"], unit.inputs["others"]) == (teacher, (other,))
        assert "labels" not in unit.inputs
    plain, trained = (make_plan(fixed(**changes), store) for changes in ({}, {"pretrain.epochs": 7}))
    # Random images do not depend on the teacher, but their students do.
    random = [
        [unit.ref for unit in plan.units("evaluate") if unit.params.images.startswith("random")]
        for plan in (plain, trained)
    ]
    assert not set(random[0]) & set(random[1])
