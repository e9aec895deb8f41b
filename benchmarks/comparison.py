"""A stage against a plain loop and against its network alone, on the same images in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.device import synchronize
from benchmarks.steps import Record
from wmdd.normalization import NORMALIZATIONS
from wmdd.runtime import Runtime

ROUNDS = 2
HALF = NORMALIZATIONS["half"]
Way = Callable[[], int]


def compare(record: Record, runtime: Runtime, *, wmdd: Way, plain: Way, network: Way, cores: int = 1) -> None:
    """Time the ways alternately, after a first call of each that chooses kernels; each returns its number of images.

    On a CPU the time is that of this process on CPUs, which other programs hardly change. They do change the busy
    share, which is the time of the network alone over the elapsed time of wmdd on its cores.

    Args:
        cores: of the CPU, on which wmdd runs.
    """
    ways = {"wmdd": wmdd, "plain loop": plain, "network alone": network}
    best, elapsed = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, math.inf)
    clock = time.process_time if runtime.device.type == "cpu" else time.perf_counter
    for number in range(1 + ROUNDS):
        for name, way in ways.items():
            synchronize()
            begun, begun_elapsed = clock(), time.perf_counter()
            images = way()
            synchronize()
            if number:
                best[name] = min(best[name], (clock() - begun) / images)
                elapsed[name] = min(elapsed[name], (time.perf_counter() - begun_elapsed) / images)
        if number:
            _record(record, best, busy_share=best["network alone"] / (elapsed["wmdd"] * cores))


def _record(record: Record, seconds: dict[str, float], busy_share: float) -> None:
    ratio = seconds["plain loop"] / seconds["wmdd"]
    share = seconds["network alone"] / seconds["wmdd"]
    record(
        ways={name: {"us_per_image": round(1e6 * value, 1)} for name, value in seconds.items()},
        ratio=round(ratio, 2),
        share_of_network=round(share, 3),
        busy_share=round(busy_share, 3),
        result=f"{1e6 * seconds['wmdd']:.0f} us an image, {ratio:.2f} times as fast as the plain loop; "
        f"the network alone is {share:.0%} of it (device busy {busy_share:.0%})",
    )


def plain_transform(*changes: object) -> transforms.Compose:
    """Return changes of a PIL image, and its conversion to a normalised tensor."""
    return transforms.Compose([*changes, transforms.ToTensor(), transforms.Normalize(HALF.mean, HALF.std)])


def plain_loader(images: Dataset, batch_size: int, runtime: Runtime, *, shuffle: bool = False) -> DataLoader:  # type: ignore[type-arg]
    """Return batches as a script would load them: in this process on a CPU, whose time is counted, else by eight."""
    workers = 0 if runtime.device.type == "cpu" else 8
    return DataLoader(images, batch_size, shuffle=shuffle, num_workers=workers, pin_memory=workers > 0)


def sizes(count: int, batch_size: int) -> Iterator[int]:
    """Yield the sizes of the batches of some images."""
    for start in range(0, count, batch_size):
        yield min(batch_size, count - start)
