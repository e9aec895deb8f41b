"""Runs in a separate environment: let ddranking score what `wmdd export` wrote, on ten made-up images per class.

python run_ddranking.py EXPORT WORK
"""

import runpy
import sys
from pathlib import Path

import numpy as np
import torchvision.datasets.cifar as cifar
import yaml
from ddranking.metrics import LabelRobustScoreSoft
from torchvision.datasets import VisionDataset

export, work = Path(sys.argv[1]), Path(sys.argv[2])


def few_random_images(self, root, train=True, transform=None, download=False):
    """CIFAR-10 as torchvision opens it, with made-up images."""
    VisionDataset.__init__(self, root, transform=transform)
    count = 100 if train else 20
    self.data = np.random.default_rng(int(train)).integers(0, 256, (count, 32, 32, 3), np.uint8)
    self.targets = [place % 10 for place in range(count)]
    self.classes = [str(c) for c in range(10)]


def quick(scorer, **paths):
    """One epoch, looked at, where a published score takes hundreds."""
    (teacher,) = scorer.teacher_models
    assert teacher.conv1.kernel_size == (3, 3), "the stem for small images"
    scorer.test_interval = 1
    return compute(scorer, **paths)


cifar.CIFAR10.__init__ = few_random_images
settings = yaml.safe_load((export / "ddranking.yaml").read_text())
settings |= {"num_epochs": 1, "num_eval": 1, "device": "cpu", "num_workers": 0}
(export / "ddranking.yaml").write_text(yaml.safe_dump(settings))
compute, LabelRobustScoreSoft.compute_metrics = LabelRobustScoreSoft.compute_metrics, quick
sys.argv[1:] = [str(work)]
runpy.run_path(str(export / "score.py"), run_name="__main__")
print((export / "scores.csv").read_text())
