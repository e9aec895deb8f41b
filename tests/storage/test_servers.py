"""Runs whose store and folder are on real servers on loopback: S3 (moto's) and SFTP (OpenSSH's)."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, call, contents, environment, run, start
from PIL import Image

from wmdd import load_distilled
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.decoding.pixels import to_tensor
from wmdd.data.images import StreamedImages, load_native_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.engine.locations import refuse_in_set
from wmdd.errors import ConfigError
from wmdd.method.artifacts import Barycenter
from wmdd.storage.filesystem import open_fs, write
from wmdd.storage.store import ArtifactRef, ArtifactStore

pytestmark = pytest.mark.slow
SECRET = "s3-secret-that-nobody-may-write-down"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """An S3 server with the bucket `bucket`; gives the environment of its users."""
    pytest.importorskip("moto", reason="moto is not installed")
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    folder = tmp_path_factory.mktemp("s3")
    with (folder / "log").open("w") as log:  # a pipe that nobody reads would fill, and stop the server
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    variables = {
        **{"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"},
        **{"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"},
    }
    try:
        wait_for(port, server)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            import boto3

            boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"]).create_bucket(Bucket="bucket")
            yield variables
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


@pytest.fixture(scope="module")
def sftp(tmp_path_factory):
    """An SSH server of this test alone; gives the URL of a folder on it and the environment of its users."""
    sshd = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    if sshd is None or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    pytest.importorskip("paramiko", reason="the extra wmdd[sftp] is not installed")
    home, port = tmp_path_factory.mktemp("home"), free_port()
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    for name in ("host", "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / name], check=True)
    (ssh / "authorized_keys").write_text((ssh / "id_ed25519.pub").read_text())
    host_key = " ".join((ssh / "host.pub").read_text().split()[:2])
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (ssh / "config").write_text(f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {ssh}/id_ed25519\n")
    (home / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {ssh}/host\nAuthorizedKeysFile {ssh}/authorized_keys\n"
        f"PidFile {home}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.getuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # root's sshd wants its empty folder
    with (home / "log").open("w") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", home / "sshd"], stdout=log, stderr=log)
    try:
        wait_for(port, server)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            yield f"sftp://{getpass.getuser()}@box{home}/data", home
    finally:
        server.terminate()
        server.wait(20)


REF = ArtifactRef("barycenter", "class-00000", "key")


def value(number=0.0):
    support = torch.full((2, 3), number)
    return Barycenter(0, support, torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), (1.0,), True, (1.0,) * 5)


@pytest.fixture(params=["s3", "sftp"])
def url(request, tmp_path):
    """A new folder on each server."""
    found = request.getfixturevalue(request.param)
    return f"s3://bucket/{tmp_path.name}" if request.param == "s3" else f"{found[0]}/{tmp_path.name}"


def test_artifact_comes_back_as_it_was_saved(url):
    store = ArtifactStore(url)
    assert REF not in store
    assert store.absent([REF]) == {REF}
    store.save(REF, value(3.0))
    assert REF in ArtifactStore(url)
    assert float(store.load(REF, Barycenter).support[1, 2]) == 3.0
    assert store.read_note("nothing") is None
    store.write_note("place", b"one")
    store.write_note("place", b"two")
    assert store.read_note("place") == b"two"
    store.drop_note("place")
    assert store.read_note("place") is None
    store.withdraw(REF)
    assert REF not in store


def test_many_writers_leave_one_whole_artifact(url):
    def save(number):
        ArtifactStore(url).save(REF, value(float(number)))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(save, range(6)))
    support = ArtifactStore(url).load(REF, Barycenter).support
    assert len(support.unique()) == 1


def test_readers_see_whole_files_during_a_write(url):
    store = ArtifactStore(url)
    store.write_note("big", b"a" * 300_000)
    seen = []

    def write(letter):
        for _ in range(4):
            store.write_note("big", letter * 300_000)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, letter) for letter in (b"b", b"c")]
        while not all(writer.done() for writer in writers):
            seen.append(ArtifactStore(url).read_note("big"))
        for writer in writers:
            writer.result()
    assert seen
    assert {(None if data is None else (len(data), data.count(data[:1]))) for data in seen} == {(300_000, 300_000)}


def download(store, folder):
    fs, root = open_fs(store)
    for path in fs.find(root):
        target = Path(folder) / path.removeprefix(root).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(path))


def test_run_continued_on_s3_is_the_local_run(s3, tiny_run, tmp_path):
    words = ("distill", "digits", *TINY, "--executor", "local", "--run", "s3://bucket/runs/tiny")
    first = start(tmp_path, *words, env=environment(**s3))
    store, limit = ArtifactStore("s3://bucket/runs/store"), time.monotonic() + 120
    while not any("/commit.json" in path for path in store.folder.fs.find("bucket/runs/store/barycenter")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < limit
        time.sleep(0.1)
    first.kill()
    out, err = first.communicate()
    assert "recover    10/10" not in out
    second = run(tmp_path, *words, env=environment(**s3))
    assert (second.returncode, second.stderr) == (0, ""), second.stderr
    download("s3://bucket/runs", tmp_path / "copy")
    assert contents(tmp_path / "copy/store") == contents(tiny_run.store)
    folder = tmp_path / "copy/tiny"
    assert (folder / "images.png").read_bytes() == (tiny_run.run / "images.png").read_bytes()
    assert (folder / "metrics.jsonl").read_text().count('"kind": "unit"') >= 20
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in tiny_run.run.iterdir()}
    report = call(tmp_path, "report", "s3://bucket/runs/tiny")
    assert report.returncode == 0, report.stderr
    left = call(tmp_path, "plan", "digits", *TINY, "--store", "s3://bucket/runs/store")
    assert left.returncode == 0, left.stderr
    assert "class-" not in left.stdout
    assert len(load_distilled("s3://bucket/runs/tiny")) == 20
    every = [path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in data for data in every)
    assert SECRET not in out + err + second.stdout + report.stdout


def test_run_over_sftp_is_the_local_run(sftp, tiny_run, tmp_path):
    url, home = sftp
    words = ("distill", "digits", *TINY, "--executor", "local", "--run", f"{url}/runs/tiny")
    result = call(tmp_path, *words)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert contents(home / "data/runs/store") == contents(tiny_run.store)
    assert not list((home / "data").rglob("*.part"))


def test_images_are_read_from_s3_as_from_a_folder(s3, tmp_path):
    fs, _ = open_fs("s3://bucket")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(2):
                path = tmp_path / "set" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
                write(fs, f"bucket/set/{split}/{name}/{number}.png", path.read_bytes())

    def index(url):
        return build_index(url, classes=None, val_fraction=0.2, listing=list_files(url), on_progress=lambda a, b: None)

    near, far = index(str(tmp_path / "set")), index("s3://bucket/set")
    assert far.class_names == near.class_names == ("cat", "dog")
    assert far.digest("train") == near.digest("train")
    assert torch.equal(load_native_uint8(near, "train", np.arange(4)), load_native_uint8(far, "train", np.arange(4)))

    images = [{"bytes": (tmp_path / f"set/train/{name}/0.png").read_bytes()} for name in ("cat", "dog")] * 20
    table = pa.table({"image": images, "label": pa.array([0, 1] * 20, pa.int64())})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=8)
    write(fs, "bucket/parquet/train.parquet", (tmp_path / "train.parquet").read_bytes())
    near, far = index(str(tmp_path / "train.parquet")), index("s3://bucket/parquet")
    assert far.digest("train") == near.digest("train")
    chosen = np.array([30, 1, 17])
    expected = load_native_uint8(near, "train", chosen)
    assert torch.equal(load_native_uint8(far, "train", chosen), expected)
    streamed = StreamedImages(far, "train", to_tensor)
    assert torch.equal(torch.stack([streamed[int(place)][0] for place in chosen]), expected)


def test_ended_connections_are_opened_again(sftp):
    url, home = sftp
    store = ArtifactStore(f"{url}/ended")
    store.write_note("a", b"a")
    for session in psutil.Process(int((home / "pid").read_text())).children(recursive=True):
        session.kill()
    store.write_note("b", b"b")
    assert [store.read_note(name) for name in ("a", "b", "c")] == [b"a", b"b", None]


def test_any_number_of_threads_share_a_server(sftp):
    store = ArtifactStore(f"{sftp[0]}/threads")
    data = {f"note-{number}": bytes([number]) * 50_000 for number in range(24)}
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(store.write_note, data, data.values()))
        assert dict(zip(data, pool.map(store.read_note, data), strict=True)) == data


def test_part_of_a_file_is_read(url):
    store = ArtifactStore(url)
    store.write_note("alphabet", b"abcdefghijklmnopqrstuvwxyz")
    path = store.folder.path("notes", "alphabet")
    assert store.folder.fs.cat_file(path, 3, 6) == b"def"
    assert store.folder.fs.cat_file(path, 20, 26) == b"uvwxyz"


def test_server_of_another_key_is_refused(sftp, tmp_path):
    url, home = sftp
    hosts = (home / ".ssh/known_hosts").read_text()
    try:
        (home / ".ssh/known_hosts").write_text("")
        result = run(tmp_path, "distill", "digits", "--run", f"{url}/other", env=environment(HOME=str(home)))
    finally:
        (home / ".ssh/known_hosts").write_text(hosts)
    assert result.returncode == 2
    assert "no connection" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_folder_of_a_set_is_no_run_folder(url):
    fs, root = open_fs(url)
    write(fs, f"{root}/set/train/a/0.png", b"x")
    config = override(recipe("digits"), {"data.path": f"{url}/set"})
    for place in (f"{url}/set", f"{url}/set/", f"{url}/set/train", f"{url}/set/train/a"):
        with pytest.raises(ConfigError, match="is a folder of the data set"):
            refuse_in_set(config, place, f"{url}/store")
        with pytest.raises(ConfigError, match="is a folder of the data set"):
            refuse_in_set(config, f"{url}/run", place)
    refuse_in_set(config, f"{url}/set/runs/a", f"{url}/set/runs/store")


def test_bucket_that_is_not_there_is_one_line_at_once(s3, tmp_path):
    result = run(tmp_path, "distill", "digits", "--run", "s3://no-such-bucket/run", env=environment(**s3))
    assert result.returncode in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert "no-such-bucket" in result.stderr
