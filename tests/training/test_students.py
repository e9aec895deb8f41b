"""What students and teachers may be trained with: averages, parts of batches, mixtures, hard labels."""

import dataclasses
import typing

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.sections import Augment, EvaluateConfig, RelabelConfig, RuntimeConfig
from wmdd.data.augment import augmentation, erasing, mixing
from wmdd.data.batches import _repeated
from wmdd.data.load_index import load_index
from wmdd.data.views import apply_mix
from wmdd.engine.plan import plan_from
from wmdd.errors import ConfigError
from wmdd.method.artifacts import DistilledClass, ImageSet
from wmdd.method.losses import soft_label_loss
from wmdd.method.soft_labels import LabelBlock, SoftLabels, draw_epoch
from wmdd.normalization import NORMALIZATIONS
from wmdd.outputs import Output, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.supervision import HardLessons, SoftLessons
from wmdd.storage.store import ArtifactStore
from wmdd.training.trainer import Epoch, Schedule, Steps, Trainer, cut

CPU = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off", train_threads=1))
PIXELS = NORMALIZATIONS["half"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=SeedTree(seed).torch())


def trainer(accumulate=1, *, norm=False, **more):
    with SeedTree(1).scoped():
        layers = [torch.nn.Conv2d(3, 4, 3), *([torch.nn.BatchNorm2d(4)] if norm else []), torch.nn.Tanh()]
        network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5))
    labels = torch.arange(11) % 5
    made = Trainer(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        schedule=Schedule(0.1, 6),
        batches=lambda epoch: [(normal(11, 3, 8, 8, seed=5 + epoch), labels)] * 2,
        loss=lambda logits, names: F.cross_entropy(logits, names),
        validate=lambda net: net.eval()(normal(4, 3, 8, 8, seed=3)).sum().sigmoid().item(),
        epochs=3,
        runtime=CPU,
        seeds=SeedTree(0),
        accumulate=accumulate,
        **more,
    )
    return made


@pytest.mark.parametrize("parts", [2, 3, 5, 100])
def test_b25_b29_gradients_added_up_over_parts_are_the_whole_batchs(parts):
    whole, cut = trainer(), trainer(parts)
    losses = [[epoch.loss for epoch in made.run()] for made in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for a, b in zip(whole.network.parameters(), cut.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "count"), [(11, 3), (2, 4), (1, 2), (16, 2), (7, 100)])
def test_parts_make_the_batch_and_have_two_images(size, count):
    parts = cut((torch.arange(size), torch.arange(size)), count)
    assert torch.equal(torch.cat([images for images, _ in parts]), torch.arange(size))
    assert min(len(images) for images, _ in parts) >= min(2, size)
    assert len(parts) <= count


def test_average_is_that_of_all_weights_and_statistics_and_outlives_an_interruption():
    made, decay = trainer(norm=True, ema=0.6), 0.6
    expected, snapshots = None, []
    step = made.optimizer.step

    def stepped():
        nonlocal expected
        step()
        now = {name: value.clone().double() for name, value in made.network.state_dict().items()}
        before = expected or now
        expected = {name: decay * before[name] + (1 - decay) * now[name] for name in now}

    made.optimizer.step = stepped
    for _ in made.run():
        snapshots.append(made.snapshot())
    for name, value in made.result.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert made.result is not made.network
    assert all("top1_ema" in point for point in made.curve)
    again = trainer(norm=True, ema=0.6)
    again.resume(snapshots[0])
    list(again.run())
    assert again.curve == made.curve
    for name, value in again.result.state_dict().items():
        assert torch.equal(value, made.result.state_dict()[name])


def test_average_is_updated_at_some_steps_only():
    made, seen = trainer(ema=0.6, ema_every=4), []
    update = made.averaged.update_parameters
    made.averaged.update_parameters = lambda network: (seen.append(made.step), update(network))
    list(made.run())
    assert (made.step, seen) == (6, [0, 4])


def test_either_mixture_comes_up_and_is_one_of_the_two():
    images, labels = torch.arange(6.0)[:, None, None, None].expand(6, 3, 8, 8).clone(), torch.arange(6)
    mix, kinds = mixing(recipe("digits").pretrain.model_copy(update={"mix": "either"}), 6), set()
    for seed in range(30):
        with SeedTree(seed).scoped():
            mixed, _ = mix(images, labels)
        flat = mixed.flatten(1)
        if (flat != images.flatten(1)).any():
            # Whole images mixed stay even; a pasted box leaves two values.
            kinds.add("mixup" if (flat.std(dim=1) < 1e-6).all() else "cutmix")
    assert kinds == {"mixup", "cutmix"}


def test_long_epochs_give_news_which_change_nothing(monkeypatch):
    quiet, telling = trainer(norm=True), trainer(norm=True)
    epochs = list(quiet.run())
    monkeypatch.setattr("wmdd.outputs.PULSE_S", 0.0)
    news = list(telling.run())
    assert [item for item in news if isinstance(item, Epoch)] == [*map(Same, epochs)]
    steps = [item for item in news if isinstance(item, Steps)]
    assert [(item.done, item.total) for item in steps] == [(1, 2), (2, 2)] * 3
    assert str(steps[0]).startswith("step 1 of 2 of the epoch, loss ")
    for a, b in zip(quiet.network.parameters(), telling.network.parameters(), strict=True):
        assert torch.equal(a, b)


class Same:
    """Equal to an epoch with the same figures."""

    def __init__(self, epoch):
        self.facts = vars(epoch)

    def __eq__(self, other):
        return vars(other) == self.facts


def test_long_gradients_are_cut():
    free, held = trainer(), trainer(clip_norm=1e-9)
    before = [weight.clone() for weight in held.network.parameters()]
    list(free.run()), list(held.run())
    for was, now, moved in zip(before, held.network.parameters(), free.network.parameters(), strict=True):
        torch.testing.assert_close(was, now, atol=1e-7, rtol=0)
        assert not torch.equal(was, moved)


# -- labels ------------------------------------------------------------------------------------------------------


def image_set(count=6):
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=SeedTree(4).torch(), dtype=torch.uint8)
    return ImageSet.of([DistilledClass(c, pixels[2 * c : 2 * c + 2], torch.tensor([0.25, 0.75])) for c in range(3)])


def test_mixup_mixes_whole_images_by_a_share_that_is_stored():
    section = RelabelConfig(epochs=3, batch_size=6, mix="mixup")
    drawn = [batch for epoch in range(3) for batch in draw_epoch(section, epoch, 6, 8, SeedTree(0))]
    assert len({batch.share for batch in drawn}) == 3
    assert all(0 < batch.share < 1 for batch in drawn)
    meta = {"schema": 1, "first_epoch": 0, "epochs": 3, "batches": 1, "classes": 3}
    labelled = [dataclasses.replace(batch, logits=normal(6, 3).half()) for batch in drawn]
    read = SoftLabels([LabelBlock.from_bytes(LabelBlock.write(labelled, meta).data)])
    for epoch, batch in enumerate(labelled):
        (again,) = read.epoch(epoch)
        assert again.share == batch.share
        shown = again.replay(image_set().images, PIXELS, CPU)
        assert torch.equal(shown, batch.replay(image_set().images, PIXELS, CPU))
        plain = dataclasses.replace(batch, share=1.0).replay(image_set().images, PIXELS, CPU)
        torch.testing.assert_close(shown, plain * batch.share + plain[batch.partner] * (1 - batch.share))


def test_share_one_mixes_nothing():
    images = normal(4, 3, 8, 8)
    assert apply_mix(images, torch.tensor([1, 0, 3, 2]), (0, 0, 0, 0), 1.0) is images


def lessons(kind, section, tmp_path=None, **views):
    images = image_set()
    geometry = {"image_size": 8, "crop_ratio": 1.0, "normalization": "half"}
    params = {"geometry": geometry, "views": {"epochs": 2, "batch_size": 4, "mix": "none", **views}}
    relabel = RelabelConfig(epochs=2, batch_size=6)
    meta = {"schema": 1, "first_epoch": 0, "epochs": 2, "batches": 1, "classes": 3}
    batches = [batch for epoch in range(2) for batch in draw_epoch(relabel, epoch, 6, 8, SeedTree(0))]
    block = LabelBlock.write([dataclasses.replace(batch, logits=normal(6, 3).half()) for batch in batches], meta)
    unit = Unit("student", params, {"labels": [block]}.__getitem__)
    return kind(section, unit, images, SeedTree(7), CPU)


def test_soft_lessons_weigh_images_and_may_add_the_class():
    made = lessons(SoftLessons, EvaluateConfig(ce_weight=0.5))
    ((_, teacher, weights, names),) = made.batches(0)
    assert weights.mean() == pytest.approx(1.0)
    assert sorted(names.tolist()) == [0, 0, 1, 1, 2, 2]
    logits = normal(6, 3, seed=9)
    expected = soft_label_loss(logits, teacher, weights, 20.0) + 0.5 * F.cross_entropy(logits, names)
    torch.testing.assert_close(made.loss(logits, teacher, weights, names), expected)
    squared = lessons(SoftLessons, EvaluateConfig(loss="mse")).loss(logits, teacher, weights, names)
    by_hand = sum(weights[i] * ((logits[i] - teacher[i].float()) ** 2).mean() for i in range(6)) / 6
    torch.testing.assert_close(squared, by_hand)


def test_hard_lessons_show_each_image_with_its_class_and_need_no_labels():
    made = lessons(HardLessons, EvaluateConfig(labels="hard"), crop_scale=(1.0, 1.0), flip=False, batch_size=6)
    ((shown, names),) = made.batches(0)
    whole = PIXELS.normalize(image_set().images)
    for image, name in zip(shown, names, strict=True):
        place = int((whole - image).abs().amax(dim=(1, 2, 3)).argmin())
        assert (whole[place] - image).abs().max() < 1e-5
        assert int(name) == place // 2
    logits = normal(6, 3)
    torch.testing.assert_close(made.loss(logits, names), F.cross_entropy(logits, names))


# -- views -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in typing.get_args(Augment) if name != "none"])
def test_further_changes_stay_in_range_and_follow_the_seed(name):
    images = PIXELS.normalize(image_set().images)
    change = augmentation(name, PIXELS)
    shown = []
    for seed in (1, 1, 2):
        with SeedTree(seed).scoped():
            shown.append(torch.stack([change(images) for _ in range(3)]))
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
    assert shown[0].shape == (3, 6, 3, 8, 8)
    assert shown[0].abs().max() <= 1.0 + 1e-6
    assert augmentation("none", PIXELS)(images) is images


def test_erasing_erases_and_mixing_mixes_names_as_images():
    images, labels = PIXELS.normalize(image_set().images), torch.arange(6) % 3
    with SeedTree(0).scoped():
        erased = erasing(1.0)(images)
    assert ((erased == 0).flatten(1).sum(dim=1) > 0).all()
    assert erasing(0.0)(images) is images
    for kind in ("mixup", "cutmix", "either"):
        with SeedTree(0).scoped():
            mixed, shares = mixing(recipe("digits").pretrain.model_copy(update={"mix": kind}), 3)(images, labels)
        assert (mixed.shape, shares.shape) == (images.shape, (6, 3))
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
        assert (shares.max(dim=1).values < 1).any()


def test_repeats_keep_the_length_of_an_epoch():
    assert _repeated(np.array([4, 2, 0, 3, 1]), 3).tolist() == [4, 4, 4, 2, 2]
    assert _repeated(np.arange(4), 1).tolist() == [0, 1, 2, 3]


OPTIONS = {
    "views": {
        "pretrain.augment": "trivialaugment", "pretrain.mix": "cutmix", "pretrain.erase": 0.5, "pretrain.repeats": 2,
        "pretrain.clip_norm": 1.0, "pretrain.ema": 0.9, "pretrain.label_smoothing": 0.1, "pretrain.keep": "best",
    },
    "steps": {
        "pretrain.augment": "randaugment", "pretrain.augment_strength": 5, "pretrain.mix": "either",
        "pretrain.schedule": "steps", "pretrain.lr_step_epochs": 1, "pretrain.lr_gamma": 0.5,
        "pretrain.optimizer": "rmsprop", "pretrain.lr": 0.001, "pretrain.norm_weight_decay": 0.0,
        "pretrain.ema": 0.9, "pretrain.ema_every": 4,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_teacher_with_every_option_is_the_same_after_an_interruption(tmp_path, options):
    changes = {
        "data.classes": ("0", "1", "2"), "pretrain.model": "convnet2_w16", "pretrain.epochs": 3,
        "runtime.precision": "fp32", **OPTIONS[options],
    }  # fmt: skip
    config, store = override(recipe("digits"), changes), ArtifactStore(str(tmp_path))
    index, ref = load_index(config, store, lambda done, total: None)
    planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]

    def run(resume):
        unit = Unit(planned.ref.unit, planned.params, lambda name: index, resume)
        return list(STAGES["pretrain"].run(config.pretrain, [unit], SeedTree(0), CPU))

    whole = run(None)
    snapshots = [news.data for news in whole if isinstance(news, Snapshot)]
    files = [news.value.to_files() for news in (*whole, *run(snapshots[0])) if isinstance(news, Output)]
    assert len(files) == 2
    assert files[0] == files[1]


def test_strength_of_the_changes_reaches_the_teachers_views(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "wmdd.stages.pretrain.augmentation",
        lambda name, pixels, strength: (seen.append((name, strength)), lambda images: images)[1],
    )
    changes = {
        "data.classes": ("0", "1"), "pretrain.model": "convnet1_w8", "pretrain.epochs": 1,
        "pretrain.augment": "randaugment", "pretrain.augment_strength": 5,
    }  # fmt: skip
    config, store = override(recipe("digits"), changes), ArtifactStore(str(tmp_path))
    index, ref = load_index(config, store, lambda done, total: None)
    planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]
    unit = Unit(planned.ref.unit, planned.params, lambda name: index, None)
    list(STAGES["pretrain"].run(config.pretrain, [unit], SeedTree(0), CPU))
    assert seen == [("randaugment", 5)]


def test_shared_statistics_need_others_and_gpus():
    with pytest.raises(ConfigError, match=r"pretrain\.sync_bn=True: one worker has nobody"):
        override(recipe("digits"), {"pretrain.sync_bn": True})
    assert override(recipe("digits"), {"pretrain.sync_bn": True, "pretrain.workers": 2}).pretrain.sync_bn
