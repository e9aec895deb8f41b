"""The losses of the method: one value per class in recovery, so that regrouping classes changes no gradient."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_loss(features: Tensor, support: Tensor, weights: Tensor, kind: Literal["rms", "squared"]) -> Tensor:
    """Distance between the features of images and their barycenter atoms.

    Args:
        features: (classes, ipc, d) float32.
        support: (classes, ipc, d) float32, atoms in the order of the images.
        weights: (classes, ipc) float32, sum to 1 per class.
        kind: ``squared`` is the paper's formula. ``rms`` is its root: the released code takes one Frobenius norm over
            its whole batch, which ties classes to each other; ten times ours has the same gradient at its 100 images.

    Returns:
        (classes,) float32.
    """
    if features.shape != support.shape:
        raise ValueError(f"features {tuple(features.shape)} and support {tuple(support.shape)} must match")
    squared = ((features - support).square().sum(dim=-1) * weights).sum(dim=-1)
    # The root has no slope at 0, where a class that has reached its atoms would give NaN.
    return squared if kind == "squared" else (squared + 1e-12).sqrt()


def batch_norm_loss(inputs: Tensor, mean: Tensor, var: Tensor, weights: Tensor, *, relative: bool = False) -> Tensor:
    """Distance between the moments of one batch-norm layer's inputs and those of the class's real images.

    Args:
        inputs: (classes * ipc, channels, h, w), any float type; images of a class are contiguous.
        mean, var: (classes, channels) float32 targets; the variance is biased.
        weights: (classes, ipc) float32, sum to 1 per class.
        relative: divide each of the two norms by that of its target (ours): a layer's statistics are as large as its
            inputs happen to be, so that a weight that suits one teacher is far off for another.

    Returns:
        (classes,) float32: norm of the difference of means plus norm of the difference of variances.
    """
    classes, ipc = weights.shape
    # Moments about the target mean: one pass, and no cancellation once the means agree.
    shift = mean.repeat_interleave(ipc, dim=0)[:, :, None, None]
    centred = inputs.float() - shift
    first = (centred.mean(dim=(2, 3)).view(classes, ipc, -1) * weights[:, :, None]).sum(dim=1)
    second = (centred.square().mean(dim=(2, 3)).view(classes, ipc, -1) * weights[:, :, None]).sum(dim=1)
    off, spread = _norm(first), _norm(second - first.square() - var)
    return off / _norm(mean) + spread / _norm(var) if relative else off + spread


def cross_entropy_loss(logits: Tensor, class_ids: Tensor, ipc: int) -> Tensor:
    """Mean cross-entropy of each class's images, (classes,), given (classes * ipc, outputs) logits."""
    targets = class_ids.repeat_interleave(ipc)
    return F.cross_entropy(logits.float(), targets, reduction="none").view(-1, ipc).mean(dim=1)


def total_variation_loss(images: Tensor, ipc: int) -> Tensor:
    """Roughness of each class's images: norms of the differences to four neighbours (Yin et al., 2020), (classes,).

    The published code takes one norm over its whole batch; ours is the mean of the images' own.

    Args:
        images: (classes * ipc, 3, h, w) normalised.
    """
    right, down = images[..., :-1] - images[..., 1:], images[..., :-1, :] - images[..., 1:, :]
    falling, rising = images[..., :-1, :-1] - images[..., 1:, 1:], images[..., 1:, :-1] - images[..., :-1, 1:]
    rough = torch.stack([_norm(part.flatten(1)) for part in (right, down, falling, rising)]).sum(dim=0)
    return rough.view(-1, ipc).mean(dim=1)


def l2_loss(images: Tensor, ipc: int) -> Tensor:
    """Mean norm of each class's images, (classes,), given (classes * ipc, 3, h, w) normalised ones."""
    return _norm(images.flatten(1)).view(-1, ipc).mean(dim=1)


def soft_label_loss(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Weighted mean of KL(softmax(teacher / T) || softmax(student / T)), without a factor T^2 (FKD).

    Args:
        student, teacher: (n, classes) logits.
        weights: (n,) float32 with mean 1 over the whole training set.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return (divergence * weights).mean()


def _norm(difference: Tensor) -> Tensor:
    return torch.sqrt(difference.square().sum(dim=-1) + 1e-12)
