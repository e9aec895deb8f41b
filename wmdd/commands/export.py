"""Export a run's images: as folders of PNG for any training script, or with teacher and settings for DD-Ranking."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
import shlex
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from wmdd.commands.folder_names import CLASSES_FILE, FORBIDDEN_ON_WINDOWS, WEIGHTS_FILE, class_folders
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig, from_yaml
from wmdd.config.methods import SELECTING
from wmdd.data.decoding.pixels import png, to_image
from wmdd.distilled import DistilledImages, load_distilled
from wmdd.engine.locations import open_folder
from wmdd.engine.run_start import no_run
from wmdd.errors import ArtifactError, ConfigError, StorageError
from wmdd.models.teacher import Teacher
from wmdd.storage.filesystem import open_fs, read, tree
from wmdd.storage.folder import Folder
from wmdd.storage.marks import EXPORT_MARK

FORMATS = {"folder": "export", "ddranking": "export-ddranking"}  # and the folder of the run that each goes to
_DATA_SETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "tiny-imagenet": "TinyImageNet",
    "imagenet-1k": "ImageNet1K",
}
_CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "TinyImageNet": 200, "ImageNet1K": 1000}
_SCHEDULES = {1.0: "cosineannealing", 2.0: "cosine"}  # to 0 and to half, as ddranking names them
# Options that ddranking has no setting for, or not for all values, and those values that it trains by.
_EXPRESSIBLE: dict[str, tuple[Any, ...]] = {
    "relabel.mix": ("cutmix", "none"),
    "relabel.augment": ("none",),
    "evaluate.labels": ("soft",),
    "evaluate.loss": ("kl",),
    "evaluate.ce_weight": (0.0,),
    "evaluate.optimizer": ("adamw", "sgd"),
    "evaluate.temperature_decay": (1.0,),
    "evaluate.temperature_squared": (False,),
    "evaluate.student_temperature": ("same",),
}
_SCORE = """\
# Scores this export with ddranking 0.2.0: python score.py FOLDER_OF_THE_REAL_SET
import sys
from pathlib import Path

from ddranking.config import Config
from ddranking.metrics import LabelRobustScoreSoft, soft_label

# ddranking knows how to train a few networks on all data, and this is seldom one: it takes the teacher's top-1, in %.
soft_label.REAL_DATA_ACC_CACHE["{name}-{network}"] = {top1:.2f}
here = Path(__file__).resolve().parent
config = Config.from_file(str(here / "ddranking.yaml"))
places = {{"teacher_dir": "teachers", "random_data_path": "random", "save_path": "scores.csv"}}
config.update({{"real_data_path": sys.argv[1], **{{name: str(here / place) for name, place in places.items()}}}})
LabelRobustScoreSoft(config).compute_metrics(image_path=str(here / "{name}" / "IPC{ipc}"), syn_lr={lr!r})
"""
_NETWORKS = {"resnet18": "ResNet-18-BN", "resnet34": "ResNet-34-BN", "resnet50": "ResNet-50-BN"}


@names_arguments(RUN="run", format="kind", to="target")
def export(run: str, kind: str, target: str | None = None, dataset: str | None = None) -> str:
    """Write a run's images in another layout.

    Args:
        run: URL of the run folder.
        kind: ``folder``: ``CLASS/00000.png`` and so on, and ``weights.csv`` where they weigh differently; tiles
            (`recover.tiles`) are enlarged to images, each in its own file. ``ddranking``: what ddranking 0.2.0 reads:
            images by class number, the teacher as ``ckpt_best.pt``, a YAML file, and ``score.py``, which runs it on
            these. Both have ``classes.json``: class id, name and folder.
        target: URL of a folder that is new, empty, or holds this very export, of which only what is missing is
            written; default: ``export`` or ``export-ddranking`` in the run folder.
        dataset: DD-Ranking's name of the real set; found from the recipe where it can be.

    Returns:
        A line about how to use the export.

    Raises:
        ConfigError, ArtifactError: if the run cannot be written so, or has no images; says why.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: there is none of this name; choose from {', '.join(FORMATS)}")
    images = _load(run)
    folder = open_folder("--to", target or f"{run.rstrip('/')}/{FORMATS[kind]}")
    if kind == "ddranking":
        return _ddranking(run, folder, images, dataset)
    if dataset:
        raise ConfigError(f"--dataset {dataset}: is for --format ddranking; leave it out")
    return _as_folders(folder, images)


def _load(run: str) -> DistilledImages:
    try:
        return load_distilled(run)
    except ArtifactError as exc:
        if isinstance(exc, StorageError) or Folder(run).read("run.json") is not None:
            raise
        raise no_run(run) from exc


def _as_folders(folder: Folder, images: DistilledImages) -> str:
    names = class_folders(images.class_names)
    written = _Export(folder, images, names)
    paths = written.put_images("", images, names)
    line = f"{len(images)} images in {folder.url}/CLASS/; torchvision.datasets.ImageFolder reads it"
    renamed = [name for name, own in zip(names, images.class_names, strict=True) if name != own]
    if renamed:
        line += f"; classes.json has the class of each folder, such as {renamed[-1]!r}"
    unfit = [name for name in names if FORBIDDEN_ON_WINDOWS.search(name)]
    if unfit:
        line += f"; Windows allows no folder such as {unfit[0]!r}"
    if len(set(images.weights.tolist())) == 1:
        return line
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("path", "weight"))
    rows.writerows((path, f"{weight:.9g}") for path, weight in zip(paths, images.weights.tolist(), strict=True))
    written.put(WEIGHTS_FILE, out.getvalue().encode("utf-8", "surrogateescape"))
    return f"{line}; weights.csv has the weight of each in its class, which is not the same for all"


class _Export:
    """A folder of one export alone, of the images and of what else it is `about`; no file is written again."""

    def __init__(self, folder: Folder, images: DistilledImages, names: list[str], about: str = "") -> None:
        self._folder = folder
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        for part in (images.images, images.labels, images.weights):
            digest.update(part.contiguous().numpy().data)
        classes = [
            {"class_id": class_id, "name": name, "folder": own}
            for class_id, (name, own) in enumerate(zip(images.class_names, names, strict=True))
        ]
        card = json.dumps({"schema": 1, "digest": digest.hexdigest(), "classes": classes}, indent=1).encode()
        self._present = frozenset(tree(folder.fs, folder.root)) if folder.entries() else frozenset()
        before = folder.read(CLASSES_FILE) if self._present else None
        if self._present and before != card:
            held = "is not empty" if before is None else "holds an export of other images"
            raise ConfigError(
                f"--to {folder.url}: {held}, and what lies there would be mixed with this set; give another with --to"
            )
        self.put(CLASSES_FILE, card)
        self.put(EXPORT_MARK, b"")  # in a folder of real images, these are not among them

    def put(self, name: str, data: bytes) -> None:
        """Write a file that is not there."""
        if self._folder.path(name) not in self._present:
            self._folder.write(name, data)

    def put_images(self, below: str, images: DistilledImages, names: list[str]) -> list[str]:
        """Write PNG files by class; return their paths below the folder, in the order of the images."""
        counts, paths = dict[int, int](), list[str]()
        for image, label in zip(images.images, images.labels.tolist(), strict=True):
            number = counts[label] = counts.get(label, -1) + 1
            paths.append(posixpath.join(below, names[label], f"{number:05d}.png"))
            self.put(paths[-1], png(to_image(image)))
        return paths


def _ddranking(run: str, folder: Folder, images: DistilledImages, dataset: str | None) -> str:
    config = from_yaml(_file(run, "config.yaml").decode())
    name = _data_set(config, images, dataset)
    _check(config)
    teacher = Teacher.from_files(_OneFile(_file(run, "teacher.safetensors")))
    network = _network(config, teacher)
    ipc = len(images) // len(images.class_names)
    settings = yaml.safe_dump(_settings(config, teacher, name, network, ipc), sort_keys=False)
    numbers = [f"{class_id:05d}" for class_id in range(len(images.class_names))]
    written = _Export(folder, images, numbers, settings)
    written.put_images(f"{name}/IPC{ipc}", images, numbers)
    out = io.BytesIO()
    torch.save(teacher.weights, out)
    written.put(f"teachers/{name}/{network}/ckpt_best.pt", out.getvalue())
    written.put("ddranking.yaml", settings.encode())
    score = _SCORE.format(name=name, network=network, ipc=ipc, top1=100 * teacher.top1, lr=config.evaluate.lr)
    written.put("score.py", score.encode())
    return (
        f"{folder.url}/{name}/IPC{ipc} holds the images, teachers/ the teacher; with ddranking 0.2.0 installed: "
        f"python {shlex.quote(f'{folder.url}/score.py')} FOLDER_OF_THE_REAL_SET"
    )


def _file(run: str, name: str) -> bytes:
    fs, root = open_fs(run.rstrip("/"))
    try:
        return read(fs, f"{root}/{name}")
    except OSError as exc:
        raise ArtifactError(f"{run}: has no {name}; give a finished run's folder") from exc


def _data_set(config: DistillConfig, images: DistilledImages, dataset: str | None) -> str:
    """Return DD-Ranking's name of the real set."""
    name = dataset or next((known for recipe, known in _DATA_SETS.items() if config.recipe.startswith(recipe)), None)
    if name is None:
        raise ConfigError(
            f"--dataset: recipe {config.recipe} does not say which set this is; give DD-Ranking's name of it: "
            f"{', '.join(_CLASSES)}"
        )
    if name not in _CLASSES:
        raise ConfigError(f"--dataset {name}: ddranking has no such set; choose from {', '.join(_CLASSES)}")
    if len(images.class_names) != _CLASSES[name]:
        raise ConfigError(
            f"--dataset {name}: has {_CLASSES[name]} classes, the run {len(images.class_names)}; give the set it is of"
        )
    return name


def _check(config: DistillConfig) -> None:
    """Refuse a run whose images or students ddranking has no settings for."""
    for option, values in _EXPRESSIBLE.items():
        section, field = option.split(".")
        value = getattr(getattr(config, section), field)
        if value not in values:
            given, allowed = str(value).lower(), " or ".join(str(one).lower() for one in values)
            raise ConfigError(f"{option}={given}: ddranking has no setting for it; export a run of {allowed}")
    if config.tiles > 1 and config.method not in SELECTING:
        raise ConfigError(
            f"recover.tiles={config.tiles}: ddranking would train on each tile as an image, against as many "
            "random ones; export a run of 1"
        )
    student = config.evaluate
    if student.schedule != "cosine" or student.cosine_stretch not in _SCHEDULES:
        raise ConfigError(
            f"evaluate.schedule={student.schedule}, evaluate.cosine_stretch={student.cosine_stretch:g}: ddranking has "
            "cosines to 0 and to half alone; export a run of stretch 1 or 2"
        )


def _network(config: DistillConfig, teacher: Teacher) -> str:
    """Return DD-Ranking's name of the teacher's network, and refuse one that ddranking cannot build."""
    if config.relabel.teachers:
        raise ConfigError("relabel.teachers: an export for ddranking has one teacher; export a run without more")
    if config.pretrain.stem == "stride2":
        raise ConfigError("pretrain.stem=stride2: ddranking builds no such stem; export a run with another teacher")
    if teacher.model not in _NETWORKS:
        raise ConfigError(
            f"pretrain.model={teacher.model}: ddranking builds no such network from torchvision; it can take a run "
            f"whose teacher is one of {', '.join(_NETWORKS)}"
        )
    return _NETWORKS[teacher.model]


@dataclass(frozen=True)
class _OneFile:
    """The files of an artifact that has one file, by any name."""

    data: bytes

    def read(self, name: str) -> bytes:
        return self.data


def _settings(config: DistillConfig, teacher: Teacher, name: str, network: str, ipc: int) -> dict[str, Any]:
    size = teacher.image_size
    crop = _transform("RandomResizedCrop", size=size, scale=list(config.relabel.crop_scale))
    flips = [_transform("RandomHorizontalFlip")] if config.relabel.flip else []
    resize = _transform("Resize", size=round(size / teacher.crop_ratio))
    return {
        "dataset": name,
        "real_data_path": "SET THIS",
        "ipc": ipc,
        "im_size": [size, size],
        "model_name": network,
        "stu_use_torchvision": True,
        "tea_use_torchvision": True,
        "teacher_dir": "teachers",  # like all places here, in the export's own folder
        "teacher_model_names": [network],
        "soft_label_mode": "M",
        "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": config.evaluate.temperature, "scale_loss": False},
        "data_aug_func": "cutmix" if config.relabel.mix == "cutmix" else None,
        "aug_params": {"beta": config.relabel.mix_alpha},
        "use_aug_for_hard": False,
        "use_zca": False,
        "optimizer": config.evaluate.optimizer,
        "lr_scheduler": _SCHEDULES[config.evaluate.cosine_stretch],
        "step_size": None,
        "weight_decay": config.evaluate.weight_decay,
        "momentum": config.evaluate.momentum,
        "num_epochs": config.relabel.epochs,
        "num_eval": 5,
        "real_batch_size": 256,
        "syn_batch_size": config.relabel.batch_size,
        "batch_size": config.relabel.batch_size,  # of the augmentation-robust score, as its kind of labels is
        "label_type": "soft",
        "eval_full_data": False,
        "random_data_format": "image",
        "random_data_path": "random",
        "custom_train_trans": [crop, *flips, *_as_tensor(teacher)],
        "custom_val_trans": [resize, _transform("CenterCrop", size=size), *_as_tensor(teacher)],
        "save_path": "scores.csv",
        "num_workers": 4,
        "device": "cuda",
        "dist": False,
    }


def _as_tensor(teacher: Teacher) -> list[dict[str, Any]]:
    pixels = teacher.pixels
    return [_transform("ToTensor"), _transform("Normalize", mean=list(pixels.mean), std=list(pixels.std))]


def _transform(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}
