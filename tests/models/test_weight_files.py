"""State dicts in users' files: of trainers, of several networks, of odd numbers."""

import numpy as np
import pytest
import safetensors.torch
import torch
from builders import small_set
from tables import each_of
from users_files import SMALL, check_refused, cut_network, saved, small, written

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.engine import preflight as checks
from wmdd.engine.plan import make_plan
from wmdd.errors import ConfigError
from wmdd.models.registry import build_model
from wmdd.models.weights import load_weights
from wmdd.storage.store import ArtifactStore


def test_whole_network_is_refused_with_its_class(tmp_path):
    path = saved(tmp_path, small())
    check_refused(path, r"it holds a wmdd\.models\.convnet\.ConvNet\); save the state dict alone")


def test_what_the_file_holds_counts_and_not_its_name(tmp_path):
    theirs = small()
    renamed = written(tmp_path, safetensors.torch.save(theirs.state_dict()), "w.pth")
    for path in (renamed, saved(tmp_path, theirs.state_dict(), "w.safetensors")):
        ours = small()
        load_weights(ours, path, SMALL)
        assert torch.equal(ours.head.weight, theirs.head.weight)


AVERAGE = "took {}, and not {}, which the file also holds"


@each_of(
    ("wrap", "notes"),
    [
        (lambda state, other: {"params": state, "best": np.float64(0.5)}, None),
        (lambda state, other: {"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, None),
        (lambda state, other: {f"student.encoder.{key}": value for key, value in state.items()}, None),
        (lambda state, other: {"state_dict": state, "state_dict_ema": other}, ("state_dict", "state_dict_ema")),
        (lambda state, other: {"model": state, "model_ema": other, "optimizer": {"state": {}}}, ("model", "model_ema")),
        (lambda state, other: {"ema_model": state, "epoch": 3}, None),
        (lambda state, other: {"run": {"weights": state}}, None),
        (lambda state, other: {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()}, None),
    ],
)
def test_checkpoints_of_trainers_load_with_notes(tmp_path, wrap, notes):
    theirs, other, ours = small(), small(), small()
    path = saved(tmp_path, wrap(dict(theirs.state_dict()), dict(other.state_dict())))
    found = load_weights(ours, path, SMALL)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())
    assert [line.partition(": ")[2] for line in found] == ([AVERAGE.format(*notes)] if notes else [])


def test_several_networks_in_a_file_are_refused(tmp_path):
    path = saved(tmp_path, {"generator": dict(small().state_dict()), "critic": dict(small().state_dict())})
    check_refused(path, r"holds several networks \(generator, critic\)")


@each_of(
    ("value", "told"),
    [
        (torch.full((5,), float("nan")), "holds NaN or infinite values .first in head.bias."),
        (torch.full((5,), float("inf")), "holds NaN or infinite values .first in head.bias."),
        (torch.zeros(5, dtype=torch.int8), "holds head.bias as int8; save the weights before they are quantised"),
    ],
)
def test_numbers_that_no_network_has_are_refused(tmp_path, value, told):
    path = saved(tmp_path, small().state_dict() | {"head.bias": value})
    check_refused(path, told)


def test_half_precision_and_old_counts_load(tmp_path):
    theirs = build_model("resnet18", 5, 32)
    state = {
        key: value.half() if value.is_floating_point() else value[None] for key, value in theirs.state_dict().items()
    }
    load_weights(build_model("resnet18", 5, 32), saved(tmp_path, state), "resnet18")


@pytest.mark.parametrize(
    "kind", ["does not fit", "damaged", "knows 1000 classes, and the data has 2", "cannot be fetched"]
)
def test_weights_are_refused_before_a_set_is_indexed(tmp_path, monkeypatch, kind):
    cut_network(monkeypatch, tmp_path)
    checks._fit_published.cache_clear()
    path = small_set(tmp_path / "set", per_class=1)
    if kind == "damaged":
        weights, model, told = written(tmp_path, b"version https://git-lfs"), SMALL, "run git lfs pull"
    elif kind == "does not fit":
        weights, model, told = saved(tmp_path, small().state_dict()), SMALL, "does not fit"
    else:
        weights, model, told = "default", "resnet18", kind
    if kind == "cannot be fetched":
        monkeypatch.setattr("wmdd.data.load_index.all_class_names", lambda url, listing: range(1000))
    monkeypatch.setattr("wmdd.data.load_index.build_index", lambda *args, **options: pytest.fail("the set was indexed"))
    changes = {"pretrain.checkpoint": weights, "pretrain.model": model, "data.path": path, "data.image_size": 16}
    config = override(
        recipe("cifar10-quick"), changes | {"data.normalization": "imagenet", "pretrain.stem": "standard"}
    )
    with pytest.raises(ConfigError, match=told):
        make_plan(config, ArtifactStore(str(tmp_path / "store")))
