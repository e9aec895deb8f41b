"""What is tried again, and what is not."""

import errno
import http.server
import logging
import threading
from types import SimpleNamespace

import pytest
from tables import each_of

from wmdd.data.layouts.sources import list_files
from wmdd.errors import ConfigError, DataError
from wmdd.models.weight_files import read_bytes
from wmdd.storage import filesystem as files
from wmdd.storage import object_stores as arrow_files
from wmdd.storage.errors import explain, may_pass
from wmdd.storage.filesystem import kind, open_fs, read


@each_of("number", ["EIO", "ETIMEDOUT", "ECONNRESET", "ESTALE", "EAGAIN"])
def test_failure_that_may_pass_is_tried_again(number):
    assert may_pass(OSError(getattr(errno, number), "x"))
    assert explain(OSError(getattr(errno, number), "x")) == "(x); check the storage"


@each_of("number", ["ENOENT", "EACCES", "EISDIR", "ENOTDIR", "EEXIST", "ENOSPC", "EDQUOT", "EROFS"])
def test_failure_that_cannot_heal_is_not(number):
    assert not may_pass(OSError(getattr(errno, number), "x"))


def test_mistakes_of_our_own_are_not_tried_again():
    assert not may_pass(ValueError("x"))
    assert may_pass(EOFError())


@each_of(
    ("number", "remedy"),
    [
        ("EACCES", "check the permissions there, or give another path"),
        ("EROFS", "check the permissions there, or give another path"),
        ("ENOTDIR", "a part of the path is a file: give another path"),
    ],
)
def test_place_that_cannot_be_written_gets_its_remedy(number, remedy):
    assert explain(OSError(getattr(errno, number), "x")) == f"(x); {remedy}"


@each_of("number", ["ENOSPC", "EDQUOT"])
def test_full_disk_is_told_with_its_remedy(number):
    assert explain(OSError(getattr(errno, number), "full")) == "(full); make room there"


def test_error_of_any_file_system_is_an_os_error(monkeypatch):
    class UnreachableError(Exception):
        pass

    def info(self, path):
        raise UnreachableError("no such\nhost")

    fs, path = open_fs("memory://other/set")
    monkeypatch.setattr(type(fs), "info", info)
    with pytest.raises(OSError, match=r"^UnreachableError: no such host$"):
        kind(fs, path)


@pytest.fixture
def answers(monkeypatch):
    """A web server that answers with the status that begins a path; nothing is waited for between two tries."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            asked.append(self.path)
            self.send_response(int(self.path.split("/")[1]))
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *args):
            pass

    monkeypatch.setattr(files.again, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
        server.shutdown()


RIGHTS = "check the URL, its permissions and the credentials in the environment"


@each_of(
    ("status", "told"),
    [
        (403, rf"cannot be listed \(HTTP status 403\); {RIGHTS}$"),
        (401, rf"cannot be listed \(HTTP status 401\); {RIGHTS}$"),
        (503, r"cannot be listed \(HTTP status 503\); check the storage$"),
        (404, "there is no such folder or file; "),
    ],
)
def test_set_that_a_server_refuses_is_not_absent(answers, status, told):
    with pytest.raises(DataError, match=told):
        list_files(f"{answers.url}/{status}/set.zip")


@each_of(
    ("status", "told"),
    [
        (403, rf"cannot be read \(HTTP status 403\); {RIGHTS}$"),
        (503, r"cannot be read \(HTTP status 503\); check the storage$"),
        (404, "there is no such file; "),
    ],
)
def test_weights_that_a_server_refuses_get_its_answer(answers, status, told):
    with pytest.raises(ConfigError, match=told):
        read_bytes(f"{answers.url}/{status}/w.pth")


def test_web_server_that_refuses_is_asked_once(answers):
    with pytest.raises(OSError, match=r"^HTTP status 403$"):
        read(*open_fs(f"{answers.url}/403/x"))
    assert answers.asked == ["/403/x"]


@each_of("url", ["http://127.0.0.1:1/set", "zip://::http://127.0.0.1:1/set.zip"])
def test_set_of_an_unreached_server_is_not_absent(monkeypatch, url):
    monkeypatch.setattr(files.again, "sleep", lambda seconds: None)
    with pytest.raises(DataError, match=r"Connect call failed.*; check the URL and the network$"):
        list_files(url)


def test_slow_unreachable_server_is_given_up(monkeypatch, caplog):
    now, tries = [0.0], []

    def connect():
        tries.append(1)
        now[0] += 8.0
        raise OSError("Could not resolve hostname")

    monkeypatch.setattr(files.again, "sleep", lambda seconds: None)
    monkeypatch.setattr("tenacity.time.monotonic", lambda: now[0])
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="resolve"):
        files.again(connect)
    assert len(tries) == 4
    assert next(record.getMessage() for record in caplog.records).startswith("the storage failed, and is tried again")


def test_google_is_tried_by_us_alone(monkeypatch):
    """Its client would try for a quarter of an hour by itself, ten times."""
    options = {}
    monkeypatch.setattr(
        arrow_files.arrow, "GcsFileSystem", lambda **given: options.update(given) or SimpleNamespace(type_name="gcs")
    )
    arrow_files.GoogleFiles("bucket")
    assert options["retry_time_limit"].total_seconds() <= 5


GOOGLE = (
    "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of Could not create a OAuth2 "
    "access token to authenticate the request. The request was not sent, as such a token is required. Learn more. The "
    "underlying error message was: PerformWork() - CURL error [6]=Could not resolve hostname error_info={reason=, "
    "metadata={gcloud-cpp.retry.on-entry=false}})"
)


@each_of(
    ("text", "told"),
    [
        (GOOGLE, "check the network, and log in (such as gcloud auth application-default login)"),
        ("NETWORK_CONNECTION: x; Details: y", "check the URL and the network"),
        ("[Errno -2] Name or service not known", "check the URL and the network"),
        ("Unable to connect to port 1", "check the URL and the network"),
    ],
)
def test_unreached_storage_is_one_line_with_remedy(text, told):
    reason, _, remedy = explain(OSError(text)).partition("; ")
    assert remedy == told
    assert "error_info" not in reason
    assert "Learn more" not in reason


@each_of(
    ("told", "remedy"),
    [
        ("Install adlfs to access Azure Datalake Gen2", "pip install adlfs"),
        ('SMB requires "smbprotocol" or "smbprotocol[kerberos]" installed', "pip install smbprotocol"),
        ("Please install gdrive_fs for access to Google Drive", "pip install gdrive_fs"),
        ("No module named 'dropboxdrivefs'", "pip install dropboxdrivefs"),
        ("broken", "install its package"),
    ],
)
def test_missing_file_system_names_its_package(monkeypatch, told, remedy):
    def missing(url):
        raise ImportError(told)

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(ConfigError, match=rf"^abfs://c/x: its file system is not installed \(.*\); {remedy}$"):
        open_fs("abfs://c/x")
