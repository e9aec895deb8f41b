"""Recipes keep what they promise, and values check themselves."""

import json
from types import SimpleNamespace

import pytest
import torch

from wmdd.config.distill import from_yaml, to_yaml
from wmdd.config.recipes import recipe, recipes
from wmdd.method.artifacts import DistilledClass
from wmdd.stages.evaluate import StudentResult


def test_recipe_loads_under_its_name_and_survives_yaml(subtests):
    for name in recipes():
        with subtests.test(name=name):
            config = recipe(name)
            assert config.recipe == name
            assert from_yaml(to_yaml(config)) == config


def test_released_recipes_keep_the_published_values(subtests):
    cases = [("imagenette", 10, 0.25), ("tiny-imagenet-224", 500, 0.1), ("imagenet-1k", 100, 0.25)]
    for name, bn_weight, lr in cases:
        with subtests.test(name=name):
            config = recipe(name)
            assert (config.recover.bn_weight, config.recover.lr) == (bn_weight, lr)
            assert (config.recover.init, config.recover.iterations, config.relabel.epochs) == ("noise", 2000, 300)
            assert (config.recover.ce_weight, config.recover.feature_weight, config.evaluate.temperature) == (1, 10, 20)


def test_every_recipe_scores_at_least_three_students():
    assert recipe("cifar10").evaluate.num_students >= 3


def test_student_result_keeps_classes_and_old_files():
    made = StudentResult("s", "distilled", 0, 0.5, 0.6, (), "wmdd", "abc", class_names=("cat", "dog"))
    data = made.to_files()
    assert StudentResult.from_files(SimpleNamespace(read=data.__getitem__)) == made
    older = json.loads(data["student.json"])
    del older["class_names"]
    found = StudentResult.from_files(SimpleNamespace(read=lambda name: json.dumps(older).encode()))
    assert (found.top1_last, found.class_names) == (0.5, ())


def test_values_check_themselves():
    with pytest.raises(ValueError, match="no fractions"):
        StudentResult("s", "distilled", 0, 61.3, 0.6, (), "wmdd", "abc")
    with pytest.raises(ValueError, match="class 2"):
        DistilledClass(2, torch.zeros(1, 3, 4, 4), torch.ones(1))
