"""The optimisers of teachers and students, and which parameters decay.

They are fused where torch can: one kernel for all tensors, where its default has several for each tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from wmdd.config.students import EvaluateConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.models import optimizers
from wmdd.models.optimizers import SGD, AdamW, RMSprop, Together

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


def student_optimizer(section: EvaluateConfig, network: nn.Module, learned: nn.Module | None = None) -> Optimizer:
    """Return the optimiser of a student.

    The rate of a group is that of the schedule, times the group's ``lr_scale``, if it has one.

    Args:
        learned: what the loss has to learn, a temperature; AdamW updates it, without decay.
    """
    optimizer = _network_optimizer(section, network)
    temperature = [] if learned is None else list(learned.parameters())
    if not temperature:
        return optimizer
    lr = section.student_temperature_lr
    group = _group(temperature, 0.0) | {"lr_scale": lr / section.lr}
    return Together(optimizer, AdamW([group], lr=lr, fused=True))


def _network_optimizer(section: EvaluateConfig, network: nn.Module) -> Optimizer:
    if section.optimizer == "muon":
        return _muon(section, network)
    groups = groups_by_ndim(network, section.weight_decay)
    if section.optimizer == "sgd":
        return SGD(groups, lr=section.lr, momentum=section.momentum, fused=True)
    return AdamW(groups, lr=section.lr, fused=True)


def _muon(section: EvaluateConfig, network: nn.Module) -> Optimizer:
    """Return Muon for the hidden matrices and AdamW for all other parameters, of which those of two dimensions decay.

    Muon is that of Jordan et al. (https://kellerjordan.github.io/posts/muon/, 2024): momentum 0.95, Nesterov's, and an
    update that is scaled by sqrt(max(1, rows / columns)).
    """
    hidden = hidden_weights(network)
    matrices = _group(hidden, section.weight_decay)
    matrices["lr_scale"] = section.muon_lr / section.lr
    others = groups_by_ndim(network, section.weight_decay, without=hidden)
    return Together(optimizers.Muon([matrices], lr=section.muon_lr), AdamW(others, lr=section.lr, fused=True))


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights of the linear layers and convolutions between the first and the last of them.

    Convolutions in groups are left out: their weights are many small matrices.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    outer = {id(layer.weight) for layer in (layers[0], layers[-1])}
    weights = {id(layer.weight): layer.weight for layer in layers if getattr(layer, "groups", 1) == 1}
    return [weight for number, weight in weights.items() if number not in outer]


def _teacher_groups(section: PretrainConfig, network: nn.Module) -> Groups:
    decay, norms, biases = section.weight_decay, section.norm_weight_decay, section.bias_weight_decay
    adamw = section.optimizer == "adamw"
    if norms is None and biases is None:
        return groups_by_ndim(network, decay) if adamw else [_group(network.parameters(), decay)]
    other = 0.0 if adamw else decay
    return groups_by_layer(network, decay, other if norms is None else norms, other if biases is None else biases)


def groups_by_ndim(network: nn.Module, decay: float, *, without: Sequence[Tensor] = ()) -> Groups:
    """Return parameter groups in which only weights of two or more dimensions decay, not norms and biases.

    Args:
        without: parameters to leave out.
    """
    excluded = set(map(id, without))
    parameters = [p for p in network.parameters() if id(p) not in excluded]
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
