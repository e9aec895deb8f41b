"""How many images pass a network together when teachers and students are validated."""

import json

import pytest
from conftest import call, distill

from wmdd.stages import evaluate, load_teacher, pretrain

FIT = 170


@pytest.fixture
def passes(monkeypatch):
    """The images of each validation batch, by the module that asked for them, where 170 fit."""
    seen = {}
    for module in (pretrain, load_teacher, evaluate):

        def watched(index, geometry, together, *rest, of=module.__name__, batches=module.validation_batches):
            for images, labels in batches(index, geometry, together, *rest):
                seen.setdefault(of.rpartition(".")[2], []).append(len(images))
                yield images, labels

        monkeypatch.setattr(module, "images_per_pass", lambda *_: FIT)
        monkeypatch.setattr(module, "validation_batches", watched)
    return seen


def test_networks_are_validated_on_as_many_images_as_fit(tmp_path, passes):
    assert distill(tmp_path, begin=call).returncode == 0
    held_out = json.loads((tmp_path / "runs/digits/metrics.json").read_text())["validation_images"]
    assert FIT < held_out < 3 * FIT
    parts = [FIT, FIT, held_out - 2 * FIT]
    assert passes == {"pretrain": 4 * parts, "evaluate": 12 * parts}  # epochs; students, twice each
    passes.clear()
    teacher = tmp_path / "runs/digits/teacher.safetensors"
    more = ("--pretrain.checkpoint", teacher, "--evaluate.val_batch_size", "200", "--run", "runs/loaded")
    assert distill(tmp_path, *more, begin=call).returncode == 0
    assert passes == {"load_teacher": parts, "evaluate": 12 * [200, held_out - 200]}
