"""Step: one class's barycenter, against POT's solver, scikit-learn's k-means and the released code's loop."""

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

ROUNDS = 3
Mass = Literal["uniform", "learned"]
Way = Callable[[], np.ndarray]


def run(setting: Setting, record: Record) -> None:
    """Time each way at each number of atoms; the objective of each is that of its atoms."""
    open_runtime(setting)  # one thread, also of BLAS
    n, d, ipcs = (60, 16, (3, 6)) if setting.toy else (1300, 512, (10, 50, 100))
    features = made_up_features(n, d)
    figures: dict[str, dict[str, Any]] = {}
    for ipc in ipcs:
        for mass, ways in (("uniform", _uniform(features, ipc)), ("learned", _learned(features, ipc))):
            seconds, objectives = _alternate(ways, features, mass)
            figures[f"{mass}, k={ipc}"] = {
                name: {"ms": round(1e3 * seconds[name], 2), "objective": round(objectives[name], 4), **against}
                for name, against in _ratios(seconds, objectives).items()
            }
            record(ways=figures, result=_table(figures))


def made_up_features(n: int, d: int) -> np.ndarray:
    """Return (n, d) float32 features that are not negative, in some clusters, with norms as unequal as a network's."""
    rng = SeedTree(0).child("features").numpy()
    points = np.abs(rng.normal(size=(n, d)) + 2 * rng.normal(size=(8, d))[rng.integers(0, 8, n)])
    return (points * np.exp(0.3 * rng.normal(size=(n, 1)))).astype(np.float32)


def _uniform(features: np.ndarray, k: int) -> dict[str, Way]:
    """Return wmdd, POT from the same first atoms, and the released code: POT from normally distributed atoms."""
    first = _first_atoms(features, k)
    normal = SeedTree(0).child("normal").numpy().normal(size=(k, features.shape[1]))
    return {
        "wmdd": functools.partial(_wmdd, features, k, "uniform", "kmeans++"),
        "wmdd, given atoms": functools.partial(_wmdd, features, k, "uniform", first),
        "POT, given atoms": functools.partial(_plain_loop, features, first),
        "plain": functools.partial(_plain_loop, features, normal),
    }


def _learned(features: np.ndarray, k: int) -> dict[str, Way]:
    """Return wmdd and scikit-learn, each from the same first atoms."""
    first = _first_atoms(features, k)
    kmeans = KMeans(k, init=first, n_init=1, algorithm="lloyd", tol=0)
    return {
        "wmdd, given atoms": functools.partial(_wmdd, features, k, "learned", first),
        "KMeans, given atoms": lambda: kmeans.fit(features.astype(np.float64)).cluster_centers_,
    }


def _first_atoms(features: np.ndarray, k: int) -> np.ndarray:
    atoms, _ = kmeans_plusplus(features.astype(np.float64), k, random_state=0)
    return np.asarray(atoms)


def _wmdd(features: np.ndarray, k: int, mass: Mass, init: Any) -> np.ndarray:
    rng = SeedTree(0).child("barycenter").numpy()
    return free_support_barycenter(features, k, mass=mass, rng=rng, init=init).support


def _plain_loop(features: np.ndarray, first: np.ndarray) -> np.ndarray:
    measure = np.full(len(features), 1 / len(features))
    masses = np.full(len(first), 1 / len(first))
    return np.asarray(ot.lp.free_support_barycenter([features], [measure], first, masses))


def _alternate(ways: dict[str, Way], features: np.ndarray, mass: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the least CPU-seconds of each way and the objective that it reaches."""
    seconds: dict[str, float] = dict.fromkeys(ways, math.inf)
    objectives = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun = time.process_time()
            atoms = way()
            seconds[name] = min(seconds[name], time.process_time() - begun)
            objectives[name] = _objective(features.astype(np.float64), atoms.astype(np.float64), mass)
    return seconds, objectives


def _objective(points: np.ndarray, atoms: np.ndarray, mass: str) -> float:
    """Return the squared Wasserstein distance of atoms with the best, or with uniform masses."""
    costs = ot.dist(points, atoms)
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
        ours = ways["wmdd, given atoms"]
        other = "POT" if "POT, given atoms" in ways else "KMeans"
        times, objective = (ours[f"{key} {other}, given atoms"] for key in ("times", "objective by"))
        text = f"{case}: {ours['ms']:g} ms, {times:g} times as fast as {other} at {objective:g} of its objective"
        if "wmdd" in ways:
            whole = ways["wmdd"]
            text += f"; with first atoms {whole['ms']:g} ms, {whole['times plain']:g} times as fast as the plain loop"
            text += f" at {whole['objective by plain']:g}"
        lines.append(text)
    return "\n".join(lines)
