"""Many files or images in the order asked for: in threads where that is faster, and one after another elsewhere.

Threads that run Python code wait for each other: two of them take twice the CPU time of one, and more time, to read
small files that the system has in memory, or to decode images of 32 px. Results depend on neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
# A file in memory is read without waiting, and one on a fast disk waits longer than the first. What takes longer than
# the second is mostly decoded or digested, for which threads need not wait for each other.
WAIT_S, LONG_S = 5e-5, 5e-4
_TIMED = 4


def map_waiting(
    function: Callable[[T], R], items: Sequence[T], threads: int, *, at_once: int, in_threads: bool
) -> Iterator[R]:
    """Yield a function's results in the order of the items: in threads once all of a few items wait or take long.

    Args:
        threads: at most.
        at_once: how many items may be done before their results are asked for; the first few of them are timed.
        in_threads: use threads from the first item on.
    """
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), at_once):
            part = items[start : start + at_once]
            if not in_threads:
                are_slow = list[bool]()
                for item in part[:_TIMED]:
                    yield _timed(function, item, are_slow)
                # All, since one alone may wait for another program, or for another thread of this one.
                part, in_threads = part[_TIMED:], all(are_slow)
            yield from map_in(pool, function, part, threads) if in_threads else map(function, part)


def map_in(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield a function's results in the order of the items, all of which the threads of a pool begin at once."""
    # Several items for each task: to hand over a single small one takes as long as to read or decode it.
    step = -(-len(items) // (4 * threads)) or 1
    parts = (items[at : at + step] for at in range(0, len(items), step))
    for results in pool.map(lambda part: list(map(function, part)), parts):
        yield from results


def _timed(function: Callable[[T], R], item: T, are_slow: list[bool]) -> R:
    """Return the result for an item, and append whether it waited, or took long."""
    begun, begun_cpu = time.perf_counter(), time.thread_time()
    result = function(item)
    took = time.perf_counter() - begun
    waited = took - (time.thread_time() - begun_cpu)
    are_slow.append(waited > WAIT_S or took > LONG_S)
    return result
