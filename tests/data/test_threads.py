"""Files in the order asked for, by threads only where they wait."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from image_files import png
from tables import each_of

from wmdd.data import images, threads
from wmdd.data.scan import build_index
from wmdd.data.threads import map_in, map_waiting

HERE = threading.main_thread().name


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while an item waits, which takes `clock.wait` s."""
    clock = SimpleNamespace(now=0.0, wait=0.0)

    def read(item):
        clock.now += clock.wait
        return item, threading.current_thread().name

    clock.read = read
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock.now, thread_time=lambda: 0.0))
    return clock


def by(clock, *, waits=False, count=100):
    """Return which items this thread read, in parts of 32."""
    results = list(map_waiting(clock.read, range(count), 2, at_once=32, waits=waits))
    assert [item for item, _ in results] == list(range(count))
    return [item for item, name in results if name == HERE]


def test_files_in_memory_are_read_by_this_thread(clock):
    assert by(clock) == list(range(100))


def test_threads_read_files_that_wait_once_a_few_were_timed(clock):
    clock.wait = 1e-3
    assert by(clock) == list(range(8))


def test_threads_read_all_files_of_a_network(clock):
    assert by(clock, waits=True) == []


def test_one_slow_file_does_not_start_threads(clock):
    read, slow = clock.read, {3, 40}

    def sometimes(item):
        clock.wait = 1.0 if item in slow else 0.0
        return read(item)

    clock.read = sometimes
    assert by(clock) == list(range(100))


def test_files_that_begin_to_wait_later_start_threads(clock):
    read = clock.read

    def later(item):
        clock.wait = 1e-3 if item >= 32 else 0.0
        return read(item)

    clock.read = later
    assert by(clock) == list(range(40))


def test_short_lists(clock):
    assert by(clock, count=0) == []
    clock.wait = 1e-3
    assert by(clock, count=3) == [0, 1, 2]
    assert by(clock, count=33) == list(range(8))


@each_of("waits", [False, True])
def test_no_more_is_read_ahead_than_asked_for(waits):
    done = []
    results = map_waiting(done.append, range(1000), 2, at_once=32, waits=waits)
    next(results)
    results.close()
    assert len(done) <= 32


@each_of("waits", [False, True])
def test_fault_arises_at_its_item(waits):
    results = map_waiting(lambda item: 1 / item, range(-20, 20), 2, at_once=64, waits=waits)
    assert next(results) == -1 / 20
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_threads_of_a_pool_keep_the_order():
    with ThreadPoolExecutor(4) as pool:
        slow_first = map_in(pool, lambda item: (time.sleep(0.001 * (10 - item)), item)[1], range(10), 4)
        assert list(slow_first) == list(range(10))


@each_of("side, by_one_thread", [(32, True), (64, False)])
def test_small_images_are_decoded_by_one_thread(side, by_one_thread, tmp_path, monkeypatch):
    paths = [f"{split}/a/{number}.png" for split in ("train", "val") for number in range(4)]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(png(int(path[-5]), (side, side)))
    index, decoders, decode = build_index(str(tmp_path)), set(), images._decoded

    def decoded(*args):
        decoders.add(threading.current_thread().name)
        return decode(*args)

    monkeypatch.setattr(images, "_decoded", decoded)
    assert images.load_native_uint8(index, "train", np.arange(4)).shape == (4, 3, side, side)
    assert (decoders == {HERE}) is by_one_thread
