"""Step: barycenters of classes, against POT's solver, scikit-learn's k-means and the released code's loop."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import ot
from sklearn.cluster import KMeans, kmeans_plusplus

from benchmarks.device import open_runtime
from benchmarks.steps import Record, Setting
from wmdd.method.barycenter import free_support_barycenter
from wmdd.seeding import SeedTree

CLASSES = 5  # numbers of steps vary with the features and the first atoms
ROUNDS = 2
Mass = Literal["uniform", "learned"]
Way = Callable[[], np.ndarray]


def run(setting: Setting, record: Record) -> None:
    """Time each way at each number of features and of atoms; the objective of each is that of its atoms."""
    open_runtime(setting)  # one thread, also of BLAS
    sizes, d, ipcs = ((60,), 16, (3, 6)) if setting.toy else ((500, 1300), 512, (10, 50, 100))
    figures: dict[str, dict[str, Any]] = {}
    for n in sizes:
        for ipc in ipcs:
            for mass, ways_of in (("uniform", _uniform), ("learned", _learned)):
                seconds, objectives = _alternate(ways_of, n, d, ipc, mass)
                figures[f"{mass}, n={n}, k={ipc}"] = {
                    name: {"ms": round(1e3 * seconds[name], 2), "objective": round(objectives[name], 4), **against}
                    for name, against in _ratios(seconds, objectives).items()
                }
                record(ways=figures, result=_table(figures))


def made_up_features(n: int, d: int, class_id: int) -> np.ndarray:
    """Return (n, d) float32 features that are not negative, in some clusters, with norms as unequal as a network's."""
    rng = SeedTree(0).child("features", class_id).numpy()
    points = np.abs(rng.normal(size=(n, d)) + 2 * rng.normal(size=(8, d))[rng.integers(0, 8, n)])
    return (points * np.exp(0.3 * rng.normal(size=(n, 1)))).astype(np.float32)


def _uniform(features: np.ndarray, k: int, class_id: int) -> dict[str, Way]:
    """Return wmdd, the released code (POT from normally distributed atoms), and both from the same first atoms."""
    first = _first_atoms(features, k, class_id)
    normal = SeedTree(0).child("normal", class_id).numpy().normal(size=(k, features.shape[1]))
    return {
        "wmdd": functools.partial(_wmdd, features, k, "uniform", "kmeans++", class_id),
        "plain": functools.partial(_plain_loop, features, normal),
        "wmdd, given atoms": functools.partial(_wmdd, features, k, "uniform", first, class_id),
        "plain, given atoms": functools.partial(_plain_loop, features, first),
    }


def _learned(features: np.ndarray, k: int, class_id: int) -> dict[str, Way]:
    """Return wmdd and scikit-learn, each with k-means++ from the same seed, and both from the same first atoms."""
    first = _first_atoms(features, k, class_id)
    return {
        "wmdd": functools.partial(_wmdd, features, k, "learned", "kmeans++", class_id),
        "plain": functools.partial(_kmeans, features, k, "k-means++", class_id),
        "wmdd, given atoms": functools.partial(_wmdd, features, k, "learned", first, class_id),
        "plain, given atoms": functools.partial(_kmeans, features, k, first, class_id),
    }


def _first_atoms(features: np.ndarray, k: int, class_id: int) -> np.ndarray:
    atoms, _ = kmeans_plusplus(features.astype(np.float64), k, random_state=class_id)
    return np.asarray(atoms)


def _rng(class_id: int) -> np.random.Generator:
    return SeedTree(0).child("barycenter", class_id).numpy()


def _wmdd(features: np.ndarray, k: int, mass: Mass, init: Any, class_id: int) -> np.ndarray:
    return free_support_barycenter(features, k, mass=mass, rng=_rng(class_id), init=init).support


def _plain_loop(features: np.ndarray, first: np.ndarray) -> np.ndarray:
    points = features.astype(np.float64)  # once: POT would do it in every step
    measure = np.full(len(points), 1 / len(points))
    masses = np.full(len(first), 1 / len(first))
    return np.asarray(ot.lp.free_support_barycenter([points], [measure], first, masses))


def _kmeans(features: np.ndarray, k: int, init: Any, class_id: int) -> np.ndarray:
    """Fit until no feature changes its atom, as the other ways do."""
    seed = int(_rng(class_id).integers(2**31))  # as wmdd draws it
    kmeans = KMeans(k, init=init, n_init=1, algorithm="lloyd", tol=0, random_state=seed)
    return np.asarray(kmeans.fit(features.astype(np.float64)).cluster_centers_)


def _alternate(
    ways_of: Callable[[np.ndarray, int, int], dict[str, Way]], n: int, d: int, k: int, mass: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Return for each way the mean over classes of its CPU-seconds, of which the least counts, and of its objective."""
    seconds: dict[str, float] = {}
    objectives: dict[str, float] = {}
    atoms: dict[str, np.ndarray] = {}
    for class_id in range(CLASSES):
        features = made_up_features(n, d, class_id)
        ways = ways_of(features, k, class_id)
        least = dict.fromkeys(ways, math.inf)
        for _ in range(ROUNDS):
            for name, way in ways.items():
                begun = time.process_time()
                atoms[name] = way()
                least[name] = min(least[name], time.process_time() - begun)
        for name in ways:
            seconds[name] = seconds.get(name, 0.0) + least[name] / CLASSES
            objectives[name] = objectives.get(name, 0.0) + _objective(features, atoms[name], mass) / CLASSES
    return seconds, objectives


def _objective(features: np.ndarray, atoms: np.ndarray, mass: str) -> float:
    """Return the squared Wasserstein distance of atoms with the best, or with uniform masses."""
    costs = ot.dist(features.astype(np.float64), atoms.astype(np.float64))
    return float(costs.min(axis=1).mean()) if mass == "learned" else float(ot.emd2([], [], costs))


def _ratios(seconds: dict[str, float], objectives: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return for each way its speed and its objective relative to the others."""
    return {
        name: {
            key: value
            for other in seconds
            if other != name
            for key, value in (
                (f"times {other}", round(seconds[other] / seconds[name], 2)),
                (f"objective by {other}", round(objectives[name] / objectives[other], 5)),
            )
        }
        for name in seconds
    }


def _table(figures: dict[str, dict[str, Any]]) -> str:
    lines = []
    for case, ways in figures.items():
        plain = "the released loop" if case.startswith("uniform") else "KMeans"
        whole, given = ways["wmdd"], ways["wmdd, given atoms"]
        text = f"{case}: {whole['ms']:g} ms, {whole['times plain']:g} times as fast as {plain}"
        text += f" at {whole['objective by plain']:g} of its objective; from the same first atoms {given['ms']:g} ms,"
        text += f" {given['times plain, given atoms']:g} at {given['objective by plain, given atoms']:g}"
        lines.append(text)
    return "\n".join(lines)
