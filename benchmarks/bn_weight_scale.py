"""How far does the best weight of the batch-norm term move between teachers and sets, in either scale?

    python -m benchmarks.bn_weight_scale --case digits:convnet3_w64 --case digits:convnet2_w128 --store STORE

For each recipe and teacher, and for absolute and relative distances: the score of every weight of a grid (mean top-1 of
students on held-out training images, as in a search), the best one, and the weights that are within its noise.
"""

from __future__ import annotations

import argparse
import math

from benchmarks.common import report
from tuning.config import TuneConfig, search_config
from tuning.objective import Objective, prepare
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.engine.plan import make_plan
from wmdd.engine.run import LocalExecutor
from wmdd.storage.store import ArtifactStore


def objective_of(name: str, teacher: str, args: argparse.Namespace) -> Objective:
    """Return what the trials of a recipe and teacher share, computed unless the store has it."""
    tune = TuneConfig(levels=((1.0, 1.0, 1.0),), num_students=args.students)
    changes = {"pretrain.model": teacher, "evaluate.students": (args.student or teacher,)}
    changes |= {"data.path": args.data} if args.data and name != "digits" else {}
    config = search_config(override(recipe(name), changes), tune)
    store = ArtifactStore(args.store)
    plan = make_plan(config, store)
    prepare(plan, store, LocalExecutor(config.runtime), lambda event: None)
    return Objective(config, tune, args.store, plan.index_ref, gpu=config.runtime.device != "cpu")


def main() -> None:
    """Try every weight in every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", required=True, metavar="RECIPE:TEACHER")
    parser.add_argument("--data", help="real images of recipes that bring none")
    parser.add_argument("--store", required=True)
    parser.add_argument("--student", help="network of the students (default: the teacher's)")
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--weights", type=float, nargs="+", default=[10.0**power for power in range(-3, 4)])
    args = parser.parse_args()
    for case in args.case:
        objective = objective_of(*case.split(":"), args)
        for scale in ("absolute", "relative"):
            tried = {}
            for weight in args.weights:
                values = {"recover.bn_weight_scale": scale, "recover.bn_weight": weight}
                *_, tried[weight] = objective.climb(values)
            best = max(tried, key=lambda weight: tried[weight]["score"])
            error = {weight: found["spread"] / math.sqrt(args.students) for weight, found in tried.items()}
            near = [w for w in tried if tried[best]["score"] - tried[w]["score"] <= math.hypot(error[w], error[best])]
            scores = {f"{weight:g}": round(found["score"], 4) for weight, found in tried.items()}
            errors = {f"{weight:g}": round(value, 4) for weight, value in error.items()}
            report("bn_weight_scale", case=case, scale=scale, best=best, near=near, scores=scores, errors=errors)


if __name__ == "__main__":
    main()
