"""Files of weights as users have them, and the small network that most of them are of."""

import pytest
import torch

from wmdd.errors import ConfigError
from wmdd.models.registry import build_model
from wmdd.models.weights import load_weights
from wmdd.seeding import SeedTree

SMALL = "convnet2_w16"


def small():
    return build_model(SMALL, 5, 16)


def network(seed, name="resnet18", classes=5, size=32):
    with SeedTree(seed).scoped():
        return build_model(name, classes, size)


def saved(folder, value, name="w.pth"):
    torch.save(value, folder / name)
    return str(folder / name)


def written(folder, data, name="w.pth"):
    (folder / name).write_bytes(data)
    return str(folder / name)


def check_refused(path, message, ours=None, name=SMALL):
    """Check that a file does not load into a network, by default a small one, with this message."""
    with pytest.raises(ConfigError, match=message):
        load_weights(small() if ours is None else ours, str(path), name)


def cut_network(monkeypatch, folder):
    """Let no server answer, and empty torch's folder; return the list of requests."""
    requests = []

    def refuse(*args, **options):
        requests.append(args)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    return requests
