"""DD-Ranking's scores from fractions."""

import math

import pytest

from wmdd.report.ranking import augmentation_robust_score, label_robust_score, normalised


def test_scores_are_those_of_the_documented_formulas():
    assert (normalised(-1), normalised(1)) == (0.0, 1.0)
    scores = label_robust_score(real_hard=0.8, made_hard=0.5, made_soft=0.6, random_soft=0.4)
    assert scores["IOR"] == pytest.approx(0.2)
    assert scores["HLR"] == pytest.approx(0.3)
    assert scores["LRS"] == pytest.approx((math.exp(-0.05) - math.exp(-1)) / (math.e - math.exp(-1)))
    alone = label_robust_score(0.8, 0.5, 0.6, 0.4, weight=1.0)
    assert alone["LRS"] == pytest.approx(normalised(0.2))
    ars = augmentation_robust_score(0.6, 0.4, 0.5, 0.45, weight=0.25)
    assert ars["ARS"] == pytest.approx(normalised(0.25 * 0.2 + 0.75 * 0.05))


def test_perfect_images_score_more_than_random_ones():
    best = label_robust_score(0.9, 0.9, 0.9, 0.1)
    none = label_robust_score(0.9, 0.1, 0.4, 0.4)
    assert none["LRS"] < best["LRS"] < 1
