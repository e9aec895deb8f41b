"""Views of images that do not fit into memory: what is cut, by which processes, and from what kind of file."""

import dataclasses
import gc
import multiprocessing
import time

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as VF
from builders import CPU
from image_files import images, saved
from PIL import Image
from test_jpeg import COLOUR, TURNED

from wmdd.config.distill import DistillConfig, override
from wmdd.data import streaming
from wmdd.data.batches import TrainingBatches
from wmdd.data.decoding.jpeg import decode_on_gpu
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.data.streaming import StreamedViews, cut
from wmdd.data.views import draw_resized_crops
from wmdd.seeding import SeedTree

SIZE, EPOCHS = 16, 2
PICTURE = Image.fromarray(COLOUR)
FILES = [
    saved(PICTURE, "JPEG"),
    saved(PICTURE.convert("L"), "JPEG"),
    saved(PICTURE.convert("CMYK"), "JPEG"),
    saved(PICTURE, "JPEG", **TURNED),
    saved(PICTURE),
    saved(PICTURE.resize((30, 90)), "JPEG"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    for path, data in zip(images("train", "val", count=3), FILES * 2, strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return build_index(str(root), upright=True)


def seen(streamed, index):
    """The views and labels of some epochs, in batches of four and two."""
    epochs = []
    for epoch in range(EPOCHS):
        rng = SeedTree(epoch).numpy()
        order = rng.permutation(len(index.train))
        size = (index.train.height[order].astype(np.int64), index.train.width[order].astype(np.int64))
        views = draw_resized_crops(rng, len(order), size, (0.2, 1.0), flip=True)
        epochs += streamed.epoch(order, views, [range(4), range(4, 6)])
    return [torch.cat(tensors) for tensors in zip(*epochs, strict=True)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 64, 48), (5, 7, 40, 30), (3, 2, 16, 16), (60, 40, 4, 8), (9, 9, 1, 1)])
def test_a_view_is_torchvisions_within_one_level(box, flip):
    expected = VF.to_image(VF.resized_crop(PICTURE, *box, [SIZE, SIZE], antialias=True))
    view = cut(torch.from_numpy(COLOUR).permute(2, 0, 1), (0, *box, flip), SIZE)
    assert (view.int() - (expected.flip(2) if flip else expected).int()).abs().max() <= 1


@pytest.mark.parametrize("top", [-4, 0, 20])
@pytest.mark.parametrize("left", [-4, 0, 20])
def test_outside_an_image_a_view_is_black(top, left):
    small = PICTURE.resize((32, 32))
    expected = VF.to_image(VF.crop(small, top, left, SIZE, SIZE))
    view = cut(torch.from_numpy(np.array(small)).permute(2, 0, 1), (0, top, left, SIZE, SIZE, False), SIZE)
    assert torch.equal(view, expected)


def test_loading_processes_stay_for_all_epochs_and_change_nothing(index):
    expected = seen(StreamedViews(index, SIZE, CPU), index)
    streamed = StreamedViews(index, SIZE, dataclasses.replace(CPU, loaders=2))
    before = {child.pid for child in multiprocessing.active_children()}
    pids = []
    for _ in range(2):
        assert all(map(torch.equal, seen(streamed, index), expected))
        pids.append({child.pid for child in multiprocessing.active_children()} - before)
    assert pids[0] == pids[1]
    assert len(pids[0]) == 2
    del streamed
    gc.collect()
    deadline = time.monotonic() + 20
    while {child.pid for child in multiprocessing.active_children()} & pids[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("loaders", [0, 1])
def test_files_that_the_device_decodes_give_the_same_views(index, loaders, monkeypatch):
    decoded = []

    def decode(files, device):
        decoded.extend(files)
        return decode_on_gpu(files, device)

    monkeypatch.setattr(streaming, "decode_on_gpu", decode)
    expected = seen(StreamedViews(index, SIZE, CPU), index)
    streamed = StreamedViews(index, SIZE, dataclasses.replace(CPU, loaders=loaders), on_gpu=True)
    assert all(map(torch.equal, seen(streamed, index), expected))
    assert sorted(decoded) == sorted(EPOCHS * [FILES[0], FILES[1], FILES[5]])


def test_batch_that_the_device_cannot_decode_is_decoded_by_the_cpu(index, monkeypatch):
    def fail(files, device):
        raise RuntimeError("nvjpegDecode failed: 5")

    expected = seen(StreamedViews(index, SIZE, CPU), index)
    monkeypatch.setattr(streaming, "decode_on_gpu", fail)
    assert all(map(torch.equal, seen(StreamedViews(index, SIZE, CPU, on_gpu=True), index), expected))


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_option_says_where_files_are_decoded(index, device, monkeypatch):
    calls = []
    monkeypatch.setattr(
        streaming, "decode_on_gpu", lambda files, device: calls.append(0) or decode_on_gpu(files, device)
    )
    section = override(DistillConfig(), {"pretrain.batch_size": 4, "pretrain.decode": device}).pretrain
    batches = TrainingBatches(index, Geometry(SIZE, 1.0, "half"), section, SeedTree(0), CPU)
    for views, labels in batches.epoch(0):
        assert views.shape == (len(labels), 3, SIZE, SIZE)
    assert len(calls) == 2 * (device == "gpu")
