"""What the tests of searches share: a small search of the digits, and a short folder for Ray's sockets."""

import contextlib
import shutil
import tempfile
from dataclasses import replace

from tuning.config import TuneConfig, search_config
from tuning.objective import SHARED_STAGES, Objective
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.engine.plan import make_plan
from wmdd.engine.run import LocalExecutor, run_plan
from wmdd.storage.store import ArtifactStore

SMALL = {
    "ipc": 2,
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 4,
    "runtime.train_threads": 1,
    "evaluate.students": ("convnet2_w16",),
    "recover.iterations": 20,
    "relabel.epochs": 12,
    "relabel.epochs_per_block": 3,
}
WORDS = [
    *(word for name, value in SMALL.items() for word in (f"--{name}", value[0] if isinstance(value, tuple) else value)),
    *("--tune.levels", "1:0.5:0.5 1:1:1", "--tune.final", "false", "--ray.cpus_per_actor", "1"),
]
LEVELS = ((1.0, 0.5, 0.5), (1.0, 1.0, 1.0))


def prepare(folder):
    """Make a store with what trials share; give an objective on it."""
    url, tune = str(folder / "store"), TuneConfig(levels=LEVELS)
    config = search_config(override(recipe("digits"), SMALL), tune)
    plan = make_plan(config, ArtifactStore(url))
    shared = replace(plan, tasks={stage: plan.tasks[stage] for stage in SHARED_STAGES})
    run_plan(shared, ArtifactStore(url), LocalExecutor(config.runtime), lambda event: None)
    return Objective(config, tune, url, plan.index_ref, gpu=False)


@contextlib.contextmanager
def short_folder():
    folder = tempfile.mkdtemp(prefix="rt")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
