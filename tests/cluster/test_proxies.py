"""A job server on this machine is reached without a proxy, and a proxy that does not reach one is named."""

import contextlib
import http.server
import os
import threading

import pytest
from refusals import refused, without_cluster

from cluster.jobs import proxy_for, spare_loopback


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    return without_cluster(tmp_path, monkeypatch)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.3.2.1"])
@pytest.mark.parametrize("before", [None, "example.org, 10.0.0.0/8", "*"])
def test_loopback_is_reached_without_proxy(monkeypatch, host, before):
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    if before:
        monkeypatch.setitem(os.environ, "NO_PROXY", before)
    url = f"http://{host}:8265"
    if before != "*":
        assert proxy_for(url) == "http_proxy"
    spare_loopback(url)
    assert proxy_for(url) == ""
    assert proxy_for("http://example.org") == ("" if before else "http_proxy")
    assert proxy_for("http://head.example.com:8265") == ("" if before == "*" else "http_proxy")


def test_jobs_of_this_machine_need_no_proxy(capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:9")
    with server(b"no job server") as url:
        assert "is no job server of Ray" in refused(capsys, "jobs", "--address", url)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxy_that_does_not_reach_cluster_is_named(capsys, monkeypatch, name):
    monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    line = refused(capsys, "jobs", "--address", "http://head.example.com:8265")
    assert f"through the proxy of {name} (" in line
    assert "set no_proxy=head.example.com" in line


@contextlib.contextmanager
def server(text):
    """A web server on this machine that answers everything with a text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as held:
        thread = threading.Thread(target=held.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{held.server_port}"
        finally:
            held.shutdown()
            thread.join()
