"""Files in the order asked for, by threads only where they wait."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from image_files import png
from tables import each_of

from wmdd.data import images, parallel, scan
from wmdd.data.parallel import map_in, map_waiting

HERE = threading.main_thread().name


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while an item waits, or computes, for `clock.wait` and `clock.work` s."""
    clock = SimpleNamespace(now=0.0, cpu=0.0, wait=0.0, work=0.0)

    def read(item):
        clock.now += clock.wait + clock.work
        clock.cpu += clock.work
        return item, threading.current_thread().name

    clock.read = read
    monkeypatch.setattr(
        parallel, "time", SimpleNamespace(perf_counter=lambda: clock.now, thread_time=lambda: clock.cpu)
    )
    return clock


def by(clock, *, in_threads=False, count=100):
    """Return which items this thread read, in parts of 32."""
    results = list(map_waiting(clock.read, range(count), 2, at_once=32, in_threads=in_threads))
    assert [item for item, _ in results] == list(range(count))
    return [item for item, name in results if name == HERE]


def test_files_in_memory_are_read_by_this_thread(clock):
    assert by(clock) == list(range(100))


def test_threads_read_files_that_wait_once_a_few_were_timed(clock):
    clock.wait = 1e-4
    assert by(clock) == list(range(4))


def test_threads_read_files_that_take_long_to_decode(clock):
    clock.work = 2e-4
    assert by(clock) == list(range(100))
    clock.work = 2e-3
    assert by(clock) == list(range(4))


def test_threads_read_all_files_where_they_are_asked_to(clock):
    assert by(clock, in_threads=True) == []


def test_one_fast_file_of_those_that_are_timed_keeps_threads_away(clock):
    slow_ones(clock, lambda item: item not in (3, 34, 65, 96))  # another thread holds Python's lock
    assert by(clock) == list(range(100))


def test_files_that_begin_to_wait_later_start_threads(clock):
    slow_ones(clock, lambda item: item >= 32)
    assert by(clock) == list(range(36))


def slow_ones(clock, is_slow):
    read = clock.read

    def read_some(item):
        clock.wait = 1e-4 if is_slow(item) else 0.0
        return read(item)

    clock.read = read_some


def test_short_lists(clock):
    assert by(clock, count=0) == []
    clock.wait = 1e-4
    assert by(clock, count=3) == [0, 1, 2]
    assert by(clock, count=33) == list(range(4))


@each_of("in_threads", [False, True])
def test_no_more_is_read_ahead_than_asked_for(in_threads):
    done = []
    results = map_waiting(done.append, range(1000), 2, at_once=32, in_threads=in_threads)
    next(results)
    results.close()
    assert len(done) <= 32


@each_of("in_threads", [False, True])
def test_fault_of_an_item_is_raised(in_threads):
    results = map_waiting(lambda item: 1 / item, range(-20, 20), 2, at_once=64, in_threads=in_threads)
    assert next(results) == -1 / 20
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_threads_of_a_pool_keep_the_order():
    with ThreadPoolExecutor(4) as pool:
        slow_first = map_in(pool, lambda item: (time.sleep(0.001 * (10 - item)), item)[1], range(10), 4)
        assert list(slow_first) == list(range(10))


@pytest.fixture
def calls(monkeypatch):
    """Whether each use of `map_waiting` asked for threads from the first item on."""
    calls = []

    def spy(*args, in_threads, **options):
        calls.append(in_threads)
        return map_waiting(*args, in_threads=in_threads, **options)

    for module in (images, scan):
        monkeypatch.setattr(module, "map_waiting", spy)
    return calls


def image_folder(root, side, write):
    for path in (f"{split}/a/{number}.png" for split in ("train", "val") for number in range(4)):
        write(f"{root}/{path}", png(int(path[-5]), (side, side)))


@each_of("side, in_threads", [(32, False), (64, True)])
def test_one_thread_reads_and_decodes_small_images(side, in_threads, tmp_path, monkeypatch, calls):
    fs = fsspec.filesystem("file", auto_mkdir=True)
    image_folder(tmp_path, side, fs.pipe_file)
    index, decoders, decode = scan.build_index(str(tmp_path)), set(), images._decoded

    def decoded(*args):
        decoders.add(threading.current_thread().name)
        return decode(*args)

    monkeypatch.setattr(images, "_decoded", decoded)
    calls.clear()
    assert images.load_native_uint8(index, "train", np.arange(4)).shape == (4, 3, side, side)
    assert calls == [in_threads]
    assert (decoders == {HERE}) is not in_threads


def test_threads_read_the_files_of_a_network(calls):
    fs = fsspec.filesystem("memory")
    image_folder("/test-threads", 32, fs.pipe_file)
    index = scan.build_index("memory://test-threads")
    images.load_native_uint8(index, "train", np.arange(4))
    fs.rm("/test-threads", recursive=True)
    assert calls == [True, True, True]  # two splits, and the images


def test_index_of_photographs_uses_threads_once_their_size_is_known(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(scan, "_AT_ONCE", 2)
    monkeypatch.setattr(scan, "_PHOTOGRAPH_PX", 40 * 40)
    fs = fsspec.filesystem("file", auto_mkdir=True)
    for side, expected in ((48, [False, True, True, True]), (32, [False] * 4)):
        calls.clear()
        image_folder(tmp_path / str(side), side, fs.pipe_file)
        scan.build_index(str(tmp_path / str(side)))
        assert calls == expected
