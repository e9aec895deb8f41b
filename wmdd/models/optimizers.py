"""torch's optimisers for networks and images that are optimised step by step, without torch's compiler.

The first call of some methods of an optimiser imports `torch._dynamo`, and with it sympy and triton: more than a second
and 150 MiB in every worker. Only a step that is compiled needs that, and none is here. These optimisers call the same
methods without the decoration that imports it.

Fused steps on a CPU copy each tensor that is not contiguous, and back: weights that keep their channels last, gradients
and moments, two thirds of the step. Here these look contiguous to the step, which treats each element alike.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, optim

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # orders of dimensions that put channels last, and back


class _Uncompiled(optim.Optimizer):
    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)


def _step(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step without gradients, as its decoration makes it.

    It takes no closure, for which the weights would be turned.
    """
    plain: Callable[..., Any] = torch.no_grad()(inspect.unwrap(method))

    def step(self: optim.Optimizer) -> None:
        with _contiguous_weights(self):
            plain(self)

    return step


@contextlib.contextmanager
def _contiguous_weights(optimizer: optim.Optimizer) -> Iterator[None]:
    """For a fused step on a CPU, turn weights that keep their channels last, so that they are contiguous."""
    groups = [group["params"] for group in optimizer.param_groups if group.get("fused")]
    weights = [p for parameters in groups for p in parameters if _keeps_channels_last(p)]
    turned: list[Tensor] = []
    try:
        for weight in weights:
            _turn(weight, optimizer.state.get(weight, {}), _TO_LAST)
            turned.append(weight)
        yield
    finally:
        for weight in turned:
            _turn(weight, optimizer.state.get(weight, {}), _TO_FIRST)


def _keeps_channels_last(p: Tensor) -> bool:
    is_last = p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
    return is_last and p.device.type == "cpu" and p.grad is not None


def _turn(weight: Tensor, state: dict[str, Any], order: tuple[int, ...]) -> None:
    """Put the dimensions of a weight, its gradient and its moments in an order; their memory stays as it is."""
    grad, weight.grad = weight.grad, None  # a gradient must have the shape of its weight
    weight.data = weight.data.permute(order)
    weight.grad = None if grad is None else grad.permute(order)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.ndim == weight.ndim:
            state[name] = value.permute(order)


class Adam(_Uncompiled, optim.Adam):
    """`torch.optim.Adam`."""

    step = _step(optim.Adam.step)


class AdamW(_Uncompiled, optim.AdamW):
    """`torch.optim.AdamW`."""

    step = _step(optim.AdamW.step)


class RMSprop(_Uncompiled, optim.RMSprop):
    """`torch.optim.RMSprop`."""

    step = _step(optim.RMSprop.step)


class SGD(_Uncompiled, optim.SGD):
    """`torch.optim.SGD`."""

    step = _step(optim.SGD.step)
