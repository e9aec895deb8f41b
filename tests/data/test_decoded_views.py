"""Validation images that do not fit into memory: decoded once, if the disk has room."""

import errno
import shutil
from types import SimpleNamespace

import pytest
import torch

from wmdd.data import decoded_views
from wmdd.data.decoded_views import DecodedViews

COUNT, SIZE = 10, 4
IMAGES = torch.arange(COUNT * 3 * SIZE**2).remainder(251).to(torch.uint8).view(COUNT, 3, SIZE, SIZE)


@pytest.fixture
def decoded():
    return []


@pytest.fixture
def views(decoded):
    def decode(start, stop):
        decoded.append((start, stop))
        return IMAGES[start:stop]

    return lambda: DecodedViews(COUNT, SIZE, decode)


def read(views, together):
    parts = [views.rows(start, min(start + together, COUNT)) for start in range(0, COUNT, together)]
    assert torch.equal(torch.cat(parts), IMAGES)


def test_images_are_decoded_once(views, decoded):
    kept = views()
    for together in (4, 4, 3, 10):
        read(kept, together)
    assert decoded == [(0, 4), (4, 8), (8, 10)]


def test_pass_that_was_left_goes_on(views, decoded):
    kept = views()
    kept.rows(0, 3)
    for _ in range(2):
        read(kept, 5)
    assert decoded == [(0, 3), (0, 5), (5, 10)]


def test_images_that_were_passed_over_are_decoded_again(views, decoded):
    kept = views()
    assert torch.equal(kept.rows(5, 7), IMAGES[5:7])
    for _ in range(2):
        read(kept, 5)
    assert decoded == [(5, 7), (0, 5), (5, 10)]


@pytest.mark.parametrize("kind", ["little room", "no folder"])
def test_disk_without_room_is_left_alone(kind, views, decoded, monkeypatch):
    def usage(_folder):
        if kind == "no folder":
            raise FileNotFoundError
        return SimpleNamespace(free=4 * IMAGES.nbytes - 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    kept = views()
    for _ in range(2):
        read(kept, 5)
    assert decoded == 2 * [(0, 5), (5, 10)]


def test_disk_that_fills_up_ends_no_run(views, decoded, monkeypatch):
    class Full:
        def seek(self, place):
            self.place = place

        def write(self, data):
            if self.place:
                raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    monkeypatch.setattr(decoded_views.tempfile, "TemporaryFile", Full)
    kept = views()
    for _ in range(2):
        read(kept, 5)
    assert decoded == 2 * [(0, 5), (5, 10)]
