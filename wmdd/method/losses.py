"""The losses of the method, in closed form.

Losses of recovery return one value for each class, a function of that class's images alone, so that no gradient depends
on which classes share a tensor batch. Their notation: k images of a class with masses m_1, ..., m_k that sum to 1;
f_j in R^d the features of image j, b_j its atom; x_j image j; |.| the Euclidean norm. Norms and roots are taken of
their squares plus 1e-12, because a root has no slope at 0.

Sources:

- [WMDD] Liu et al., "Dataset Distillation via the Wasserstein Metric", ICCV 2025, arXiv 2311.18531.
- [SRe2L] Yin et al., "Squeeze, Recover and Relabel", NeurIPS 2023: cross-entropy, and statistics over all classes.
- [DI] Yin et al., "Dreaming to Distill via DeepInversion", CVPR 2020: the priors total variation and L2.
- [FKD] Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022: soft labels.

Cost: O(k d) for features; two passes over the inputs of each batch-norm layer, of which no copy is kept.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wmdd.method.batch_norm_term import BatchNormTerm, norm


def feature_loss(features: Tensor, support: Tensor, mass: Tensor, kind: Literal["rms", "squared"]) -> Tensor:
    """Return the distance between the features of images and their atoms, (classes,) float32.

        squared: sum_j m_j |f_j - b_j|^2          rms: the root of it

    Args:
        features: (classes, ipc, d) float32.
        support: (classes, ipc, d) float32, atoms in the order of the images.
        mass: (classes, ipc) float32, of the images, sum to 1 for each class.
        kind: ``squared`` is the formula of [WMDD]. Its released code takes one norm over the whole tensor batch, which
            couples the classes; 10 times ``rms`` has the same gradient as that norm of 100 images of one class.

    Raises:
        ValueError: if features and atoms differ in shape.
    """
    if features.shape != support.shape:
        raise ValueError(f"features {tuple(features.shape)} and support {tuple(support.shape)} must match")
    squared = ((features - support).square().sum(dim=-1) * mass).sum(dim=-1)
    return squared if kind == "squared" else (squared + 1e-12).sqrt()


def batch_norm_loss(inputs: Tensor, mean: Tensor, var: Tensor, mass: Tensor, *, relative: bool = False) -> Tensor:
    """Return the distance of the moments of a batch-norm layer's inputs to those of real images, (classes,) float32.

        |mean(a) - mean| + |var(a) - var|     with     mean(a) = sum_j m_j mean_p a_jp,     p the positions of an image

    Args:
        inputs: (classes * ipc, channels, h, w) a, any float type; images of a class are contiguous.
        mean, var: (classes, channels) float32 targets; the variance is biased.
        mass: (classes, ipc) float32, of the images, sum to 1 for each class.
        relative: divide each of the two norms by that of its target (not in [WMDD]). Moments are as large as a layer's
            inputs happen to be, so that a weight that suits one teacher does not suit another.
    """
    unchanged = torch.ones_like(mean[0]), torch.zeros_like(mean[0])
    loss: Tensor = BatchNormTerm.apply(inputs, mean, var, mass, relative, *unchanged)[1]
    return loss


def cross_entropy_loss(logits: Tensor, class_ids: Tensor, ipc: int) -> Tensor:
    """Return the mean cross-entropy of each class's images, (classes,), from (classes * ipc, outputs) logits."""
    targets = class_ids.repeat_interleave(ipc)
    return F.cross_entropy(logits.float(), targets, reduction="none").view(-1, ipc).mean(dim=1)


def total_variation_loss(images: Tensor, ipc: int) -> Tensor:
    """Return the mean over each class's images of the norms of differences to four neighbours, (classes,).

    The published code of [DI] takes one norm over its whole batch; here each image has its norms.

    Args:
        images: (classes * ipc, 3, h, w) normalised.
    """
    right, down = images[..., :-1] - images[..., 1:], images[..., :-1, :] - images[..., 1:, :]
    falling, rising = images[..., :-1, :-1] - images[..., 1:, 1:], images[..., 1:, :-1] - images[..., :-1, 1:]
    norms = torch.stack([norm(part.flatten(1)) for part in (right, down, falling, rising)]).sum(dim=0)
    return norms.view(-1, ipc).mean(dim=1)


def l2_loss(images: Tensor, ipc: int) -> Tensor:
    """Return the mean norm of each class's images, (classes,), from (classes * ipc, 3, h, w) normalised ones."""
    return norm(images.flatten(1)).view(-1, ipc).mean(dim=1)


def soft_label_loss(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor,
    temperature: float,
    student_temperature: Tensor | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    """Return the mean of w_i KL(softmax(teacher_i / T) || softmax(student_i / S)).

    Args:
        student, teacher: (n, classes) logits.
        weights: (n,) float32, with mean 1 over the whole training set.
        temperature: T.
        student_temperature: S, a scalar; None for T.
        squared: multiply by T^2, as Hinton et al. (2015) do; without, as [FKD], the gradient falls with 1 / T^2.
    """
    of_student = temperature if student_temperature is None else student_temperature
    log_student = F.log_softmax(student.float() / of_student, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    loss = (divergence * weights).mean()
    return loss * temperature**2 if squared else loss
