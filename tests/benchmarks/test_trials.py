"""Trials: ideas change valid images, the plain loop has recovery's loss, the table each idea's last line."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import CPU

from benchmarks.cells import CROPS
from benchmarks.trials.__main__ import OUT, PAGE, chosen
from benchmarks.trials.bench import WEAK, Bench
from benchmarks.trials.ideas import IDEAS
from benchmarks.trials.lines import kept, measure, table, with_table
from benchmarks.trials.loop import Loop, Real, moments_of, passes, run_network
from benchmarks.trials.pixels import through_jpeg
from benchmarks.untrained import untrained_teacher
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.views import Views
from wmdd.errors import ConfigError
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.barycenter import free_support_barycenter
from wmdd.method.objective import Objective
from wmdd.method.selection import by_loss
from wmdd.models.probes import Probe
from wmdd.seeding import SeedTree

ROOT = Path(__file__).parents[2]
COUNT, CLASSES, SIZE = 10, 2, 16
SECTION = override(recipe("cifar10-quick"), {"recover.iterations": 4, "recover.tiles": 1, **CROPS}).recover


@pytest.fixture(scope="module")
def real():
    seeds = SeedTree(0)
    teacher = untrained_teacher("convnet2_w8", SIZE, CLASSES)
    noisy = {name: weight + 0.1 * torch.rand_like(weight.float()) for name, weight in teacher.weights.items()}
    other = dataclasses.replace(teacher, weights=noisy)
    images, statistics, barycenters = [], [], []
    for number in range(CLASSES):
        pixels = torch.randint(0, 256, (60, 3, SIZE, SIZE), generator=seeds.child(number).torch(), dtype=torch.uint8)
        features = torch.cat([item.features for item in passes(teacher, pixels)])
        found = free_support_barycenter(features.numpy(), COUNT, mass="uniform", rng=seeds.child("atoms").numpy())
        support, mass = torch.from_numpy(found.support), torch.full((COUNT,), 1 / COUNT)
        nearest = torch.from_numpy(found.nearest)
        images.append(pixels)
        statistics.append(ClassStatistics(number, features, moments_of(teacher, pixels)))
        barycenters.append(Barycenter(number, support, mass, nearest, (1.0,), True, (0.0,) * 5))
    return Real(images, teacher, [other], statistics, barycenters, lambda: [other])


def short(idea):
    sizes = {"iterations": 4, "begin": 2, "batch": 4, "every": 2, "last": 0, "student_steps": 2, "sample": 16}
    return type("Short", (idea,), sizes)


@pytest.mark.parametrize("name", [name for name in IDEAS if name != "easiest-labels"])
def test_every_idea_changes_the_start_and_keeps_images_valid(real, name):
    loop = short(IDEAS[name])(real, SECTION, SeedTree(0))
    first = loop.real.teacher.pixels.denormalize(loop.images.detach())
    images = loop.run()
    assert images.dtype == torch.uint8
    assert images.shape == (CLASSES * COUNT, 3, SIZE, SIZE)
    assert not torch.equal(images, first)


def test_tiles_are_joined_to_stored_images(real):
    section = SECTION.model_copy(update={"tiles": 2})
    eight = [
        dataclasses.replace(x, support=x.support[:8], nearest=x.nearest[:8], mass=torch.full((8,), 1 / 8))
        for x in real.barycenters
    ]
    images = Loop(dataclasses.replace(real, barycenters=eight), section, SeedTree(0)).run()
    assert images.shape == (CLASSES * 2, 3, SIZE, SIZE)


def test_jpeg_at_the_end_is_that_of_the_plain_loops_images(real):
    plain = Loop(real, SECTION, SeedTree(0)).run()
    packed = IDEAS["jpeg-last"](real, SECTION, SeedTree(0)).run()
    assert torch.equal(packed, torch.stack([through_jpeg(image) for image in plain]))
    assert not torch.equal(packed, plain)


def test_easiest_images_are_whole_and_not_optimised(real):
    section = SECTION.model_copy(update={"tiles": 2})
    loop = IDEAS["easiest-labels"](real, section, SeedTree(0))
    rows = by_loss(real.teacher, real.statistics[1])[: COUNT // 4]
    assert torch.equal(loop.run()[COUNT // 4 :][: COUNT // 4], real.images[1][rows])


def test_each_idea_differs_from_the_plain_loop(real):
    plain = Loop(real, SECTION, SeedTree(0)).run()
    same = [name for name, idea in IDEAS.items() if torch.equal(plain, short(idea)(real, SECTION, SeedTree(0)).run())]
    labels = ["labels-of-more", "labels-of-weak", "labels-of-snapshots"]
    assert same == ["plain", "steps-30", "steps-100", "steps-1000", "steps-2000", *labels]


def test_table_has_the_last_line_of_each_idea_and_size():
    lines = [{"idea": "plain", "ipc": 10, "top1": [70.0], "unseen_loss": 0.5}]
    lines += [{"idea": "jpeg", "ipc": 1, "top1": [50.0, 52.0], "unseen_loss": 0.25}]
    lines += [{"idea": "plain", "ipc": 10, "label_epochs": 1000, "top1": [60.0, 62.0], "unseen_loss": 0.75}]
    lines += [{"idea": "plain", "ipc": 10, "label_epochs": 200, "top1": [40.0], "unseen_loss": 1.0}]
    head, _, *rows = table(lines).splitlines()
    assert head.split(" | ")[1::2] == ["1 per class", "10 per class, 200 epochs", "10 per class"]
    assert head.split(" | ")[2::2][:2] == ["1 per class: unseen loss", "10 per class, 200 epochs: unseen loss"]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["", "", "40.0", "1.00", "61.0 ± 1.4", "0.75 |"],
        ["51.0 ± 1.4", "0.25", "", "", "", " |"],
    ]


def test_page_has_the_table_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, kept(OUT)) == page
    assert "| The plain loop: " in page


def test_loss_of_the_loop_is_that_of_recovery(real):
    loop = Loop(real, SECTION, SeedTree(0))
    views = loop.all_views()
    with Probe(real.teacher.network, CLASSES) as probe:
        objective = Objective(SECTION, real.statistics, real.barycenters, probe, SIZE, CPU)
        terms = objective(loop.images, views.box[0], views.flip[0], views.roll[0])
    expected = (terms * objective.term_weights).sum()
    torch.testing.assert_close(loop.loss(0, loop.seen(views, 0)), expected, rtol=1e-4, atol=1e-4)


def test_sliced_distance_of_a_shift_is_its_length(real):
    of_all = [dataclasses.replace(item, features=item.features[:COUNT]) for item in real.statistics]
    loop = IDEAS["sliced"](dataclasses.replace(real, statistics=of_all), SECTION, SeedTree(0))
    shift = torch.randn(of_all[0].features.shape[1], generator=SeedTree(1).torch())
    loop.directions = 4000
    distance = loop.distance(0, torch.stack([item.features + shift for item in of_all]))
    torch.testing.assert_close(distance, shift.norm().expand(CLASSES), rtol=0.05, atol=0)


def test_transport_to_the_same_features_costs_nothing(real):
    loop = IDEAS["same-views"](real, SECTION, SeedTree(0))
    features = torch.stack([item.features[:COUNT] for item in real.statistics])
    loop.real_features = features.flip(1)
    assert loop.distance(0, features).max() < 1e-5
    loop.real_features = features.flip(1) + 1.0
    torch.testing.assert_close(loop.distance(0, features), torch.full((CLASSES,), features.shape[-1] ** 0.5))


class Whole:
    """Views that show the whole image, unchanged."""

    def views_of(self, count, *names):
        box = torch.tensor([0, 0, SIZE, SIZE], dtype=torch.int32).repeat(count, 1)
        return Views(box, torch.zeros(count, dtype=torch.bool), torch.zeros(count, 2, dtype=torch.int32))


@pytest.mark.parametrize("name", ["of-views", "of-same-view"])
def test_statistics_of_whole_views_are_those_of_images(real, name):
    loop = type("OfWhole", (Whole, IDEAS[name]), {})(real, SECTION, SeedTree(0))
    loop.seen(loop.all_views(), 0)
    for found, expected in zip(loop.targets[0], Loop(real, SECTION, SeedTree(0)).targets[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_half_of_the_step_s_view_is_the_mean_of_both_terms(real):
    half = IDEAS["half-of-same-view"](real, SECTION, SeedTree(0))
    images = half.seen(half.all_views(), 0)
    inputs = run_network(real.teacher, images).inputs
    terms = [Loop.statistics_loss(half, inputs, targets) for targets in (half.targets[0], half.whole)]
    torch.testing.assert_close(half.statistics_loss(inputs, half.targets[0]), sum(terms) / 2)
    assert terms[0] != terms[1]


def test_weak_network_comes_first_and_the_teacher_at_the_end(real):
    loop = IDEAS["weak-first"](real, SECTION, SeedTree(0))
    views = loop.seen(loop.all_views(), 0)
    for step, teacher in ((0, real.others[0]), (loop.steps // 2, real.teacher)):
        alone = Loop(real, SECTION, SeedTree(0))
        expected = alone.loss_of([teacher], [alone.targets_of(teacher)], step, views)
        torch.testing.assert_close(loop.loss(step, views), expected)
    assert not torch.equal(loop.loss(0, views), loop.loss(loop.steps // 2, views))


def test_networks_with_one_plan_start_from_the_same_images(real):
    alone, shared = (IDEAS[name](real, SECTION, SeedTree(0)) for name in ("more-teachers", "shared-plan-term"))
    width = real.statistics[0].features.shape[1]
    assert shared.joined_atoms.shape == (CLASSES, COUNT, 2 * width)
    views = shared.seen(shared.all_views(), 0)
    seen = [run_network(teacher, views) for teacher in shared.teachers()]
    assert shared.extra(0, seen) > 0
    assert len(alone.targets) == len(shared.targets) == 2


def test_ideas_that_do_not_fit_are_left_out_or_refused():
    assert "groups-5" in chosen(None, 10)
    assert "groups-5" not in chosen(None, 4)
    with pytest.raises(ConfigError, match="--only groups-5: does not cut the 4 images of a class"):
        chosen("plain,groups-5", 4)


@pytest.mark.slow
def test_ideas_are_measured_by_the_stages_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.trials.bench.SNAPSHOTS", (1,))
    options = {
        "ipc": 2,
        "pretrain.epochs": 2,
        "recover.iterations": 3,
        "relabel.epochs": 2,
        "evaluate.full_data": False,
    }
    bench = Bench(override(recipe("digits"), options), tmp_path)
    assert len(bench.real.others) == WEAK - 1
    measure(bench, "plain", 1)
    assert "snapshots" not in vars(bench)  # trained only for the idea that asks for them
    names = ("plain", "labels-of-more", "labels-of-weak", "labels-of-snapshots")
    lines = [measure(bench, name, 2) for name in names]
    assert all(len(line["top1"]) == 2 and all(0 <= score <= 100 for score in line["top1"]) for line in lines)
    assert len({line["unseen_loss"] for line in lines}) == 1  # the same images
    assert len({tuple(line["top1"]) for line in lines}) == 4  # other labels
    assert [len(network.curve) for network in bench.snapshots] == [1]


def test_unknown_idea_is_one_line():
    command = [sys.executable, "-m", "benchmarks.trials", "--data", "nowhere", "--only", "grups"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("--only grups: there is no such idea; choose from plain,")


def test_mixed_student_views_have_pixels_of_other_views(real):
    plain, mixed = (short(IDEAS[name])(real, SECTION, SeedTree(0)) for name in ("student-like", "student-like-mixed"))
    scale = (0.25, 1.0)
    before, after = (torch.stack([loop.student_views(step, scale) for step in range(8)]) for loop in (plain, mixed))
    own = (after == before).all(dim=2)
    other = (after[:, :, None] == before[:, None]).all(dim=3).any(dim=2)  # of any view of the batch, in the same place
    assert 0 < own.float().mean() < 1
    assert other.all()
