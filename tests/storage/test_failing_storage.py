"""Storage that breaks: calls that fail now and then, a disk that is full, a server that says no."""

import http.server
import json
import resource
import subprocess
import sys
import threading
from collections import Counter

import faulty
import numpy as np
import pytest
import tenacity
from conftest import TINY, call, commits, contents, environment, news
from image_files import TWO_CLASSES, folder
from PIL import Image

from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.errors import ArtifactError, ConfigError, DataError, StorageError
from wmdd.storage.filesystem import again, open_fs
from wmdd.storage.store import ArtifactRef, ArtifactStore

REF = ArtifactRef("evaluate", "student", "0" * 32)


class Text:
    """An artifact of one file."""

    def to_files(self):
        return {"text.txt": b"text" * 100}


@pytest.fixture
def two_tries(monkeypatch):
    monkeypatch.setattr(again, "stop", tenacity.stop_after_attempt(2))


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    """A folder below which every call fails whose number the test's `every` divides."""
    monkeypatch.setattr(faulty.FlakyFileSystem, "calls", faulty.count())
    monkeypatch.setenv("FAULTY_EVERY", "1000000")
    return f"flaky://{tmp_path}"


@pytest.mark.slow
def test_run_on_flaky_storage_is_the_same_run(tiny_run, tmp_path, monkeypatch):
    words = ("distill", "digits", *TINY, "--executor", "local", "--run", f"flaky://{tmp_path}/runs/digits")
    monkeypatch.setenv("FAULTY_EVERY", "13")
    monkeypatch.setenv("FAULTY_COUNT", str(tmp_path / "count"))
    result = call(tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "count").stat().st_size > 20  # failures there were
    assert contents(tmp_path / "runs/store") == contents(tiny_run.store)
    assert (tmp_path / "runs/digits/images.png").read_bytes() == (tiny_run.run / "images.png").read_bytes()
    told, expected = (Counter(item["kind"] for item in news(path)) for path in (tmp_path / "runs/digits", tiny_run.run))
    assert told["unit"] == expected["unit"]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_run_goes_on_after_a_full_disk(tiny_run, tmp_path, monkeypatch):
    words = ("distill", "digits", *TINY, "--executor", "local", "--store", f"full://{tmp_path}/store")
    room = tmp_path / "room"
    room.write_text("150000")
    monkeypatch.setenv("FAULTY_ROOM", str(room))
    result = call(tmp_path, *words)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("wmdd: ")
    assert f"{tmp_path}/store" in line
    assert "No space left on device); make room there" in line
    assert "Traceback" not in result.stderr
    made = commits(tmp_path / "store")
    assert 0 < len(made) < len(commits(tiny_run.store))
    room.write_text("1000000000")
    result = call(tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert made.items() <= commits(tmp_path / "store").items()
    assert contents(tmp_path / "store") == contents(tiny_run.store)


def test_failed_write_leaves_nothing_behind(tmp_path):
    program = (
        "import signal, sys; from wmdd.storage.store import ArtifactStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "ArtifactStore(sys.argv[1]).write_note('big', bytes(100_000))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "store"],
        capture_output=True, text=True, env=environment(PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )  # fmt: skip
    assert result.stderr.splitlines()[-1].startswith("wmdd.errors.StorageError")
    assert "make room there" in result.stderr.splitlines()[-1]
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_store_that_cannot_be_read_is_not_an_empty_one(flaky, monkeypatch, two_tries):
    store = ArtifactStore(flaky)
    store.save(REF, Text())
    monkeypatch.setenv("FAULTY_EVERY", "1")
    for ask in (store.commit_of, lambda ref: store.absent([ref]), store.files, store.withdraw):
        with pytest.raises(StorageError, match=r"the connection broke\); check the storage"):
            ask(REF)
    with pytest.raises(StorageError):
        store.read_note("index")
    monkeypatch.setenv("FAULTY_EVERY", "1000000")
    assert REF in store


def test_artifact_that_cannot_be_read_is_not_withdrawn(flaky, monkeypatch, two_tries):
    store = ArtifactStore(flaky)
    store.save(REF, Text())
    files = store.files(REF)
    monkeypatch.setenv("FAULTY_EVERY", "1")
    with pytest.raises(StorageError):
        files.read("text.txt")
    monkeypatch.setenv("FAULTY_EVERY", "1000000")
    assert store.files(REF).read("text.txt") == b"text" * 100


def test_half_a_file_is_not_seen(flaky, tmp_path, monkeypatch, two_tries):
    store = ArtifactStore(flaky)
    store.write_note("note", b"old")
    monkeypatch.setenv("FAULTY_EVERY", "1")
    with pytest.raises(StorageError, match="notes/note"):
        store.write_note("note", b"new and longer")
    assert (tmp_path / "notes/note").read_bytes() == b"old"


def test_images_are_read_after_an_outage(flaky, tmp_path, monkeypatch, two_tries):
    """A set that changed is refused for good; one that cannot be read now may be read by another worker."""
    index = build_index(folder(tmp_path, *TWO_CLASSES) and flaky)
    geometry, rows = Geometry(8, 1.0, "half"), np.arange(2)
    expected = class_images(index, 0, geometry, rows)
    monkeypatch.setenv("FAULTY_EVERY", "1")
    with pytest.raises(
        StorageError, match=r"train/a/0\.png cannot be read \(the connection broke\); check the storage"
    ):
        class_images(index, 0, geometry, rows)
    monkeypatch.setenv("FAULTY_EVERY", "1000000")
    assert class_images(index, 0, geometry, rows).equal(expected)
    (tmp_path / "train/a/0.png").unlink()
    with pytest.raises(DataError, match="has gone"):
        class_images(index, 0, geometry, rows)


@pytest.mark.parametrize("every", [3, 5, 7])
def test_flaky_listing_finds_all_images(flaky, tmp_path, monkeypatch, every):
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    near = build_index(str(tmp_path / "set"))
    monkeypatch.setenv("FAULTY_EVERY", str(every))
    far = build_index(f"{flaky}/set")
    assert far.class_names == near.class_names
    assert (far.digest("train"), far.digest("val")) == (near.digest("train"), near.digest("val"))


def test_set_that_cannot_be_listed_is_not_absent(flaky, monkeypatch, two_tries):
    monkeypatch.setenv("FAULTY_EVERY", "1")
    with pytest.raises(DataError, match="cannot be listed"):
        build_index(flaky)


@pytest.mark.parametrize(
    "url",
    [
        "sftp://me:hunter2@box/data",
        "s3://AKIA:hunter2/with/slashes@bucket/run",
        "s3://bucket/run?secret_key=hunter2",
        "https://host/set.parquet?X-Amz-Signature=hunter2",
        "simplecache::sftp://me:hunter2@box/data",
        "sftp://me:12345hunter2@box:22/data",
    ],
)
def test_url_with_a_password_is_refused_unshown(url):
    for use in (open_fs, ArtifactStore, build_index):
        with pytest.raises((ConfigError, DataError), match="holds a password or key") as caught:
            use(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nosuch://x/y", "no such file system"),
        ("s3:///run", "names no bucket"),
        ("sftp:///run", "names no host"),
        ("sftp://me@127.0.0.1:1/an@odd/path", "no connection"),  # a port and an @ are no password
        ("adl://container/x", "is not installed"),
    ],
)
def test_url_that_cannot_be_opened_is_one_line(url, words, two_tries):
    with pytest.raises(ConfigError, match=words) as caught:
        open_fs(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


@pytest.fixture
def s3_that_answers(monkeypatch):
    """An S3 server that gives the answers put into its list, the last one for ever; counts requests."""
    answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(self.command)
            status, code = answers.pop(0) if len(answers) > 1 else answers[0]
            body = b"" if status == 200 or self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        yield ArtifactStore(f"s3://bucket-{server.server_port}/x"), answers, asked
        server.shutdown()


@pytest.mark.parametrize("passing", [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests")])
def test_busy_s3_is_retried_with_one_request_a_file(s3_that_answers, passing):
    store, answers, asked = s3_that_answers
    answers += [passing, passing, (200, "")]
    store.write_note("a", b"a")
    assert asked == ["PUT"] * 3


@pytest.mark.parametrize("final", [(403, "AccessDenied"), (404, "NoSuchBucket"), (403, "InvalidAccessKeyId")])
def test_s3_that_refuses_is_asked_once(s3_that_answers, final):
    store, answers, asked = s3_that_answers
    answers.append(final)
    with pytest.raises(StorageError, match=r"credentials in the environment$"):
        store.write_note("a", b"a")
    assert asked == ["PUT"]


def test_s3_that_forbids_reading_is_not_an_empty_store(s3_that_answers):
    store, answers, asked = s3_that_answers
    answers.append((403, "AccessDenied"))
    with pytest.raises(StorageError, match="ACCESS_DENIED"):
        _ = REF in store
    assert asked == ["HEAD"]
    answers[:] = [(404, "NoSuchKey")]
    assert REF not in store


def test_commit_lost_on_its_way_is_read_again(flaky, tmp_path):
    """A file that arrives cut short once is not taken for damage; one that stays so is."""
    store = ArtifactStore(flaky)
    store.save(REF, Text())
    files = store.files(REF)
    path = tmp_path / REF.folder / json.loads((tmp_path / REF.folder / "commit.json").read_text())["attempt"]
    faulty.FlakyFileSystem.cut_short = 1
    assert files.read("text.txt") == b"text" * 100
    (path / "text.txt").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="is damaged"):
        files.read("text.txt")
    assert REF not in store
