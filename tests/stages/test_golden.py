"""What each stage makes of fixed inputs, against figures kept in golden.json: they move with a version, or not at all.

Keys of the store hold a stage's version. Who changes what a stage computes raises its version and writes the figures
again (`PYTHONPATH=tests python tests/stages/test_golden.py`); else stores would give back what the code no longer
makes.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CPU
from image_files import folder

from wmdd.config.distill import DistillConfig, override
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.moments import Moments
from wmdd.method.soft_labels import LabelBlock
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.evaluate import StudentResult

GOLDEN = Path(__file__).with_name("golden.json")
CLOSE = {"rtol": 2e-3, "atol": 2e-4}
MODEL, SIZE, IPC, WIDTH = "convnet2_w16", 16, 3, 6
GEOMETRY = Geometry(SIZE, 1.0, "half")
CONFIG = override(
    DistillConfig(),
    {
        "pretrain.epochs": 2,
        "pretrain.batch_size": 4,
        "pretrain.warmup_epochs": 1.0,
        "statistics.batch_size": 5,
        "ipc": IPC,
        "recover.iterations": 3,
        "recover.roll_px": 2,
        "relabel.epochs": 2,
        "relabel.batch_size": 4,
        "evaluate.val_every": 1,
        "evaluate.temperature": 1.0,
        "evaluate.full_data": False,
    },
)


def normal(*shape, name):
    return torch.randn(*shape, generator=SeedTree(0).child("golden", name).torch())


def index(root):
    paths = [f"{split}/{name}/{i}.png" for split, n in (("train", 8), ("val", 4)) for name in "ab" for i in range(n)]
    return build_index(folder(Path(root), *paths))


def teacher():
    with SeedTree(3).scoped():
        weights = build_model(MODEL, 2, SIZE).state_dict()
    sure = {name: 20 * w if w.ndim == 2 else w for name, w in weights.items()}  # else all labels are near one half
    return Teacher(MODEL, "auto", sure, ("a", "b"), 0.5, SIZE, 1.0, "half")


def statistics(class_id, width):
    moments = tuple(Moments.of(normal(8, 16, 4, 4, name=f"layer-{layer}-{class_id}")) for layer in range(2))
    return ClassStatistics(class_id, normal(8, width, name=f"features-{class_id}"), moments)


def barycenter(class_id, width):
    weights = torch.tensor([0.5, 0.3, 0.2])
    return Barycenter(class_id, normal(IPC, width, name="atoms"), weights, torch.arange(IPC), (1.0,), True, (0.0,) * 5)


def images(class_id):
    pixels = (normal(IPC, 3, SIZE, SIZE, name=f"images-{class_id}") * 40 + 128).clamp(0, 255).to(torch.uint8)
    return DistilledClass(class_id, pixels, torch.full((IPC,), 1 / IPC))


def labels():
    params = {"images": "distilled", "first_epoch": 0, "epochs": 2}
    return run("relabel", params, teacher=teacher(), classes=both())


def both():
    return [images(0), images(1)]


def run(stage, params, **inputs):
    unit = Unit("unit", STAGES[stage].params(**params), inputs.__getitem__)
    outputs = STAGES[stage].run(STAGES[stage].section_of(CONFIG), [unit], SeedTree(7), CPU)
    return [output.value for output in outputs if isinstance(output, Output)]


def output(stage, root):
    """What a stage makes of its inputs; no stage's inputs come from another one but the students' labels."""
    own = {"class_id": 1}
    match stage:
        case "pretrain":
            params = {"model": MODEL, "stem": "auto", "weights": None, "geometry": GEOMETRY}
            return run(stage, params, index=index(root))
        case "statistics":
            return run(stage, own, index=index(root), teacher=teacher())
        case "barycenter":
            return run(stage, own | {"ipc": IPC}, statistics=statistics(1, WIDTH))
        case "recover":
            measured = run("statistics", own, index=index(root), teacher=teacher())[0]
            width = measured.features.shape[1]
            return run(stage, own, teacher=teacher(), statistics=measured, barycenter=barycenter(1, width))
        case "select":
            own |= {"ipc": IPC, "geometry": GEOMETRY}
            drawn = run(stage, own | {"draw": 0}, index=index(root))
            return drawn + run(stage, own, index=index(root), statistics=statistics(1, WIDTH))
        case "relabel":
            return labels()
        case "evaluate":
            params = {"student": MODEL, "seed": 0, "images": "distilled", "geometry": GEOMETRY}
            params |= {"protocol": "wmdd", "protocol_hash": "none"}
            return run(stage, params, classes=both(), labels=labels(), index=index(root))


def figures(value):
    """A few numbers that say what a value holds."""
    match value:
        case Teacher():
            return of(*(w for w in value.weights.values() if w.is_floating_point())) + [p["loss"] for p in value.curve]
        case ClassStatistics():
            return of(value.features, *(part for m in value.moments for part in (m.mean, m.var)))
        case Barycenter():
            return [*of(value.support, value.mass), *value.nearest.tolist(), *value.objective]
        case DistilledClass():
            return [*of(value.images.float(), value.mass, value.losses), *value.sources]
        case LabelBlock():
            batches = value.read(range(2))
            drawn = [int(n) for batch in batches for part in (batch.images, batch.views.box) for n in part.ravel()]
            return [*of(*(batch.logits for batch in batches)), *drawn]
        case StudentResult():
            return [point[name] for point in value.curve for name in ("loss", "top1")]


def of(*tensors):
    """Mean, deviation, and the projection on a fixed direction, which sees what moves within a tensor."""
    found = []
    for values in (tensor.double().flatten() for tensor in tensors if tensor.numel()):
        along = normal(len(values), name="direction").double()
        found += [values.mean(), values.std(correction=0), values @ along / len(values) ** 0.5]
    return [float(figure) for figure in found]


def measured(stage, root):
    return {"version": STAGES[stage].version, "figures": [figures(value) for value in output(stage, root)]}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_makes_what_its_version_always_made(stage, tmp_path):
    now, kept = measured(stage, tmp_path), json.loads(GOLDEN.read_text())[stage]
    assert now["version"] == kept["version"], f"write the figures of {stage} again: see above"
    assert len(now["figures"]) == len(kept["figures"]) > 0
    for found, expected in zip(now["figures"], kept["figures"], strict=True):
        np.testing.assert_allclose(found, expected, err_msg=f"raise the version of {stage}", **CLOSE)


def test_other_settings_move_the_figures(monkeypatch, tmp_path):
    """The comparison sees a change as small as a tenth more weight on one term."""
    before = np.concatenate(measured("recover", tmp_path / "a")["figures"])
    other = override(CONFIG, {"recover.feature_weight": 1.1 * CONFIG.recover.feature_weight})
    monkeypatch.setitem(globals(), "CONFIG", other)
    after = np.concatenate(measured("recover", tmp_path / "b")["figures"])
    assert not np.allclose(before, after, **CLOSE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        found = {stage: measured(stage, Path(made) / stage) for stage in STAGES}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
