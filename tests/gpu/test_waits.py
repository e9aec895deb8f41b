"""The host runs ahead of the device: how often it waits does not grow with steps, batches or epochs."""

import pytest
from gpu_stages import evaluate, open_runtime, pretrain, recovered, relabel, value, waits

pytestmark = pytest.mark.gpu


def grows(call, few, many):
    """How many more waits the longer call has; the first call of all loads kernels, which waits too."""
    call(few)
    return waits(lambda: call(many)) - waits(lambda: call(few))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_of_recovery_do_not_wait(precision):
    runtime = open_runtime(precision=precision)
    assert grows(lambda steps: recovered("convnet", runtime, steps=200, until=steps), 3, 11) == 0


def test_batches_of_a_teachers_epoch_do_not_wait(tmp_path):
    runtime = open_runtime(precision="bf16")

    def train(each):
        pretrain(tmp_path / str(each), runtime, each=each, changes={"pretrain.epochs": 1, "pretrain.mix": "none"})

    train(6)
    assert grows(train, 6, 24) == 0


def test_batches_of_labels_do_not_wait():
    runtime = open_runtime(precision="bf16")
    # One copy of each batch at the end of an epoch, which waits for nothing more once the first is there.
    assert grows(lambda size: relabel(runtime, changes={"relabel.batch_size": size}, epochs=2), 4, 2) <= 2


def test_batches_of_a_students_epoch_do_not_wait(tmp_path):
    runtime = open_runtime(precision="bf16")
    labels = {size: [value(relabel(open_runtime("cpu"), changes={"relabel.batch_size": size}))] for size in (4, 2)}
    assert grows(lambda size: evaluate(tmp_path, runtime, labels=labels[size]), 4, 2) == 0
