"""What the tests of the scheduler share: tasks, and runs on simulated workers and a virtual clock."""

import collections
from types import SimpleNamespace

from ray_jobs.scheduler import Scheduler
from ray_jobs.simulation import SimulatedWorkers
from wmdd.config.machines import RayConfig
from wmdd.engine.board import Board
from wmdd.engine.task import PlannedUnit, StageTask
from wmdd.storage.store import ArtifactRef


def task(name, *needs, stage="recover"):
    ref = ArtifactRef(stage, name, f"{stage}-{name}")
    inputs = {str(place): ArtifactRef(stage, need, f"{stage}-{need}") for place, need in enumerate(needs)}
    return StageTask(stage, name, {}, 0, (PlannedUnit(ref, SimpleNamespace(images="distilled"), inputs),))


def tasks(count):
    return [task(f"class-{number}") for number in range(count)]


class Run:
    """A scheduler on simulated workers, and all its events."""

    def __init__(
        self, items, nodes, seconds=10.0, *, queue=lambda item: "main", exclusive=None, limits=None, **options
    ):
        duration = seconds if callable(seconds) else lambda item, node: seconds
        teams = options.pop("teams", {})
        simulated = ("start_s", "error", "shared", "fits")
        simulated = {name: options.pop(name) for name in simulated if name in options} | {"teams": teams}
        scheduled = {name: options.pop(name) for name in ("early", "at_once", "grows") if name in options}
        self.workers, self.events = SimulatedWorkers(nodes, duration, **simulated), []
        self.board = Board(items, {unit.ref for item in items for unit in item.units}, queue)
        scheduled |= {"limits": limits, "exclusive": exclusive, "teams": teams}
        self.scheduler = Scheduler(self.workers, RayConfig(**options), self.events.append, **scheduled)

    def go(self):
        self.scheduler.run(self.board)
        self.scheduler.close()
        assert not self.workers.present, "a worker is left"
        return self

    def units(self, kind):
        return [event.unit for event in self.events if event.kind == kind]

    def starts(self):
        return collections.Counter(item.name for _, _, item in self.workers.assigned)
