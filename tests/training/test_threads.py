"""The number of threads that a teacher trains with: chosen once, kept in snapshots, and used when resumed."""

import pytest
import torch

from wmdd.config.distill import override
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recipes import recipe
from wmdd.data.load_index import load_index
from wmdd.distributed import ALONE, Ranks
from wmdd.engine.plan import plan_from
from wmdd.models.registry import build_model
from wmdd.models.size import network_size
from wmdd.outputs import Note, Output, Progress, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.plans.pretrain import PRETRAIN
from wmdd.storage.store import ArtifactStore
from wmdd.training import threads
from wmdd.training.threads import Batches, CostWatch, choose_threads
from wmdd.training.trainer import Cost, threads_of

SMALL = {
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 2,
    "data.classes": ("0", "1", "2"),
    "runtime.device": "cpu",
    "runtime.precision": "fp32",
}


def runtime(train_threads=0, cpus=8, device="cpu"):
    config = RuntimeConfig(device="cpu", precision="fp32", train_threads=train_threads)
    made = Runtime.create(config, cpus)
    return made if device == "cpu" else Runtime(torch.device(device), *list(vars(made).values())[1:])


@pytest.fixture
def free(monkeypatch):
    """Set how many CPUs other programs leave; record each look at them."""
    looks = []

    def leave(count):
        monkeypatch.setattr(threads, "free_cpus", lambda usable: looks.append(usable) or min(usable, count))
        return looks

    return leave


# Gigaflops of a batch's forward pass: 0.4, 3.5 and 18.
@pytest.mark.parametrize(
    ("model", "batches", "pays"),
    [("convnet3_w64", Batches(64, 16), 1), ("convnet3_w64", Batches(128, 32), 6), ("resnet18", Batches(16, 32), 35)],
)
def test_threads_are_no_more_than_the_work_keeps_busy(free, model, batches, pays):
    free(64)
    network = network_size(model, 10, batches.image_size, "auto")
    for cpus in (1, 4, 64):
        assert choose_threads(network, batches, runtime(cpus=cpus), ALONE) == (min(cpus, pays), "")


def test_busy_machine_leaves_a_large_network_fewer(free):
    looks = free(3)
    large, small = (network_size("convnet3_w64", 10, size, "auto") for size in (32, 16))
    count, note = choose_threads(large, Batches(128, 32), runtime(), ALONE)
    assert count == 3
    assert note.startswith("trains with 3 CPU threads in place of 6: other programs keep the CPUs busy")
    assert looks == [8]
    assert choose_threads(small, Batches(64, 16), runtime(), ALONE) == (1, "")
    assert choose_threads(large, Batches(128, 32), runtime(), Ranks(0, 2)) == (3, ""), "half the batch, by two"
    assert choose_threads(large, Batches(128, 32), runtime(train_threads=5), ALONE) == (5, "")
    assert looks == [8], "no other case looks"


def test_watch_changes_no_weight_and_no_generator():
    network = build_model("convnet2_w16", 3, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    CostWatch.begin("teacher", network, Batches(64, 16), 2, runtime(), SeedTree(0))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))

    def run(changes=None, resume=None, cpus=2):
        config = override(recipe("digits"), SMALL | (changes or {}))
        index, ref = load_index(config, store, lambda done, total: None)
        planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]
        unit = Unit(planned.ref.unit, planned.params, lambda name: index, resume)
        counts = []
        events = []
        for item in PRETRAIN.run(config.pretrain, [unit], SeedTree(0), Runtime.create(config.runtime, cpus)):
            events.append(item)
            counts += [torch.get_num_threads()] * isinstance(item, Progress)
        (teacher,) = [item.value for item in events if isinstance(item, Output)]
        snapshots = [item.data for item in events if isinstance(item, Snapshot)]
        return teacher.to_files(), snapshots, set(counts), [item.text for item in events if isinstance(item, Note)]

    before = torch.get_num_threads()
    yield run
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def results():
    return []


@pytest.fixture
def whole(train, free, monkeypatch, results):
    """What a run with two threads returns; several threads pay for networks of this size, too."""
    monkeypatch.setattr("wmdd.cpus.FLOPS_PER_THREAD", 1e6)
    free(2)
    results += [] if results else [train()]
    return results[0]


def test_resumed_run_takes_the_number_of_its_snapshot(train, free, whole):
    teacher, snapshots, counts, notes = whole
    assert counts == {2}
    assert [threads_of(snapshot) for snapshot in snapshots] == [2, 2]
    assert notes == []
    free(1)  # the machine has become busy
    for snapshot in snapshots:
        again, _, counts, notes = train(resume=snapshot)
        assert (again, counts, notes) == (teacher, {2}, [])


def test_resumed_run_on_fewer_cpus_keeps_the_number(train, whole):
    teacher, (first, _), _, _ = whole
    again, _, counts, notes = train(resume=first, cpus=1)
    assert (again, counts) == (teacher, {2})
    (note,) = [note for note in notes if "continues" in note]
    assert "continues with 2 CPU threads, as it began, on 1 CPUs; runtime.train_threads=1 is faster" in note


def test_option_outranks_the_number_of_the_snapshot(train, whole):
    _, (first, _), _, _ = whole
    _, _, counts, notes = train({"runtime.train_threads": 1}, resume=first)
    assert counts == {1}
    assert "teacher continues with 1 CPU threads (runtime.train_threads) and began with 2: sums" in notes[0]


class Trained:
    def __init__(self, cost):
        self.cost = cost


@pytest.mark.parametrize(
    ("cost", "ratio"),
    [
        (Cost(cpu_s=20.0, wall_s=10.5, steps=100), None),
        (Cost(cpu_s=39.0, wall_s=19.5, steps=100), "4"),
        (Cost(cpu_s=15.0, wall_s=60.0, steps=100), "6"),
        (Cost(cpu_s=9.0, wall_s=9.0, steps=1), None),
    ],
    ids=["idle machine", "threads that spin", "threads that sleep", "too early to tell"],
)
def test_costly_steps_are_noted_once_with_a_remedy(cost, ratio):
    watch = CostWatch("teacher", 2, work_s=0.1)
    notes = [note.text for _ in range(3) for note in watch.look(Trained(cost))]
    assert len(notes) == (ratio is not None)
    if ratio:
        assert f"take {ratio} times the CPU time of their work" in notes[0]
        assert "--runtime.train_threads 1" in notes[0]


def test_work_is_measured_on_one_thread():
    network = build_model("convnet2_w16", 3, 16)
    watch = CostWatch.begin("teacher", network, Batches(64, 16), 2, runtime(), SeedTree(0))
    assert watch.work_s > 0
    assert torch.get_num_threads() == 2
    assert CostWatch.begin("teacher", network, Batches(64, 16), 1, runtime(), SeedTree(0)).work_s == 0
    torch.set_num_threads(1)
