"""Runs in an environment of its own: let ddranking score what `wmdd export` wrote, on ten made-up images per class.

python run_ddranking.py EXPORT WORK
"""

import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import torchvision.datasets.cifar as cifar
import yaml
from ddranking.metrics import LabelRobustScoreSoft

export, work = Path(sys.argv[1]), Path(sys.argv[2])


def make_cifar10():
    """Files as CIFAR-10 has them, few and random; the published ones' checksums are not asked for."""
    folder = work / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {"data": rng.integers(0, 256, (20, 3072), np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    cifar.check_integrity = lambda *arguments: True


def quick(scorer, **paths):
    """One epoch, looked at, where a published score takes hundreds."""
    (teacher,) = scorer.teacher_models
    assert teacher.conv1.kernel_size == (3, 3), "the stem for small images"
    scorer.test_interval = 1
    return compute(scorer, **paths)


make_cifar10()
settings = yaml.safe_load((export / "ddranking.yaml").read_text())
settings |= {"num_epochs": 1, "num_eval": 1, "device": "cpu", "num_workers": 0}
(export / "ddranking.yaml").write_text(yaml.safe_dump(settings))
compute, LabelRobustScoreSoft.compute_metrics = LabelRobustScoreSoft.compute_metrics, quick
sys.argv[1:] = [str(work)]
runpy.run_path(str(export / "score.py"), run_name="__main__")
print((export / "scores.csv").read_text())
