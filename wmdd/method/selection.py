"""Real images of a class that are chosen by a rule: as baselines, and where recovery starts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.models.probes import head_logits
from wmdd.models.teacher import Teacher


def by_loss(teacher: Teacher, statistics: ClassStatistics) -> np.ndarray:
    """Return the positions of a class's images by the teacher's cross-entropy, the lowest first.

    The logits follow from the features, so no image passes the teacher again.
    """
    logits = head_logits(teacher.network, teacher.num_classes, statistics.features)
    classes = torch.full((len(logits),), statistics.class_id)
    order: np.ndarray = F.cross_entropy(logits, classes, reduction="none").argsort(stable=True).numpy()
    return order


def herd(features: np.ndarray, count: int) -> np.ndarray:
    """Choose rows one by one so that the mean of the chosen stays nearest to the mean of all (Welling, 2009).

    Args:
        features: (n, d), n at least `count`.

    Returns:
        (count,) distinct positions, best first.
    """
    wide = features.astype(np.float64)
    mean, total = wide.mean(axis=0), np.zeros(wide.shape[1])
    chosen: list[int] = []
    for size in range(1, count + 1):
        distance = np.square(mean - (total + wide) / size).sum(axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        total += wide[chosen[-1]]
    return np.array(chosen)


def in_order_of_atoms(rows: np.ndarray, statistics: ClassStatistics, barycenter: Barycenter) -> np.ndarray:
    """Return the rows so that the j-th belongs to atom j, at the least sum of squared distances of features.

    Args:
        rows: (k,) positions among the class's images, as many as atoms.
    """
    from scipy.optimize import linear_sum_assignment  # 30 MiB that no other start needs

    costs = torch.cdist(barycenter.support.double(), statistics.features[torch.from_numpy(rows)].double()).square()
    _, columns = linear_sum_assignment(costs.numpy())
    ordered: np.ndarray = rows[columns]
    return ordered
