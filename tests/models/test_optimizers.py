"""Our optimisers are torch's, bit for bit, and do not import its compiler."""

import subprocess
import sys

import pytest
import torch
from builders import normal
from tables import each_of

from wmdd.models import optimizers

OPTIONS = {
    "Adam": {"lr": 0.1, "betas": (0.5, 0.9)},
    "AdamW": {"lr": 0.1, "weight_decay": 0.05},
    "Muon": {"lr": 0.1, "momentum": 0.8},
    "RMSprop": {"lr": 0.1, "momentum": 0.9, "alpha": 0.9, "eps": 0.0316},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
}


def trained(optimizer_class, options, steps=5):
    """Return the weights, and the optimiser's state, after steps with a state that is read back in their middle."""
    weights = [torch.linspace(-1, 1, count).reshape(-1, 2).requires_grad_() for count in (4, 6)]
    optimizer = optimizer_class([{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:]}], **options)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        sum((weight**3).sum() for weight in weights).backward()
        optimizer.step()
        if step == 2:
            optimizer.load_state_dict(optimizer.state_dict())
    return weights, optimizer


@each_of("name", list(OPTIONS))
def test_steps_and_state_are_those_of_torch(name):
    weights, optimizer = trained(getattr(optimizers, name), OPTIONS[name])
    expected, of_torch = trained(getattr(torch.optim, name), OPTIONS[name])
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert all(map(torch.equal, weights, expected))
    assert all(weight.requires_grad and weight.is_leaf for weight in weights)
    for number, state in of_torch.state_dict()["state"].items():
        for key, value in state.items():
            assert value is None or torch.equal(optimizer.state_dict()["state"][number][key], value)


def test_step_hooks_are_called():
    calls = []
    _, optimizer = trained(optimizers.SGD, OPTIONS["SGD"])
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step()
    assert calls == ["post"]


def with_channels_last(optimizer_class, options):
    """Return weights of convolutions after fused steps, shapes and strides, and the kernels of the last step."""
    torch.manual_seed(0)
    weights = [torch.randn(shape).to(memory_format=torch.channels_last) for shape in ((5, 3, 3, 3), (4, 5, 1, 1))]
    weights = [*map(torch.nn.Parameter, weights), torch.nn.Parameter(torch.randn(4))]
    optimizer, gradients = optimizer_class(weights, fused=True, **options), []
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        sum((weight**3).sum() for weight in weights).backward()
        gradients = [weight.grad for weight in weights]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            optimizer.step()
        if step == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    tensors = [*weights, *gradients, *(weight.grad for weight in weights), *moments]
    layout = [(tensor.shape, tensor.stride()) for tensor in tensors]
    return tensors, layout, {event.key for event in profile.key_averages()}


@each_of("name", ["AdamW", "SGD"])
def test_fused_steps_do_not_copy_weights_that_keep_channels_last(name):
    tensors, layout, kernels = with_channels_last(getattr(optimizers, name), OPTIONS[name])
    expected, layout_of_torch, kernels_of_torch = with_channels_last(getattr(torch.optim, name), OPTIONS[name])
    assert all(map(torch.equal, tensors, expected))
    assert layout == layout_of_torch
    assert any("fused" in kernel for kernel in kernels)
    assert "aten::clone" not in kernels
    assert "aten::clone" in kernels_of_torch, "torch does not copy them either: ours may do as torch's"


def with_muon(view, steps=3):
    """Return the weights of two convolutions after Muon's steps, which a view turns into what Muon gets."""
    weights = [normal(*shape, seed=1).to(memory_format=torch.channels_last) for shape in ((5, 3, 3, 3), (4, 6, 1, 1))]
    weights = [view(weight).requires_grad_() for weight in weights]
    optimizer = optimizers.Muon([{"params": weights}], lr=0.1, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        sum((weight**3).sum() for weight in weights).backward()
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    return weights, optimizer


def test_muon_sees_a_convolution_as_the_matrix_of_its_outputs():
    weights, optimizer = with_muon(torch.clone)
    in_memory, _ = with_muon(lambda weight: weight.permute(0, 2, 3, 1).flatten(1).clone())
    by_shape, _ = with_muon(lambda weight: weight.flatten(1).clone())
    for weight, memory, shape in zip(weights, in_memory, by_shape, strict=True):
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()
        assert torch.equal(weight.permute(0, 2, 3, 1).flatten(1), memory)
        torch.testing.assert_close(weight.flatten(1), shape, rtol=0, atol=2e-3)  # its products have eight bits


def test_muon_orthogonalises_the_update():
    weight = torch.zeros(8, 3, 3, 3, requires_grad=True)
    scales = torch.logspace(0, -2, 8).view(8, 1, 1, 1)
    weight.grad = normal(8, 3, 3, 3) * scales
    gradient = torch.linalg.svdvals(weight.grad.flatten(1))
    optimizers.Muon([{"params": [weight]}], lr=1.0).step()
    update = torch.linalg.svdvals(weight.detach().flatten(1))
    assert gradient.max() / gradient.min() > 50
    assert 0.5 < update.min() < update.max() < 1.3


def test_muon_takes_gradients_in_another_order_than_their_weights():
    weights = [normal(4, 3, 3, 3).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2)]
    gradient = normal(4, 3, 3, 3, seed=1)
    weights[0].grad, weights[1].grad = gradient, gradient.to(memory_format=torch.channels_last)
    optimizers.Muon([{"params": weights}], lr=0.1).step()
    assert torch.equal(*weights)
    assert weights[0].grad is not None
    assert weights[0].grad.is_contiguous()


def test_failing_step_of_muon_leaves_weights_as_they_were(monkeypatch):
    weight = normal(2, 3, 4, 4).requires_grad_()
    weight.grad = torch.ones(2, 3, 4, 4)
    optimizer = optimizers.Muon([{"params": [weight]}], lr=0.1)
    monkeypatch.setattr(sys.modules["torch.optim._muon"], "muon", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert weight.shape == weight.grad.shape == optimizer.state[weight]["momentum_buffer"].shape == (2, 3, 4, 4)


def test_optimisers_together_step_as_they_do_apart():
    def parts(weights):
        return optimizers.Muon([{"params": weights[:1]}], lr=0.1), optimizers.AdamW(weights[1:], lr=0.01)

    together, apart = ([normal(3, 4, seed=seed).requires_grad_() for seed in range(3)] for _ in range(2))
    one, several = optimizers.Together(*parts(together)), parts(apart)
    for step in range(4):
        for weight in (*together, *apart):
            weight.grad = weight.detach() ** 2
        one.param_groups[0]["lr"] = several[0].param_groups[0]["lr"] = 0.1 / (step + 1)
        one.step()
        for optimizer in several:
            optimizer.step()
        if step == 1:
            one.load_state_dict(one.state_dict())
    assert all(map(torch.equal, together, apart))
    one.zero_grad()
    assert all(weight.grad is None for weight in together)


def test_failing_step_leaves_weights_as_they_were(monkeypatch):
    weight = torch.nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    weight.grad = torch.ones_like(weight)
    optimizer = optimizers.SGD([weight], lr=0.1, fused=True)
    monkeypatch.setattr(sys.modules["torch.optim.sgd"], "sgd", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert weight.shape == weight.grad.shape == (2, 3, 4, 4)


def test_compiler_is_not_imported():
    code = (
        "import sys; from test_optimizers import OPTIONS, optimizers, trained\n"
        "for name, options in OPTIONS.items(): trained(getattr(optimizers, name), options)\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy', 'triton') if name in sys.modules])"
    )
    folders = [path for path in sys.path if path]
    there = {"PYTHONPATH": ":".join([str(__file__).rpartition("/")[0], *folders])}
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
