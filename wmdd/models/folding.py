"""Batch-norm of a trained network, folded into the convolutions before it.

In evaluation, a batch-norm layer with running mean m, running variance v, scale g and shift h maps each channel x to
s (x - m) + h, with s = g / sqrt(v + eps). After a convolution with weights W and bias b, that is one convolution with
weights s W and bias s (b - m) + h: the same function within rounding, without a pass over its activations.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wmdd.layers.convolution import TrimmedConv2d

Layer = tuple[nn.Conv2d, nn.BatchNorm2d]


def folded(network: nn.Module, image_size: int) -> nn.Module:
    """Return a copy of a network in evaluation mode, with those batch-norm layers folded that alone read a convolution.

    All other layers stay as they are. It agrees with the network within rounding, for images of any size.

    Args:
        image_size: height and width, px, of an image on which the network is run to see what reads what.
    """
    network = _sharing_weights(network).eval()
    shared = {tensor.data_ptr() for tensor in _tensors(network)}
    paths: dict[nn.Module, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    images = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    with torch.no_grad(), _Readers(network) as readers:
        network(images)
    for convolution, norm in readers.pairs():
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, var, norm.eps, norm.weight, norm.bias
        )
        for path in paths[norm]:  # it may be registered under several names
            network.set_submodule(path, nn.Identity())
    for tensor in _tensors(network):
        if tensor.data_ptr() in shared:
            tensor.data = tensor.data.clone()
    return network


def _sharing_weights(network: nn.Module) -> nn.Module:
    """Return a copy whose tensors share the memory of the network's: most are replaced, and copies take their time."""
    shared: dict[int, Any] = {id(tensor): tensor.detach() for tensor in network.buffers()}
    shared |= {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    return copy.deepcopy(network, shared)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


class _Readers(TorchDispatchMode):
    """Sees, inside the ``with`` block, which layers and operators read the output of each convolution."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: Counter[nn.Module] = Counter()
        self._outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by id, which stays that of a tensor that is kept
        self._reads: Counter[int] = Counter()
        self._pairs: list[Layer] = []
        self._handles = [handle for module in network.modules() for handle in self._hooks(module)]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to exclude the mode from compilation, torch would import its compiler, for seconds

    def _hooks(self, module: nn.Module) -> list[Any]:
        # Subclasses may do something else with their weights.
        if type(module) in (nn.Conv2d, TrimmedConv2d):
            return [module.register_forward_hook(self._after_convolution)]
        if type(module) is nn.BatchNorm2d and module.track_running_stats:
            before = module.register_forward_pre_hook(self._before_norm)
            return [before, module.register_forward_hook(self._after_norm)]
        return []

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._reads.update(map(id, tree_leaves((args, kwargs))))
        return function(*args, **(kwargs or {}))

    def _after_convolution(self, module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._calls[module] += 1
        self._outputs[id(output)] = module, output  # type: ignore[assignment]
        self._reads[id(output)] = 0

    def _before_norm(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._calls[module] += 1
        read = id(inputs[0])
        if read in self._outputs and self._reads[read] == 0:
            self._pairs.append((self._outputs[read][0], module))  # type: ignore[arg-type]

    def _after_norm(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        self._reads[id(inputs[0])] = 0  # its own operators do not count, however many they are

    def pairs(self) -> list[Layer]:
        """Return each convolution whose output one batch-norm layer alone reads, with that layer, both run once."""
        unread = {convolution for convolution, output in self._outputs.values() if self._reads[id(output)] == 0}
        times = Counter(convolution for convolution, _ in self._pairs)
        return [
            (convolution, norm)
            for convolution, norm in self._pairs
            if convolution in unread and times[convolution] == self._calls[convolution] == self._calls[norm] == 1
        ]
