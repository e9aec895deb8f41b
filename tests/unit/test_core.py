"""Configuration, seeds, networks, weights and the store."""

import threading

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from pydantic import ValidationError
from torch import nn

from wmdd.config import DistillConfig, from_yaml, override, section_names, to_yaml
from wmdd.errors import ArtifactError, ConfigError
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model, check_model, has_batch_norm, skeleton
from wmdd.models.weights import load_weights
from wmdd.recipes import recipe, recipes
from wmdd.seeding import SeedTree
from wmdd.store import ArtifactRef, ArtifactStore, content_key
from wmdd.types import DistilledClass, StudentResult

changes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(-(10**9), 10**9),
        "recover.lr": st.floats(1e-6, 1e3),
        "recover.crop_scale": st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1.0)),
        "recover.init": st.sampled_from(["noise", "nearest", "random"]),
        "data.classes": st.none() | st.lists(st.text(min_size=1), min_size=1).map(tuple),
        "data.path": st.none() | st.text(min_size=1),
        "evaluate.students": st.lists(st.text(min_size=1), min_size=1).map(tuple),
        "pretrain.nesterov": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None)
@given(changes)
def test_config_survives_yaml(values):
    config = override(DistillConfig(), values)
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize("name", recipes())
def test_recipe_is_complete_and_survives_yaml(name):
    config = recipe(name)
    assert config.recipe == name
    assert from_yaml(to_yaml(config)) == config


def test_released_recipes_keep_the_published_values():
    values = {name: (recipe(name).recover.bn_weight, recipe(name).recover.lr) for name in recipes()}
    assert values["imagenette"] == (10, 0.25)
    assert values["tiny-imagenet-224"] == (500, 0.1)
    assert values["imagenet-1k"] == (100, 0.25)
    for name in ("imagenette", "tiny-imagenet-224", "imagenet-1k"):
        assert (recipe(name).recover.init, recipe(name).recover.iterations, recipe(name).relabel.epochs) == (
            "noise",
            2000,
            300,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recover.speed": 1}, r"recover\.speed: no such option; the options here are .*lr"),
        ({"rocover.lr": 1}, r"rocover\.lr: no such option; the sections are data, pretrain"),
        ({"recover.lr": 0}, r"recover\.lr=0: input should be greater than 0"),
        ({"recover.crop_scale": (0.9, 0.2)}, r"recover\.crop_scale=.*try 0\.2,0\.9"),
        ({"recover.bn_weight": float("inf")}, r"recover\.bn_weight=inf"),
        ({"evaluate.students": ()}, r"evaluate\.students="),
    ],
)
def test_wrong_options_are_refused_by_name_and_value(change, message):
    with pytest.raises(ConfigError, match=message):
        override(DistillConfig(), change)


def test_config_is_frozen_and_unknown_sections_of_a_file_are_refused():
    with pytest.raises(ValidationError):
        DistillConfig().recover.lr = 1.0
    with pytest.raises(ConfigError, match="rocover"):
        from_yaml("rocover: {lr: 1}")
    with pytest.raises(ConfigError, match="not YAML"):
        from_yaml("a: [")
    assert section_names()[0] == "data"


def test_seeds_come_from_names_alone():
    tree = SeedTree(3)
    assert tree.child("a", 1).seed() == SeedTree(3).child("a").child("1").seed()
    seeds = {tree.child(*names).seed() for names in (("a",), ("b",), ("a", "b"), ("ab",), ("a", "bc"), ("ab", "c"))}
    assert len(seeds | {SeedTree(4).child("a").seed()}) == 7
    assert torch.equal(torch.randn(3, generator=tree.torch()), torch.randn(3, generator=tree.torch()))


def test_scoped_seed_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    with SeedTree(0).scoped():
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with SeedTree(0).scoped():
        assert torch.equal(torch.rand(2), first)


@pytest.mark.parametrize(
    ("size", "stem", "kernel", "stride", "pooled"),
    [(32, "auto", 3, 1, False), (224, "auto", 7, 2, True), (224, "stride2", 3, 2, False), (64, "standard", 7, 2, True)],
)
def test_stem_follows_the_image_size(size, stem, kernel, stride, pooled):
    for name in ("resnet18", "timm/resnet18"):
        model = skeleton(name, 10, size, stem=stem)
        assert (model.conv1.kernel_size[0], model.conv1.stride[0]) == (kernel, stride)
        assert isinstance(model.maxpool, nn.Identity) is not pooled


@pytest.mark.parametrize(
    "name", ["convnet3", "resnet18", "mobilenet_v2", "vgg11_bn", "timm/resnet10t", "vit_tiny_patch16_224"]
)
def test_networks_of_every_source_classify_small_images(name):
    check_model(name, 7, 32, stem="auto", option="pretrain.model")
    assert has_batch_norm(skeleton(name, 7, 32)) is (name != "vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["convnet3", "resnet18", "mobilenet_v2", "timm/resnet10t"])
def test_probe_sees_the_heads_input_and_each_batch_norm_layer(name):
    with SeedTree(0).scoped():
        model = build_model(name, 7, 32).eval()
    images = torch.randn(2, 3, 32, 32, generator=SeedTree(1).torch())
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad(), Probe(model, 7) as probe:
        logits, features, inputs = probe.run(images)
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    torch.testing.assert_close(head(features), logits)
    assert sorted(x.shape[1] for x in inputs) == sorted(layer.num_features for layer in layers)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_weights_load_strictly_and_nothing_is_unpickled(tmp_path):
    with SeedTree(0).scoped():
        source, other = build_model("convnet2_w16", 5, 16), build_model("convnet2_w16", 5, 16)
    state = dict(source.state_dict())
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        with SeedTree(1).scoped():
            other = build_model("convnet2_w16", 5, 16)
        load_weights(other, str(tmp_path / name), "convnet2_w16")
        assert torch.equal(other.head.weight, source.head.weight)
    safetensors.torch.save_file({k: v for k, v in state.items() if k != "head.bias"}, tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match=r"lacks head\.bias"):
        load_weights(other, str(tmp_path / "c.safetensors"), "convnet2_w16")
    torch.save(source, tmp_path / "d.pth")
    with pytest.raises(ConfigError, match="not a file of plain tensors"):
        load_weights(other, str(tmp_path / "d.pth"), "convnet2_w16")


REF = ArtifactRef("evaluate", "student", content_key({"a": 1}))
RESULT = StudentResult("s", "distilled", 0, 0.5, 0.6, ({"epoch": 1, "top1": 0.5},), "wmdd", "abc")


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return ArtifactStore(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_store_gives_back_what_was_saved(store):
    assert REF not in store
    store.save(REF, RESULT, {"seconds": 2.0})
    assert REF in store
    assert store.load(REF, StudentResult) == RESULT
    assert store.commit_of(REF)["seconds"] == 2.0
    store.write_note("x", b"1")
    assert store.read_note("x") == b"1"
    store.drop_note("x")
    assert store.read_note("x") is None


def test_keys_ignore_the_order_of_parts():
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1}) != content_key({"a": 1, "b": [3]})


def test_artifact_without_commit_or_with_a_short_file_is_absent(store):
    store.put(store.path(REF.folder, "half", "student.json"), b"{}")
    assert REF not in store
    store.save(REF, RESULT)
    path = store.path(REF.folder, store.commit_of(REF)["attempt"], "student.json")
    store.fs.pipe_file(path, store.fs.cat_file(path)[:-1])
    assert REF not in store
    with pytest.raises(ArtifactError, match="not in the store"):
        store.load(REF, StudentResult)
    store.save(REF, RESULT)
    assert store.load(REF, StudentResult) == RESULT


def test_flipped_bit_is_found_and_the_artifact_withdrawn(store):
    store.save(REF, RESULT)
    path = store.path(REF.folder, store.commit_of(REF)["attempt"], "student.json")
    data = store.fs.cat_file(path)
    store.fs.pipe_file(path, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="damaged"):
        store.load(REF, StudentResult)
    assert REF not in store


def test_second_writer_of_a_key_does_no_harm(store):
    store.save(REF, RESULT)
    attempt = store.commit_of(REF)["attempt"]
    store.save(REF, StudentResult("other", "distilled", 1, 0.1, 0.1, (), "wmdd", "abc"))
    assert store.commit_of(REF)["attempt"] == attempt


def test_readers_never_see_a_part_of_a_file(tmp_path):
    store = ArtifactStore(str(tmp_path))
    values = {bytes([i]) * 200_000 for i in range(2)}
    path = store.path("file")
    store.put(path, next(iter(values)))
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for value in values:
                store.put(path, value)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {store.fs.cat_file(path) for _ in range(200)}
    stop.set()
    writer.join()
    assert seen <= values


def test_values_check_themselves():
    with pytest.raises(ValueError, match="no fractions"):
        StudentResult("s", "distilled", 0, 61.3, 0.6, (), "wmdd", "abc")
    with pytest.raises(ValueError, match="class 2"):
        DistilledClass(2, torch.zeros(1, 3, 4, 4), torch.ones(1))
