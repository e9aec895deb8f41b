"""What images are worth: random real images per class of the same score, in about as many student steps."""

import json

import pytest

from wmdd.commands.distill import distill
from wmdd.config.distill import override
from wmdd.config.protocol_hash import protocol_hash
from wmdd.config.recipes import recipe
from wmdd.engine.plan import make_plan
from wmdd.report.worth import reached, worth_line
from wmdd.storage.store import ArtifactStore

CURVE = [(10, 0.4), (20, 0.5), (50, 0.45), (100, 0.7)]
SMALL = {
    "data.classes": ("0", "1"),
    "data.per_class": 20,
    "ipc": 2,
    "pretrain.model": "convnet1_w8",
    "pretrain.epochs": 1,
    "recover.iterations": 2,
    "relabel.epochs": 6,
    "relabel.epochs_per_block": 2,
    "relabel.batch_size": 4,
    "evaluate.students": ("convnet1_w4",),
    "evaluate.num_students": 2,
    "evaluate.full_data": False,
    "evaluate.baselines": ("random",),
    "evaluate.worth": (3, 100),
    "runtime.train_threads": 1,
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))
    return lambda **changes: make_plan(override(recipe("digits"), SMALL | changes), store)


@pytest.mark.parametrize(
    ("score", "number"),
    [(0.4, 10.0), (0.45, 10 * 2**0.5), (0.5, 20.0), (0.575, (50 * 100) ** 0.5), (0.7, 100.0)],
)
def test_number_is_interpolated_by_its_logarithm(score, number):
    found, bound = reached(CURVE, score)
    assert found == pytest.approx(number)
    assert bound is None


def test_scores_off_the_curve_have_a_bound():
    assert reached(CURVE, 0.39) == (None, "less")
    assert reached(CURVE, 0.71) == (None, "more")
    assert reached(CURVE[:1], 0.5) == (None, "more")


def test_worth_is_said_in_words():
    points = [{"ipc": number, "top1_last_mean": score, "top1_last_std": None} for number, score in CURVE]
    worth = {"curve": points, "images": 43.21, "bound": None, "smallest_class": None}
    assert worth_line(worth) == "worth: about 43 random real images per class (about as many student steps)"
    assert "more than 100 random" in worth_line(worth | {"images": None, "bound": "more"})
    assert "less than 10 random" in worth_line(worth | {"images": None, "bound": "less"})
    assert worth_line(worth | {"smallest_class": 100}).endswith("steps; the smallest class has 100)")
    assert worth_line(worth | {"images": None}) == ""


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_students_of_larger_sets_take_as_many_steps(plan, labels):
    made = plan(**{"evaluate.labels": labels})
    assert {name: images.ipc for name, images in made.image_sets.items() if name.startswith("worth")} == {
        **{f"worth-6-{draw}": 6 for draw in range(2)},
        **{f"worth-20-{draw}": 20 for draw in range(2)},  # all images of the smallest class
    }
    for unit in made.units("evaluate"):
        epochs = {"worth-6": 2, "worth-20": 1}.get(unit.params.images.rpartition("-")[0], 6)
        blocks = [block.params.epochs for block in made.units("relabel") if block.params.images == unit.params.images]
        views = unit.params.views.epochs if labels == "hard" else sum(blocks)
        assert views == epochs, unit.params.images
        config = override(made.config, {"relabel.epochs": epochs})
        assert unit.params.protocol_hash == protocol_hash(config, "convnet1_w4")


def test_asking_for_worth_moves_no_other_key(plan):
    without = plan(**{"evaluate.worth": ()})
    made = plan()
    for stage in made.tasks:
        assert set(without.refs(stage)) <= set(made.refs(stage))
    assert not [name for name in without.image_sets if name.startswith("worth")]
    # The number of the distilled images is that of the baseline.
    assert set(plan(**{"evaluate.worth": (1,)}).refs("evaluate")) == set(without.refs("evaluate"))
    alone = plan(**{"evaluate.worth": (1,), "evaluate.baselines": ()})
    assert set(alone.refs("evaluate")) == set(without.refs("evaluate"))


def test_run_shows_what_its_images_are_worth(tmp_path):
    result = distill(override(recipe("digits"), SMALL), run=str(tmp_path / "run"), executor="local")
    worth = json.loads((tmp_path / "run/metrics.json").read_text())["worth"]
    assert [(point["ipc"], point["epochs"], point["steps"]) for point in worth["curve"]] == [
        (2, 6, 6),
        (6, 2, 6),
        (20, 1, 10),
    ]
    assert worth["curve"][0]["runs"] == result.metrics["baselines"]["random"]["runs"]
    assert [run["images"] for run in worth["curve"][1]["runs"]] == ["worth-6-0", "worth-6-1"]
    assert (worth["steps"], worth["smallest_class"]) == (6, 20)
    page = (tmp_path / "run/report.html").read_text()
    assert f"<b>{worth_line(worth)}</b>" in page
    assert worth_line(worth) in repr(result)
    assert "What the images are worth to convnet1_w4" in page
    names = [run["images"] for scores in result.metrics["baselines"].values() for run in scores["runs"]]
    assert names == ["random-0", "random-1"]
