"""The barycenter: closed forms first, then agreement with independent solvers, then what never happens."""

import hypothesis.strategies as st
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, kmeans_plusplus

from wmdd.errors import ConfigError
from wmdd.method.barycenter import free_support_barycenter


def solve(features, k, mass="uniform", seed=0, **options):
    return free_support_barycenter(features, k, mass=mass, rng=np.random.default_rng(seed), **options)


def features_of(seed, n, d, heavy=False):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d)) + rng.normal(size=(4, d))[rng.integers(0, 4, n)] * 3
    if heavy:
        points[rng.integers(0, n, max(1, n // 20))] *= 50
    return points


@pytest.mark.parametrize("mass", ["uniform", "learned"])
def test_barycenter_of_two_diracs_is_their_midpoint(mass):
    result = solve(np.array([[0.0, 2.0], [4.0, 0.0]]), 1, mass)
    np.testing.assert_allclose(result.support, [[2.0, 1.0]])
    assert result.objective[-1] == pytest.approx(5.0)


@pytest.mark.parametrize("mass", ["uniform", "learned"])
def test_as_many_atoms_as_points_return_the_points(mass):
    points = features_of(1, 12, 5)
    result = solve(points, 12, mass)
    order = np.lexsort(result.support.T)
    np.testing.assert_allclose(result.support[order], points.astype(np.float32)[np.lexsort(points.T)], atol=1e-5)
    assert result.objective[-1] == pytest.approx(0, abs=1e-9)
    assert result.converged


def equal_size_kmeans(points, atoms):
    """Obvious and slow: each atom takes n/k points, assigned at the least total cost."""
    size = len(points) // len(atoms)
    while True:
        replicas = np.repeat(atoms, size, axis=0)
        costs = ((points[:, None] - replicas[None]) ** 2).sum(-1)
        assigned = linear_sum_assignment(costs)[1] // size
        moved = np.stack([points[assigned == j].mean(axis=0) for j in range(len(atoms))])
        if np.allclose(moved, atoms, atol=1e-12):
            return moved, costs[np.arange(len(points)), linear_sum_assignment(costs)[1]].mean()
        atoms = moved


def test_uniform_mass_is_an_equal_size_kmeans():
    for seed in range(4):
        points = features_of(seed, 60, 6, heavy=seed % 2 == 1)
        start = points[:5].copy()
        atoms, cost = equal_size_kmeans(points, start)
        result = solve(points, 5, init=start, tolerance=0.0)
        assert result.objective[-1] == pytest.approx(cost, rel=1e-9)
        np.testing.assert_allclose(result.support, atoms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "d", "k"), [(200, 8, 5), (97, 3, 11), (300, 32, 30)])
def test_learned_mass_is_no_worse_than_kmeans(n, d, k):
    for seed in range(6):
        points = features_of(seed, n, d, heavy=seed % 2 == 0)
        start = points[:k].copy()
        reference = KMeans(k, init=start, n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(points)
        result = solve(points, k, "learned", init=start, tolerance=0.0, max_iterations=300)
        assert result.objective[-1] <= reference.inertia_ / n * (1 + 1e-9)
        assert result.converged


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 40),
    d=st.integers(1, 6),
    share=st.floats(0.01, 1),
    mass=st.sampled_from(["uniform", "learned"]),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["plain", "heavy", "doubles"]),
)
def test_objective_never_rises_and_masses_sum_to_one(n, d, share, mass, seed, kind):
    points = features_of(seed, n, d, heavy=kind == "heavy")
    if kind == "doubles":
        points = np.round(points / 4)
    k = max(1, int(n * share))
    result = solve(points, k, mass, seed)
    objective = np.array(result.objective)
    assert (np.diff(objective) <= 1e-9 * (1 + objective[:-1])).all()
    assert result.mass.sum() == pytest.approx(1)
    assert (result.mass > 0).all()
    assert len(set(result.nearest.tolist())) == k


def test_masses_are_those_of_the_returned_atoms():
    points = features_of(3, 150, 4, heavy=True)
    result = solve(points, 7, "learned", tolerance=0.0)
    owner = ((points[:, None] - result.support[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_allclose(np.bincount(owner, minlength=7) / 150, result.mass)


def test_nearest_rows_minimise_the_total_distance():
    points = features_of(5, 9, 2)
    result = solve(points, 3)
    costs = ((result.support[:, None] - points[None]) ** 2).sum(-1)
    best = min(
        costs[0, a] + costs[1, b] + costs[2, c]
        for a in range(9)
        for b in range(9)
        for c in range(9)
        if len({a, b, c}) == 3
    )
    assert costs[np.arange(3), result.nearest].sum() == pytest.approx(best, rel=1e-5)


def test_order_of_features_does_not_matter():
    points = features_of(7, 80, 5)
    order = np.random.default_rng(0).permutation(80)
    start = points[:4].copy()
    plain, shuffled = solve(points, 4, init=start), solve(points[order], 4, init=start)
    np.testing.assert_allclose(plain.support, shuffled.support, rtol=1e-4, atol=1e-4)


def test_barycenter_moves_and_scales_with_the_features():
    points = features_of(8, 80, 5)
    start = points[:4].copy()
    plain = solve(points, 4, "learned", init=start)
    moved = solve(points * 3 + 1000, 4, "learned", init=start * 3 + 1000)
    np.testing.assert_allclose(moved.support, plain.support * 3 + 1000, rtol=1e-4)


def test_atoms_that_stay_are_not_solved_for_again(monkeypatch):
    solved = []
    emd = ot.emd
    monkeypatch.setattr(
        ot, "emd", lambda *masses_and_costs, **options: solved.append(1) or emd(*masses_and_costs, **options)
    )
    result = solve(features_of(11, 97, 6), 10, tolerance=0.0)
    assert result.converged
    assert result.objective[-1] == result.objective[-2] < result.objective[-3]
    assert len(solved) == len(result.objective) - 1


@pytest.mark.parametrize("duplicates", [0, 2])
def test_one_step_of_learned_mass_is_one_of_kmeans(duplicates):
    points = features_of(12, 90, 6)
    start = np.concatenate([points[:8], points[:duplicates]])
    reference = KMeans(len(start), init=start, n_init=1, algorithm="lloyd", tol=0, max_iter=1).fit(points)
    result = solve(points, len(start), "learned", init=start, max_iterations=1)
    np.testing.assert_allclose(result.support, reference.cluster_centers_, rtol=1e-5, atol=1e-5)


def test_step_limit_leaves_it_unconverged():
    points = features_of(9, 300, 8)
    assert not solve(points, 10, init=points[:10].copy(), max_iterations=1).converged
    assert solve(points, 10).converged


def test_atoms_depend_on_the_seed():
    points = features_of(10, 200, 8)
    first, again, other = solve(points, 10), solve(points, 10), solve(points, 10, seed=1)
    np.testing.assert_array_equal(first.support, again.support)
    assert not np.array_equal(first.support, other.support)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(("n", "k"), [(50, 1), (200, 40), (400, 10), (401, 10), (900, 3)])
def test_first_atoms_are_those_of_scikit_learn(n, k, heavy):
    """Rounding decides between rows that leave equal sums, as two outliers do that are nearest to each other."""
    points = features_of(13, n, 24, heavy) + 5
    points -= points.mean(axis=0)
    for seed in range(4):
        draw = int(np.random.default_rng(seed).integers(2**31))
        expected = kmeans_plusplus(points, k, random_state=draw)[1]
        atoms = solve(points, k, seed=seed, max_iterations=0).support
        rows = squared_distances(atoms, points).argmin(axis=1)
        np.testing.assert_allclose(atoms, points[rows], rtol=1e-6, atol=1e-6)
        if heavy and (differ := np.flatnonzero(rows != expected)).size:
            chosen = [points[found[: differ[0] + 1]] for found in (rows, expected)]
            sums = [squared_distances(atoms, points).min(axis=0).sum() for atoms in chosen]
            assert sums[0] == pytest.approx(sums[1], rel=1e-12)
        else:
            assert rows.tolist() == expected.tolist()


def squared_distances(atoms, points):
    return np.square(atoms[:, None] - points).sum(axis=2)


def test_features_are_left_as_they_are():
    points = features_of(14, 60, 4)
    before = points.copy()
    solve(points, 5)
    np.testing.assert_array_equal(points, before)


def test_more_atoms_than_images_name_the_option():
    for count, size in ((1, r"\(1 image\)"), (2, r"\(2 images\)"), (3, r"\(3 images\)")):
        with pytest.raises(ConfigError, match=rf"ipc=4: larger than the class {size}; lower ipc"):
            solve(np.zeros((count, 2)), 4)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        solve(np.array([[0.0], [np.nan]]), 1)
