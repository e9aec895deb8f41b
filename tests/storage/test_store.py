"""The store's promises: all or nothing, nothing damaged is believed, and keys that depend on content alone."""

import json
import multiprocessing
import os
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from wmdd.errors import ArtifactError
from wmdd.keys import content_key
from wmdd.method.artifacts import DistilledClass
from wmdd.stages.evaluate import StudentResult
from wmdd.storage.store import ArtifactRef, ArtifactStore

REF = ArtifactRef("recover", "class-0000", content_key({"stage": "recover", "unit": 0}))


def distilled(shade=7):
    images = torch.full((2, 3, 4, 4), shade, dtype=torch.uint8)
    return DistilledClass(3, images, torch.tensor([0.25, 0.75]), torch.ones(5, 2), ("a", "b"), (4, -1), {"why": "test"})


@dataclass(frozen=True)
class Pair:
    """Two files, so that an artifact can be half written."""

    left: bytes
    right: bytes

    def to_files(self):
        return {"left.bin": self.left, "right.bin": self.right}

    @classmethod
    def from_files(cls, files):
        return cls(files.read("left.bin"), files.read("right.bin"))


@dataclass(frozen=True)
class Unwritable(Pair):
    """Fails when its second file is to be made."""

    def to_files(self):
        class Stops(dict):
            def items(self):
                yield "left.bin", b"left"
                raise KeyboardInterrupt

        return Stops()


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


def stored_file(store, name, ref=REF):
    """Path of a committed file on disk."""
    return store.folder.path(ref.folder, store.commit_of(ref)["attempt"], name)


def all_fields(value):
    return (value.class_id, value.terms, value.sources, value.notes), (value.images, value.mass, value.losses)


@pytest.mark.parametrize("scheme", ["local", "memory", "file"])
def test_store_gives_back_what_was_saved(tmp_path, scheme):
    base = {"local": str(tmp_path), "memory": f"memory://{uuid.uuid4().hex}", "file": f"file://{tmp_path}"}[scheme]
    store = ArtifactStore(f"{base}/store")
    assert REF not in store
    store.save(REF, distilled())
    assert REF in store
    facts, tensors = all_fields(store.load(REF, DistilledClass))
    expected_facts, expected_tensors = all_fields(distilled())
    assert facts == expected_facts
    assert all(map(torch.equal, tensors, expected_tensors))


def test_saved_artifact_is_found_by_another_process(store):
    store.save(REF, distilled())
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        assert workers.submit(store.__contains__, REF).result() is True
    assert REF in ArtifactStore(os.path.relpath(store.url))


def test_commit_records_facts_beside_sizes(store):
    store.save(REF, Pair(b"abc", b""), {"seconds": 1.5})
    commit = store.commit_of(REF)
    assert (commit["seconds"], commit["stage"], commit["unit"]) == (1.5, "recover", "class-0000")
    assert {name: facts["size"] for name, facts in commit["files"].items()} == {"left.bin": 3, "right.bin": 0}


def test_interrupted_save_leaves_nothing_to_be_found(store):
    with pytest.raises(KeyboardInterrupt):
        store.save(REF, Unwritable(b"", b""))
    assert REF not in store
    assert any(path.endswith("left.bin") for path in store.folder.fs.find(store.folder.root))
    store.save(REF, Pair(b"l", b"r"))
    assert store.load(REF, Pair) == Pair(b"l", b"r")


@pytest.mark.parametrize("name", ["left.bin", "right.bin"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer"])
def test_artifact_with_an_incomplete_file_is_absent(store, name, damage):
    store.save(REF, Pair(b"left", b"right"))
    path = stored_file(store, name)
    if damage == "missing":
        os.remove(path)
    else:
        with open(path, "rb+") as file:
            file.truncate(2) if damage == "truncated" else file.seek(0, 2) and file.write(b"!")
    assert REF not in store
    with pytest.raises(ArtifactError, match="class-0000 is not in the store"):
        store.load(REF, Pair)
    store.save(REF, Pair(b"left", b"right"))
    assert store.load(REF, Pair) == Pair(b"left", b"right")


def test_broken_commit_means_absent(store):
    store.save(REF, Pair(b"left", b"right"))
    for text in (b"", b"{", b"{}", b'{"attempt": "a"}', b"\xff\xfe"):
        store.folder.write(f"{REF.folder}/commit.json", text)
        assert REF not in store, text


def test_flipped_byte_withdraws_the_artifact(store):
    store.save(REF, distilled())
    path = stored_file(store, "images.safetensors")
    with open(path, "rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x99")
    assert REF in store  # the size is right: only reading can tell
    with pytest.raises(ArtifactError, match=r"images\.safetensors is damaged"):
        store.load(REF, DistilledClass)
    assert REF not in store
    store.save(REF, distilled())
    assert torch.equal(store.load(REF, DistilledClass).images, distilled().images)


def test_first_artifact_of_a_key_stays(store):
    store.save(REF, Pair(b"first", b""))
    store.save(REF, Pair(b"second", b""))
    assert store.load(REF, Pair).left == b"first"


def test_racing_writers_leave_one_whole_artifact(store):
    start = threading.Barrier(6)

    def write(number):
        start.wait()
        own = ArtifactStore(store.url)
        own.save(REF, Pair(bytes([number]) * 5000, bytes([number]) * 3000))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.load(REF, Pair)
    assert set(found.left) == set(found.right)
    assert (len(found.left), len(found.right)) == (5000, 3000)


def test_readers_see_only_whole_notes(store):
    store.write_note("resume", b"0" * 100_000)
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            data = store.read_note("resume")
            seen.append(None if data is None else (len(data), data.count(data[:1])))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(30):
        store.write_note("resume", bytes([number]) * 100_000)
    done.set()
    for reader in readers:
        reader.join()
    assert set(seen) == {(100_000, 100_000)}


def test_writing_leaves_no_partial_files_behind(store):
    store.save(REF, Pair(b"left", b"right"))
    store.write_note("index", b"data")
    assert not [path for path in store.folder.fs.find(store.folder.root) if path.endswith(".part")]


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_notes_are_read_replaced_and_dropped(tmp_path, scheme):
    store = ArtifactStore(str(tmp_path / "s") if scheme == "local" else f"memory://{uuid.uuid4().hex}")
    assert store.read_note("resume-1") is None
    store.drop_note("resume-1")
    store.write_note("resume-1", b"one")
    store.write_note("resume-1", b"two")
    assert store.read_note("resume-1") == b"two"
    store.drop_note("resume-1")
    assert store.read_note("resume-1") is None


def test_kept_artifact_stays_until_the_next_is_kept(store):
    other = ArtifactRef("recover", "class-0001", content_key({"unit": 1}))
    store.save(REF, Pair(b"a", b"b"))
    store.save(other, Pair(b"c", b"d"))
    kept = store.load(REF, Pair, keep=True)
    assert store.load(REF, Pair) is kept
    assert store.load(other, Pair, keep=True) == Pair(b"c", b"d")
    assert store.load(REF, Pair) is not kept


def test_artifact_of_another_schema_is_named_as_such(store):
    result = StudentResult("convnet3", "distilled", 0, 0.5, 0.6, ({"epoch": 1.0, "top1": 0.5},), "tiny", "00")
    files = {"student.json": json.dumps({**json.loads(result.to_files()["student.json"]), "accuracy": 1})}
    store.save(REF, Foreign({name: text.encode() for name, text in files.items()}))
    with pytest.raises(ArtifactError, match="another schema"):
        store.load(REF, StudentResult)


@dataclass(frozen=True)
class Foreign:
    """Files as another version of the program would have written them."""

    files: dict[str, bytes]

    def to_files(self):
        return self.files


PARTS = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.integers(), st.booleans(), st.none(), st.text(max_size=5), st.floats(allow_nan=False),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=3), st.lists(st.integers(), max_size=3),
    ),
    max_size=5,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(parts=PARTS)
def test_key_ignores_the_order_of_entries(parts):
    backwards = {name: parts[name] for name in reversed(parts)}
    assert content_key(backwards) == content_key(parts)


@settings(max_examples=50, deadline=None)
@given(first=PARTS, second=PARTS)
def test_keys_are_equal_only_for_equal_content(first, second):
    equal = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (content_key(first) == content_key(second)) is equal


def test_key_is_the_same_in_every_process():
    assert content_key({"stage": "recover", "seed": 0}) == "0036a4a31756b534e141d6f52e5ee310"
