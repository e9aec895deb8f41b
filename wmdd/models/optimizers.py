"""torch's optimisers for networks and images that are optimised step by step, without torch's compiler.

The first call of some methods of an optimiser imports `torch._dynamo`, and with it sympy and triton: more than a second
and 150 MiB in every worker. Only a step that is compiled needs that, and none is here. These optimisers call the same
methods without the decoration that imports it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import optim


class _Uncompiled(optim.Optimizer):
    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)


def _step(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step without gradients, as its decoration makes it."""
    plain: Callable[..., Any] = torch.no_grad()(inspect.unwrap(method))
    return plain


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
