"""What a runtime does for a GPU and needs none to show."""

import copy
import dataclasses
import itertools
import platform
import subprocess
import sys
import threading

import pytest
import torch

from wmdd.config.machines import RuntimeConfig
from wmdd.cpus import bf16_on_cpu, cpu_flags
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime

RUNTIMES = {device: Runtime(torch.device(device), bf16=False, threads=1) for device in ("cpu", "cuda")}


def counted(count, seen):
    for number in range(count):
        seen.append((number, threading.current_thread()))
        yield number


@pytest.mark.parametrize("device", RUNTIMES)
def test_prepared_batches_come_whole_and_in_order(device):
    seen = []
    assert list(RUNTIMES[device].ahead(counted(20, seen))) == list(range(20))
    assert [number for number, _ in seen] == list(range(20))
    assert ({thread for _, thread in seen} == {threading.main_thread()}) == (device == "cpu")


def test_one_batch_is_prepared_ahead_on_a_gpu():
    seen = []
    batches = RUNTIMES["cuda"].ahead(counted(20, seen))
    assert next(batches) == 0
    batches.close()  # waits for the one under way
    assert [number for number, _ in seen] == [0, 1]
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.parametrize("device", RUNTIMES)
def test_error_of_a_batch_comes_in_order(device):
    def broken():
        yield 1
        raise ValueError("broken")

    batches = RUNTIMES[device].ahead(broken())
    assert next(batches) == 1
    with pytest.raises(ValueError, match="broken"):
        next(batches)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True)])
def test_fp32_is_not_tf32(precision, tf32):
    Runtime.create(RuntimeConfig(device="cpu", precision=precision)).enter()
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_timed_only_on_request(deterministic):
    runtime = Runtime.create(RuntimeConfig(device="cpu", deterministic=deterministic))
    try:
        runtime.enter()
        assert torch.backends.cudnn.deterministic is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
        assert runtime.describe()["deterministic"] is deterministic
    finally:
        Runtime.create(RuntimeConfig(device="cpu")).enter()


@pytest.mark.parametrize(
    ("flags", "bf16", "reason"),
    [
        ("fpu avx512f amx_tile amx_bf16 avx512_bf16", True, "auto: the CPU has amx_bf16"),
        ("fpu avx512f avx512_bf16", True, "auto: the CPU has avx512_bf16"),
        ("fpu avx2 avx512f avx512_vnni", False, "auto: the CPU has neither amx_bf16 nor avx512_bf16"),
        ("", False, "auto: the CPU has neither amx_bf16 nor avx512_bf16"),
    ],
)
def test_flags_of_the_cpu_decide_on_bf16(monkeypatch, flags, bf16, reason):
    assert bf16_on_cpu("auto", flags.split()) == (bf16, reason)
    for precision in ("bf16", "fp32"):
        assert bf16_on_cpu(precision, flags.split()) == (precision == "bf16", "set by runtime.precision")
    monkeypatch.setattr("wmdd.runtime.runtime.cpu_flags", lambda: flags.split())
    runtime = Runtime.create(RuntimeConfig(device="cpu"))
    assert runtime.bf16 is bf16
    assert runtime.describe()["reasons"]["precision"] == reason


def test_flags_are_words_of_this_cpu():
    assert all(flag.isprintable() and " " not in flag for flag in cpu_flags())


def test_description_says_why():
    chosen = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off", threads=2, train_threads=3))
    before = torch.get_num_threads()
    try:
        chosen.use_threads(2)
        assert chosen.describe()["reasons"] == {
            "precision": "set by runtime.precision",
            "compile": "set by runtime.compile",
            "threads": "runtime.threads",
        }
        chosen.use_threads(3)
        assert chosen.describe()["reasons"]["threads"] == "runtime.train_threads"
        chosen.use_threads(4)
        assert chosen.describe()["reasons"]["threads"] == "auto: what training keeps busy"
    finally:
        chosen.use_threads(before)
    reason = Runtime.create(RuntimeConfig(device="cpu")).describe()["reasons"]["compile"]
    assert reason == "auto: on a CPU, recovery that outlasts compilation"


def test_cpu_worker_does_not_look_for_a_gpu(monkeypatch):
    def look():
        raise AssertionError("looked for a GPU")

    monkeypatch.setattr(torch.cuda, "is_available", look)
    assert Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off")).device.type == "cpu"


@pytest.mark.parametrize(("size", "stride"), [(1, 2), (2, 2), (2, 3)])
def test_gradient_of_padding_in_bf16_is_zero(size, stride):
    """With AMX, torch's layer leaves uninitialised memory there."""
    runtime = Runtime(torch.device("cpu"), bf16=True, threads=1)
    layer = runtime.place(torch.nn.Conv2d(64, 64, 3, stride=stride, padding=1, bias=False))
    images = torch.ones(4, 64, size, size).contiguous(memory_format=torch.channels_last)
    for used in [torch.full_like(layer.weight, 1e37) for _ in range(4)]:
        del used
    with runtime.autocast():
        answers = layer(images)
    answers.float().sum().backward()
    assert answers.dtype == torch.bfloat16
    assert layer.weight.grad.abs().max() == 4 * answers.shape[-1] ** 2
    assert (layer.weight.grad[:, :, 0, 0] == 0).all()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_convolutions_without_what_meets_only_padding_are_torchs(size, kernel, groups):
    trimmed = 0
    for stride, padding, dilation in itertools.product((1, 2, 3), (0, 1, 2, 3), (1, 2)):
        if size + 2 * padding <= dilation * (kernel - 1):
            continue  # there is no output
        options = {"stride": (stride, 1), "padding": (padding, 1), "dilation": (dilation, 1), "groups": groups}
        layers = [torch.nn.Conv2d(4, 4, (kernel, 3), **options) for _ in range(2)]
        layers[1].load_state_dict(layers[0].state_dict())
        layers[1] = Runtime(torch.device("cpu"), bf16=False, threads=1).place(layers[1])
        images = torch.arange(2 * 4 * size, dtype=torch.float32).sin().view(2, 4, size, 1)
        expected, answers = (layer(images) for layer in layers)
        torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-6)
        for values in (expected, answers):
            values.square().sum().backward()
        gradients = [layer.weight.grad for layer in layers]
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
        assert (gradients[1][..., 0] == 0).all()
        trimmed += int((gradients[0][..., 1].abs().sum(dim=(0, 1)) == 0).any())
    assert trimmed or kernel == 1 or size == 5


def test_part_of_a_frozen_kernel_follows_its_weights():
    layer = Runtime(torch.device("cpu"), bf16=False, threads=1).place(torch.nn.Conv2d(3, 2, 3, padding=1, bias=False))
    layer.requires_grad_(False)
    images = torch.ones(1, 3, 1, 1)
    before = layer(images)
    assert torch.equal(layer(images), before)
    layer.weight.mul_(2)
    assert torch.equal(layer(images), 2 * before)
    layer.weight.data = torch.ones_like(layer.weight)
    assert (layer(images) == 3).all()
    copied = copy.deepcopy(layer)
    assert vars(copied).keys() < vars(layer).keys(), "the kept part is copied, too"
    assert torch.equal(copied(images), layer(images))
    layer.requires_grad_(True)
    layer(images).sum().backward()
    assert layer.weight.grad[:, :, 1, 1].abs().min() == 1


def test_part_of_a_frozen_kernel_follows_its_images_and_type():
    layers = [torch.nn.Conv2d(3, 2, 3, padding=1).requires_grad_(False) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    runtime = Runtime(torch.device("cpu"), bf16=False, threads=1)
    runtime.place(layers[1])
    for size in (1, 2, 1, 2):
        images = runtime.images(torch.full((1, 3, 1, size), 0.5))
        torch.testing.assert_close(layers[1](images), layers[0](images))
    for layer in layers:
        layer.to(torch.bfloat16)
    assert torch.equal(layers[1](images.bfloat16()), layers[0](images.bfloat16()))
    with torch.inference_mode():
        inferred = layers[1](images.bfloat16())
    assert torch.equal(inferred, layers[1](images.bfloat16()))


def test_dilated_kernel_larger_than_its_image_is_refused_as_by_torch():
    layers = [torch.nn.Conv2d(2, 2, 3, dilation=2) for _ in range(2)]
    Runtime(torch.device("cpu"), bf16=False, threads=1).place(layers[1])
    for layer in layers:
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            layer(torch.zeros(1, 2, 3, 3))


@pytest.mark.parametrize(
    ("gib", "values", "images"),
    [(0, 10**6, 100), (0.1, 10**6, 100), (80, 10**6, 2100), (80, 10**7, 200), (8, 10**6, 200)],
)
def test_images_of_a_pass_follow_the_memory_of_the_gpu(gib, values, images):
    runtime = dataclasses.replace(RUNTIMES["cpu"], device_bytes=int(gib * 2**30))
    assert runtime.images_per_pass(values, 100) == images


def test_network_for_bf16_is_copied_and_loaded():
    runtime = Runtime(torch.device("cpu"), bf16=True, threads=1)
    network = runtime.place(build_model("resnet18", 3, 16, stem="standard"))
    copied = copy.deepcopy(network)
    copied.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert copied.layer4[0].conv1(torch.ones(1, 256, 1, 1)).abs().max() == 0
    assert network.layer4[0].conv1(torch.ones(1, 256, 1, 1)).abs().max() > 0


STEPS = """
import resource, torch
from wmdd.config.machines import RuntimeConfig
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
runtime = Runtime.create(RuntimeConfig(device="cpu", precision="fp32"))
runtime.enter()
network, images = runtime.place(build_model("convnet3_w64", 10, 32)), runtime.images(torch.zeros(128, 3, 32, 32))
def cleared(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        network(images).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(cleared(4) for _ in range(6)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by other rules")
def test_steps_use_freed_memory_again():
    """Pages that the kernel clears for four steps of a new process: the fewest, since its heap grows in the first."""
    pages = subprocess.run([sys.executable, "-c", STEPS], stdout=subprocess.PIPE, check=True).stdout
    assert int(pages) < 5000, "a hundred thousand if large blocks are returned"
