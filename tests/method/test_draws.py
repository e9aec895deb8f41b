"""What recovery's steps draw: each class by itself, before the first step, and images that show others of the class."""

import pytest
import torch
from builders import CPU

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.recovery import RecoverConfig
from wmdd.data.views import apply_mix
from wmdd.method.draws import draw, mix
from wmdd.method.recovery import recover_images
from wmdd.seeding import SeedTree

STEPS, COUNT, SIZE = 6, 4, 16
SECTION = RecoverConfig(iterations=STEPS, roll_px=2, lr=0.1, feature_loss="transport", transport_sample=4, mix="cutmix")


@pytest.fixture(scope="module")
def teacher():
    return untrained_teacher("convnet1_w8", SIZE, 3)


def drawn(teacher, class_ids, section=SECTION):
    targets = [random_targets(teacher, COUNT)[class_id] for class_id in class_ids]
    parts = [target.statistics for target in targets], [target.seeds for target in targets]
    return draw(section, *parts, COUNT, SIZE, CPU)


def test_step_has_what_its_options_need(teacher):
    assert set(drawn(teacher, [0, 1], RecoverConfig(iterations=STEPS)).at(0)) == {"box", "flip", "roll"}
    step = drawn(teacher, [0, 1]).at(STEPS - 1)
    shapes = {name: tuple(values.shape) for name, values in step.items()}
    assert shapes["partner"] == (2, COUNT)
    assert shapes["mix_box"] == (2, 4)
    assert shapes["sample"] == (2, 4)


def test_class_draws_the_same_alone_and_among_others(teacher):
    alone, among = drawn(teacher, [2]), drawn(teacher, [0, 2, 1])
    for step in range(STEPS):
        for name, values in alone.at(step).items():
            assert torch.equal(values[0], among.at(step)[name][1]), name


def test_option_changes_no_other_draw(teacher):
    plain, mixed = drawn(teacher, [0], SECTION.model_copy(update={"mix": "none"})), drawn(teacher, [0])
    assert all(torch.equal(values, mixed.at(3)[name]) for name, values in plain.at(3).items())


def test_partners_are_a_permutation_and_steps_differ(teacher):
    draws = drawn(teacher, [0, 1])
    assert draws.partner.sort(dim=-1).values.eq(torch.arange(COUNT)).all()
    assert not torch.equal(draws.partner[0], draws.partner[1])
    assert not torch.equal(draws.mix_box[0], draws.mix_box[1])


def test_mix_is_cutmix_of_each_class():
    views = torch.randn(3, COUNT, 3, SIZE, SIZE, generator=SeedTree(0).torch())
    partner = torch.tensor([[1, 0, 3, 2], [3, 2, 1, 0], [0, 1, 2, 3]], dtype=torch.int32)
    boxes = [[2, 3, 9, 16], [0, 0, 16, 16], [1, 1, 5, 5]]
    mixed = mix(views, partner, torch.tensor(boxes, dtype=torch.int32))
    for number, box in enumerate(boxes):
        assert torch.equal(mixed[number], apply_mix(views[number], partner[number].long(), tuple(box)))


def test_empty_box_leaves_views_as_they_are():
    views = torch.randn(1, 2, 3, 4, 4, generator=SeedTree(0).torch())
    assert torch.equal(mix(views, torch.tensor([[1, 0]]), torch.tensor([[2, 2, 2, 3]])), views)


def test_mixed_recovery_gives_other_images_and_the_same_again(teacher):
    def images(**change):
        section = RecoverConfig(iterations=STEPS, roll_px=2, lr=0.1, **change)
        *_, last = recover_images(section, teacher, random_targets(teacher, COUNT), CPU)
        return last.images

    assert torch.equal(images(mix="cutmix"), images(mix="cutmix"))
    assert not torch.equal(images(mix="cutmix"), images())


def test_tiles_are_mixed_as_networks_see_them(teacher):
    section = RecoverConfig(iterations=STEPS, roll_px=2, lr=0.1, tiles=2, mix="cutmix")
    mixed, plain = (
        list(recover_images(chosen, teacher, random_targets(teacher, 4), CPU))[-1].images
        for chosen in (section, section.model_copy(update={"mix": "none"}))
    )
    assert mixed.shape == (3, 1, 3, SIZE, SIZE)
    assert not torch.equal(mixed, plain)


def test_images_of_a_class_of_one_are_not_mixed(teacher):
    def images(**change):
        section = RecoverConfig(iterations=STEPS, roll_px=2, lr=0.1, **change)
        *_, last = recover_images(section, teacher, random_targets(teacher, 1), CPU)
        return last.images

    assert torch.equal(images(mix="cutmix"), images())
