"""Runs in an environment of its own: let ddranking score what `wmdd export` wrote, on ten made-up images per class.

python run_ddranking.py EXPORT WORK
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import torchvision.datasets.cifar as cifar
from ddranking.config import Config
from ddranking.metrics import LabelRobustScoreSoft, soft_label

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


make_cifar10()
soft_label.REAL_DATA_ACC_CACHE["CIFAR10-ResNet-18-BN"] = 90.0
config = Config.from_file(str(export / "ddranking.yaml"))
few = {"real_data_path": str(work), "num_epochs": 1, "num_eval": 1, "eval_full_data": False}
config.update({**few, "device": "cpu", "num_workers": 0})
scorer = LabelRobustScoreSoft(config)
scorer.test_interval = 1
(teacher,) = scorer.teacher_models
assert teacher.conv1.kernel_size == (3, 3), "the stem for small images"
scorer.compute_metrics(image_path=str(export / "CIFAR10" / "IPC1"), syn_lr=0.001)
print((export / "scores.csv").read_text())
