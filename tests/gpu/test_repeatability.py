"""On one kind of device two runs give equal bits, also where one was cut short, was compiled, or shared its card."""

import multiprocessing

import pytest
import torch
from gpu_stages import (
    NETWORKS,
    ON_GPU,
    SLOWLY,
    evaluate,
    open_runtime,
    pauses,
    pretrain,
    recovered,
    recovery,
    relabel,
    snapshots,
    statistics,
    value,
)

pytestmark = pytest.mark.gpu
WAYS = {"fp32": {}, "bf16": {"precision": "bf16"}, "compiled": {"precision": "bf16", "compile": "on"}}
WAYS["graphs"] = {"precision": "bf16", "compile": "graphs"}
TOGETHER = WAYS["compiled" if ON_GPU else "bf16"]  # of several processes, each of which compiles
ALL_WAYS = ["fp32", "bf16", pytest.param("compiled", marks=pytest.mark.slow)]
LOOPS = [(name, way) for name in NETWORKS for way in ("fp32", "bf16")]
LOOPS += [pytest.param("convnet", "compiled", marks=pytest.mark.slow)]
if ON_GPU:  # a CPU would compile the first for a minute, and has no graphs
    LOOPS += [("resnet", "compiled"), ("convnet", "graphs"), ("resnet", "graphs")]


@pytest.mark.parametrize(("name", "way"), LOOPS)
def test_two_recoveries_give_equal_images(name, way):
    first, second = (recovered(name, open_runtime(**WAYS[way])) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.losses, second.losses)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_resumed_recovery_gives_undisturbed_images(way):
    runtime = open_runtime(**WAYS[way])
    whole, (paused, half) = recovered("convnet", runtime), recovery("convnet", runtime, until=2)[-2:]
    rest = recovered("convnet", runtime, paused=paused)
    assert torch.equal(rest.images, whole.images)
    assert torch.equal(rest.losses, whole.losses)
    assert not torch.equal(half.images, whole.images)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_recovery_goes_on_from_each_snapshot(way, monkeypatch):
    runtime = open_runtime(**WAYS[way])
    whole = recovered("convnet", runtime)
    monkeypatch.setattr("wmdd.outputs.SnapshotClock.is_due", lambda clock: True)
    found = pauses(recovery("convnet", runtime))
    assert [*found] == [1, 2, 3]
    for step in (2,) if way == "compiled" else found:  # each is compiled
        rest = recovered("convnet", runtime, paused=found[step])
        assert torch.equal(rest.images, whole.images)
        assert torch.equal(rest.losses, whole.losses)


@pytest.mark.parametrize("name", SLOWLY)
@pytest.mark.parametrize("way", ["fp32", "bf16"])
def test_resumed_teacher_equals_an_undisturbed_one(name, way, tmp_path):
    runtime = open_runtime(**WAYS[way])
    events = pretrain(tmp_path, runtime, name)
    resumed = pretrain(tmp_path, runtime, name, resume=snapshots(events)[1])
    assert len(snapshots(events)) == 3, "one before the first step, and one after each epoch but the last"
    assert len(snapshots(resumed)) == 1
    for layer, weights in value(events).weights.items():
        assert torch.equal(value(resumed).weights[layer], weights), layer


def test_resumed_student_equals_an_undisturbed_one(tmp_path, monkeypatch):
    runtime, changes = open_runtime(precision="bf16"), {"evaluate.ema": 0.9}
    monkeypatch.setattr("wmdd.outputs.SnapshotClock.is_due", lambda clock: True)
    events = evaluate(tmp_path, runtime, changes=changes)
    resumed = evaluate(tmp_path, runtime, changes=changes, resume=snapshots(events)[0])
    assert len(snapshots(resumed)) == 1
    assert value(resumed) == value(events)


def test_rarely_validated_student_leaves_snapshots(tmp_path, monkeypatch):
    runtime, changes = open_runtime(), {"evaluate.val_every": 3}
    whole = evaluate(tmp_path, runtime, changes=changes)
    assert snapshots(whole) == []
    monkeypatch.setattr("wmdd.outputs.SnapshotClock.is_due", lambda clock: True)
    found = snapshots(evaluate(tmp_path, runtime, changes=changes))
    assert len(found) == 2
    for snapshot in found:
        assert value(evaluate(tmp_path, runtime, changes=changes, resume=snapshot)) == value(whole)


def test_statistics_and_labels_are_equal_each_time(tmp_path):
    runtime = open_runtime(precision="bf16")
    first, second = (value(statistics(tmp_path, runtime, "resnet")) for _ in range(2))
    assert torch.equal(first.features, second.features)
    assert first.to_files() == second.to_files()
    assert value(relabel(runtime, "resnet")).data == value(relabel(runtime, "resnet")).data


@pytest.mark.slow
def test_processes_on_one_card_give_equal_images():
    alone = recovered("convnet", open_runtime(**TOGETHER)).images.numpy().tobytes()
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=send_images, args=(end,)) for _, end in ends]
    for process, (_, end) in zip(processes, ends, strict=True):
        process.start()
        end.close()  # so that a process that dies ends the wait
    found = [receiver.recv_bytes() if receiver.poll(90) else b"" for receiver, _ in ends]
    for process in processes:
        process.join(30)
    assert found == [alone, alone]


def send_images(end):
    """Recover in a separate process."""
    end.send_bytes(recovered("convnet", open_runtime(**TOGETHER)).images.numpy().tobytes())


@pytest.mark.slow
def test_compiled_images_do_not_depend_on_history():
    """A group that a resumed run begins with is compiled as it was in the middle of the undisturbed one."""
    runtime = open_runtime(precision="bf16", compile="on")
    torch._dynamo.reset()
    alone = recovered("convnet", runtime, places=[3])
    torch._dynamo.reset()
    for places in ([0, 1], [2], [3]):
        after = recovered("convnet", runtime, places=places)
    assert torch.equal(alone.images, after.images)
    assert torch.equal(alone.losses, after.losses)
