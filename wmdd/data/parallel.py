"""Many files or images in the order asked for: in threads where that is faster, and one after another elsewhere.

Threads that run Python code hold each other up: two of them take twice the CPU time of one, and more time, to read
small files that the system has in memory, or to decode images of 32 px. Results depend on neither.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
# A file in memory is read without waiting, and one on a fast disk waits longer than the first. The second is that of a
# slow disk, or of the storage of a network that is mounted here.
WAIT_S, LONG_WAIT_S = 5e-5, 1e-3
_TIMED = 4


def map_waiting(
    function: Callable[[T], R], items: Sequence[T], threads: int, *, at_once: int, in_threads: bool
) -> Iterator[R]:
    """Yield a function's results in the order of the items: in threads once they wait for a disk or a network.

    Args:
        threads: at most.
        at_once: how many items may be done before their results are asked for; the first few of them are timed.
        in_threads: use threads from the first item on.
    """
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), at_once):
            part, seconds = items[start : start + at_once], list[float]()
            while not in_threads and len(seconds) < min(_TIMED, len(part)):
                yield _timed(function, part[len(seconds)], seconds)
                in_threads = seconds[-1] > LONG_WAIT_S
            in_threads = in_threads or statistics.median(seconds) > WAIT_S
            rest = part[len(seconds) :]
            yield from map_in(pool, function, rest, threads) if in_threads else map(function, rest)


def map_in(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield a function's results in the order of the items, all of which the threads of a pool begin at once."""
    # Several items for each task: to hand over a single small one takes as long as to read or decode it.
    step = -(-len(items) // (4 * threads)) or 1
    parts = (items[at : at + step] for at in range(0, len(items), step))
    for results in pool.map(lambda part: list(map(function, part)), parts):
        yield from results


def _timed(function: Callable[[T], R], item: T, seconds: list[float]) -> R:
    """Return the result for an item, and append for how long this thread waited meanwhile."""
    begun, begun_cpu = time.perf_counter(), time.thread_time()
    result = function(item)
    seconds.append(time.perf_counter() - begun - (time.thread_time() - begun_cpu))
    return result
