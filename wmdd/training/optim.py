"""The optimisers of teachers and students, and which parameters decay.

They are fused where torch can: one kernel for all tensors, where its default has several for each tensor.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from wmdd.config.students import EvaluateConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.models.optimizers import SGD, AdamW, RMSprop

Groups = list[dict[str, Any]]
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def teacher_optimizer(section: PretrainConfig, network: nn.Module) -> Optimizer:
    """Return the optimiser of a teacher; RMSprop's constants are those of torchvision's training script."""
    groups = _teacher_groups(section, network)
    match section.optimizer:
        case "adamw":
            return AdamW(groups, lr=section.lr, fused=True)
        case "rmsprop":
            return RMSprop(groups, lr=section.lr, momentum=section.momentum, alpha=0.9, eps=0.0316)
        case "sgd":
            nesterov = section.nesterov
            return SGD(groups, lr=section.lr, momentum=section.momentum, nesterov=nesterov, fused=True)


def student_optimizer(section: EvaluateConfig, network: nn.Module) -> Optimizer:
    """Return the optimiser of a student."""
    groups = groups_by_ndim(network, section.weight_decay)
    if section.optimizer == "sgd":
        return SGD(groups, lr=section.lr, momentum=section.momentum, fused=True)
    return AdamW(groups, lr=section.lr, fused=True)


def _teacher_groups(section: PretrainConfig, network: nn.Module) -> Groups:
    decay, norms, biases = section.weight_decay, section.norm_weight_decay, section.bias_weight_decay
    adamw = section.optimizer == "adamw"
    if norms is None and biases is None:
        return groups_by_ndim(network, decay) if adamw else [_group(network.parameters(), decay)]
    other = 0.0 if adamw else decay
    return groups_by_layer(network, decay, other if norms is None else norms, other if biases is None else biases)


def groups_by_ndim(network: nn.Module, decay: float) -> Groups:
    """Return parameter groups in which only weights of two or more dimensions decay, not norms and biases."""
    parameters = list(network.parameters())
    return [_group((p for p in parameters if p.ndim >= 2), decay), _group((p for p in parameters if p.ndim < 2), 0.0)]


def groups_by_layer(network: nn.Module, decay: float, of_norms: float, of_biases: float) -> Groups:
    """Return parameter groups: normalisation layers, biases of other layers, and all else, each with its decay."""
    norms = [p for m in network.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)]
    inside = {id(parameter) for parameter in norms}
    others = [(name, p) for name, p in network.named_parameters() if id(p) not in inside]
    biases = [p for name, p in others if name.rpartition(".")[2] == "bias"]
    weights = [p for name, p in others if name.rpartition(".")[2] != "bias"]
    pairs = ((weights, decay), (norms, of_norms), (biases, of_biases))
    return [_group(parameters, value) for parameters, value in pairs if parameters]


def _group(parameters: Any, decay: float) -> dict[str, Any]:
    return {"params": list(parameters), "weight_decay": decay}
