"""The free-support Wasserstein barycenter of one class's features, on POT.

With a single input measure the barycenter is the best k-point approximation of the class in the squared Wasserstein
distance: equal-mass k-means for uniform weights, k-means for learnt ones ("Dataset Distillation via the Wasserstein
Metric", ICCV 2025, section 3). Uniform weights alternate POT's exact plan with the position step. Learnt weights need
no subgradient steps on the dual: for fixed atoms the best weights are the shares of features nearest to each, so the
alternation descends, where the released mirror descent first climbs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import ot
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from wmdd.errors import ConfigError
from wmdd.text import counted

WeightMode = Literal["uniform", "learnt"]
PIVOTS = 5_000_000


@dataclass(frozen=True, eq=False)
class TransportResult:
    """A barycenter and how it was reached.

    Args:
        support: (k, d) float32.
        weights: (k,) float64, positive, sum to 1.
        objective: squared Wasserstein distance at the start of each step and at the end; never rises.
        converged: the tolerance was met before the last allowed step.
        nearest: (k,) int64, distinct rows of the features that together lie nearest to the atoms, one each.
    """

    support: np.ndarray
    weights: np.ndarray
    objective: tuple[float, ...]
    converged: bool
    nearest: np.ndarray


def free_support_barycenter(
    features: np.ndarray,
    k: int,
    *,
    weights: WeightMode,
    rng: np.random.Generator,
    init: Literal["kmeans++", "random"] | np.ndarray = "kmeans++",
    max_iterations: int = 100,
    tolerance: float = 1e-7,
) -> TransportResult:
    """Place k atoms that minimise W2^2 to the empirical measure of the features.

    Args:
        features: (n, d), any float type, finite.
        k: atoms, 1 to n.
        weights: ``uniform`` masses 1/k, or ``learnt``.
        rng: draws the start.
        init: ``kmeans++``, ``random`` rows, or a (k, d) start.
        max_iterations: steps at most; running out gives `converged` False.
        tolerance: relative fall of the objective that ends the search.

    Raises:
        ConfigError: if there are fewer features than atoms.
        ValueError: if a feature is not finite.
    """
    points = np.asarray(features, dtype=np.float64)
    if k > len(points):
        held = counted(len(points), "image", "images")
        raise ConfigError(f"barycenter.ipc={k}: larger than the class ({held}); lower barycenter.ipc")
    if not np.isfinite(points).all():
        raise ValueError("features must be finite")
    # Centring changes no distance and keeps the expanded squares exact for features far from the origin.
    centre = points.mean(axis=0)
    points = points - centre
    atoms = _start(points, k, rng, init, centre)
    step = _uniform_step if weights == "uniform" else _learnt_step
    objective: list[float] = []
    converged = False
    for _ in range(max_iterations + 1):
        value, masses, moved = step(points, atoms)
        objective.append(value)
        if len(objective) > 1 and objective[-2] - value <= tolerance * max(objective[-2], 1e-300):
            converged = True
            break
        if len(objective) <= max_iterations:
            atoms = moved
    nearest = linear_sum_assignment(ot.dist(atoms, points))[1]
    support = (atoms + centre).astype(np.float32)
    return TransportResult(support, masses, tuple(objective), converged, nearest.astype(np.int64))


def _start(
    points: np.ndarray, k: int, rng: np.random.Generator, init: str | np.ndarray, centre: np.ndarray
) -> np.ndarray:
    if isinstance(init, np.ndarray):
        given: np.ndarray = np.asarray(init, dtype=np.float64) - centre
        return given
    if k == len(points):
        return points.copy()
    if init == "random":
        chosen: np.ndarray = points[rng.permutation(len(points))[:k]].copy()
        return chosen
    atoms: np.ndarray = kmeans_plusplus(points, k, random_state=int(rng.integers(2**31)))[0].copy()
    return atoms


def _uniform_step(points: np.ndarray, atoms: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Give W2^2 at these atoms, their masses, and where the exact plan moves them."""
    masses = np.full(len(atoms), 1 / len(atoms))
    uniform = np.full(len(points), 1 / len(points))
    costs = ot.dist(atoms, points)
    with warnings.catch_warnings():
        # A plan that is not optimal would move atoms to wrong places without a sign.
        warnings.simplefilter("error", UserWarning)
        plan = ot.emd(masses, uniform, costs, numItermax=PIVOTS)
    return float((plan * costs).sum()), masses, (plan @ points) / masses[:, None]


def _learnt_step(points: np.ndarray, atoms: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Give W2^2 at these atoms with their best weights, these weights, and where one step of k-means moves them."""
    costs = ot.dist(atoms, points)
    owner = costs.argmin(axis=0)
    served = costs[owner, np.arange(len(points))]
    value = float(served.mean())
    counts = np.bincount(owner, minlength=len(atoms))
    for empty in np.flatnonzero(counts == 0):
        # Only doubles of other atoms stay empty: they take a feature from them at no cost, so that no mass is 0.
        donor = np.where(counts[owner] > 1, costs[empty], np.inf).argmin()
        counts[owner[donor]] -= 1
        owner[donor], counts[empty] = empty, 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one step at a time, and doubles, are meant
        moved = KMeans(len(atoms), init=atoms, n_init=1, max_iter=1, tol=0).fit(points).cluster_centers_
    return value, counts / len(points), moved
