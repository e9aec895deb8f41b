"""The free-support Wasserstein barycenter of one class's features, on POT.

Given the features f_1, ..., f_n in R^d of a class, find k atoms b_1, ..., b_k in R^d with masses m_1, ..., m_k that
minimise the squared Wasserstein distance to the empirical measure of the features,

    W2^2(b, m) = min_T sum_ij T_ij |f_i - b_j|^2   such that   T >= 0,   sum_j T_ij = 1 / n,   sum_i T_ij = m_j,

where T (n, k) is a transport plan. Masses are uniform (m_j = 1 / k), or are minimised over, too. From a first choice of
atoms, each step solves for the best plan at these atoms, and then moves each atom to the mean of what it is assigned,

    b_j <- (1 / m_j) sum_i T_ij f_i,

so the objective never rises. With one input measure, as here, the problem is a k-means: of clusters of equal mass with
uniform masses, where POT's network simplex solves for the plan; and the usual one with learned masses, where the best
plan assigns each feature to its nearest atom and m_j is the fraction of features assigned to atom j.

Source: Liu et al., "Dataset Distillation via the Wasserstein Metric" (ICCV 2025, arXiv 2311.18531), section 3; the
alternation is that of Cuturi and Doucet, "Fast Computation of Wasserstein Barycenters" (ICML 2014). Differences: the
first atoms are chosen by k-means++ among the features, not drawn from a normal distribution; a step count is a limit,
not the rule to stop; learned masses are exact at every step, where the paper takes subgradient steps on the dual.

Cost: a step holds at most two (k, n) float64 arrays and takes O(k n d), and the plan if masses are uniform. Measured at
n = 1300, d = 512: 6 to 11 steps, and 0.04, 0.08, 0.12 s of one core at k = 10, 50, 100, of which k-means++ takes 0.01,
0.03, 0.06.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import ot
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from wmdd.errors import ConfigError
from wmdd.text import counted

PIVOTS = 5_000_000


@dataclass(frozen=True, eq=False)
class TransportResult:
    """A barycenter and how it was reached.

    Args:
        support: (k, d) float32 atoms.
        mass: (k,) float64, positive, sum to 1.
        objective: squared Wasserstein distance at the start of each step and at the end; never rises.
        converged: whether the tolerance was met within the allowed steps.
        nearest: (k,) int64, distinct rows of the features, one for each atom, at the least total squared distance.
    """

    support: np.ndarray
    mass: np.ndarray
    objective: tuple[float, ...]
    converged: bool
    nearest: np.ndarray


def free_support_barycenter(
    features: np.ndarray,
    k: int,
    *,
    mass: Literal["uniform", "learned"],
    rng: np.random.Generator,
    init: Literal["kmeans++", "random"] | np.ndarray = "kmeans++",
    max_iterations: int = 100,
    tolerance: float = 1e-7,
) -> TransportResult:
    """Place k atoms that minimise W2^2 to the empirical measure of the features.

    Args:
        features: (n, d), any float type, finite.
        k: number of atoms, 1 to n.
        mass: ``uniform``, 1/k each, or ``learned``.
        rng: draws the first atoms.
        init: first atoms: ``kmeans++``, ``random`` rows of the features, or a (k, d) array.
        max_iterations: most steps.
        tolerance: relative decrease of the objective at which the steps end.

    Raises:
        ConfigError: if there are fewer features than atoms.
        ValueError: if a feature is not finite.
    """
    points = np.asarray(features, dtype=np.float64)
    if k > len(points):
        raise ConfigError(f"ipc={k}: larger than the class ({counted(len(points), 'image', 'images')}); lower ipc")
    if not np.isfinite(points).all():
        raise ValueError("features must be finite")
    # Centring changes no distance and keeps the expanded squares exact for features far from the origin.
    centre = points.mean(axis=0)
    points = points - centre
    squares = np.einsum("nd,nd->n", points, points)
    atoms = init - centre if isinstance(init, np.ndarray) else _first_atoms(points, squares, k, rng, init)
    step = _uniform_step if mass == "uniform" else _learned_step
    value, masses, moved, costs = step(points, squares, atoms)
    objective, converged = [value], False
    while not converged and len(objective) <= max_iterations:
        if not np.array_equal(moved, atoms):  # atoms that stay would be solved for the same plan again
            atoms = moved
            value, masses, moved, costs = step(points, squares, atoms)
        converged = objective[-1] - value <= tolerance * max(objective[-1], 1e-300)
        objective.append(value)
    nearest = linear_sum_assignment(costs.T)[1]
    support = (atoms + centre).astype(np.float32)
    return TransportResult(support, masses, tuple(objective), converged, nearest.astype(np.int64))


def _first_atoms(points: np.ndarray, squares: np.ndarray, k: int, rng: np.random.Generator, init: str) -> Any:
    if k == len(points):
        return points
    if init == "random":
        return points[rng.permutation(len(points))[:k]]
    return kmeans_plusplus(points, k, x_squared_norms=squares, random_state=int(rng.integers(2**31)))[0]


class _Step(NamedTuple):
    """W2^2 at some atoms, their masses, the atoms that the best plan moves them to, and the (n, k) costs."""

    value: float
    masses: np.ndarray
    moved: np.ndarray
    costs: np.ndarray


def _uniform_step(points: np.ndarray, squares: np.ndarray, atoms: np.ndarray) -> _Step:
    """Solve for the best plan at these atoms."""
    n, k = len(points), len(atoms)
    costs = _squared_distances(points, squares, atoms)
    with warnings.catch_warnings():
        # POT warns if it stops before the best plan; then the objective might rise.
        warnings.simplefilter("error", UserWarning)
        # Masses times n k are integers, which the simplex adds without rounding: equal plans are equal bit for bit.
        # With the features as sources it takes up to half as long as with the atoms.
        plan = ot.emd(
            np.full(n, float(k)),
            np.full(k, float(n)),
            costs,
            numItermax=PIVOTS,
            center_dual=False,
            check_marginals=False,
        )
    return _Step(float(np.vdot(plan, costs)) / (n * k), np.full(k, 1 / k), (plan.T @ points) / n, costs)


def _learned_step(points: np.ndarray, squares: np.ndarray, atoms: np.ndarray) -> _Step:
    """Assign each feature to its nearest atom: a step of k-means."""
    costs = _squared_distances(points, squares, atoms)
    rows, assigned = np.arange(len(points)), costs.argmin(axis=1)
    value = float(costs[rows, assigned].mean())
    counts = np.bincount(assigned, minlength=len(atoms))
    if counts.all():
        plan = np.zeros_like(costs)
        plan[rows, assigned] = 1
        return _Step(value, counts / len(points), (plan.T @ points) / counts[:, None], costs)
    for empty in np.flatnonzero(counts == 0):
        # Only duplicates of other atoms are empty: each takes a feature from those at no cost, so that no mass is 0.
        taken = np.where(counts[assigned] > 1, costs[:, empty], np.inf).argmin()
        counts[assigned[taken]] -= 1
        assigned[taken], counts[empty] = empty, 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a single step, and of duplicate atoms
        # scikit-learn moves empty atoms to the features that are farthest from theirs.
        moved = KMeans(len(atoms), init=atoms, n_init=1, max_iter=1, tol=0).fit(points).cluster_centers_
    return _Step(value, counts / len(points), moved, costs)


def _squared_distances(points: np.ndarray, squares: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Return the (n, k) squared distances of points, whose squared norms are given, to the atoms."""
    costs = (-2 * atoms) @ points.T
    costs += squares
    costs += np.einsum("kd,kd->k", atoms, atoms)[:, None]
    np.maximum(costs, 0, out=costs)
    return np.ascontiguousarray(costs.T)
