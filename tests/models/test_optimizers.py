"""Our optimisers are torch's, bit for bit, and do not import its compiler."""

import subprocess
import sys

import torch
from tables import each_of

from wmdd.models import optimizers

OPTIONS = {
    "Adam": {"lr": 0.1, "betas": (0.5, 0.9)},
    "AdamW": {"lr": 0.1, "weight_decay": 0.05},
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
