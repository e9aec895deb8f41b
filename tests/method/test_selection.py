"""Real images that are chosen by a rule."""

import itertools

import numpy as np
import torch

from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.selection import in_order_of_atoms


def test_chosen_images_go_to_the_atoms_at_the_least_cost():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(12, 3))).float()
    support = torch.from_numpy(rng.normal(size=(5, 3))).float()
    barycenter = Barycenter(0, support, torch.full((5,), 0.2), torch.arange(5), (1.0,), True, (0.0,) * 5)
    rows = np.array([7, 2, 9, 11, 4])
    ordered = in_order_of_atoms(rows, ClassStatistics(0, features, ()), barycenter)

    def cost(order):
        return float((features[list(order)] - support).square().sum())

    assert sorted(ordered) == sorted(rows)
    assert cost(ordered) <= min(map(cost, itertools.permutations(rows))) + 1e-5
