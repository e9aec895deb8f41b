"""torch's optimisers for networks and images that are optimised step by step, without torch's compiler.

The first call of some methods of an optimiser imports `torch._dynamo`, and with it sympy and triton: more than a second
and 150 MiB in every worker. Only a step that is compiled needs that, and none is here. These optimisers call the same
methods without the decoration that imports it.

Fused steps on a CPU copy each tensor that is not contiguous, and back: weights that keep their channels last, gradients
and moments, two thirds of the step. Here these look contiguous to the step, which treats each element alike.

torch's Muon takes matrices alone. Here a convolution's weight looks like one to it: its outputs, by all else.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, optim

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # orders of dimensions that put channels last, and back


class _Uncompiled(optim.Optimizer):
    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)


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


def _step(
    method: Callable[..., Any], view: Callable[[optim.Optimizer], AbstractContextManager[None]] = _contiguous_weights
) -> Callable[..., Any]:
    """Return a step without gradients, as its decoration makes it.

    It takes no closure, for which the weights would be turned.
    """
    plain: Callable[..., Any] = torch.no_grad()(inspect.unwrap(method))

    def step(self: optim.Optimizer) -> None:
        with view(self):
            plain(self)

    return step


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


def _matrix_weights(optimizer: optim.Optimizer) -> AbstractContextManager[None]:
    return _as_matrices((p for group in optimizer.param_groups for p in group["params"]), optimizer.state)


@contextlib.contextmanager
def _as_matrices(weights: Iterable[Tensor], state: dict[Tensor, dict[str, Any]]) -> Iterator[None]:
    """Show each weight of more than two dimensions, its gradient and its moments as (outputs, all else) matrices.

    The columns are in the order of the memory, so that weights which keep their channels last are not copied. Muon
    treats any order of columns alike.
    """
    kept: list[tuple[Tensor, Tensor, Tensor | None]] = []
    try:
        for weight in weights:
            if weight.ndim > 2:
                kept.append((weight, weight.data, weight.grad))
                _flatten(weight, state.get(weight, {}))
        yield
    finally:
        for weight, data, grad in kept:
            weight.grad = None  # a gradient must have the shape of its weight
            weight.data, weight.grad = data, grad
            for name, value in state.get(weight, {}).items():
                if isinstance(value, Tensor) and value.numel() == data.numel():
                    state[weight][name] = value.as_strided(data.shape, data.stride())


def _flatten(weight: Tensor, state: dict[str, Any]) -> None:
    data, grad = weight.data, weight.grad
    assert data.stride(0) * len(data) == data.numel(), "a weight's outputs must be its outermost dimension in memory"

    def matrix(tensor: Tensor) -> Tensor:
        if tensor.stride() != data.stride():
            tensor = torch.empty_like(data).copy_(tensor)
        return tensor.as_strided((len(data), data.stride(0)), (data.stride(0), 1))

    weight.grad = None
    weight.data = matrix(data)
    weight.grad = None if grad is None else matrix(grad)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == data.shape:
            state[name] = matrix(value)


class Muon(_Uncompiled, optim.Muon):
    """`torch.optim.Muon`, of weights of any shape."""

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        """Take what torch's takes; the groups have lists of weights."""
        with _as_matrices((p for group in groups for p in group["params"]), {}):
            super().__init__(groups, **options)

    step = _step(optim.Muon.step, _matrix_weights)


class Together(_Uncompiled):
    """Optimisers of different parameters as one: its groups are all of theirs, its state is shared by them."""

    def __init__(self, *parts: optim.Optimizer) -> None:
        """Take optimisers that have made no step."""
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self) -> None:  # type: ignore[override]
        """Make a step of each optimiser."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = list(itertools.islice(groups, len(part.param_groups)))
            part.state = self.state  # a loaded state is another object, and so are its groups
            part.step()
