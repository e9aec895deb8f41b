"""Following a job's log while the connection breaks; the server is a stand-in that breaks on schedule."""

from types import SimpleNamespace

import pytest
from aiohttp import ServerDisconnectedError

from cluster import jobs as module
from cluster.jobs import RECONNECTS, Jobs
from wmdd.errors import WmddError

LOG = "first line\nsecond line\nthird line\n"


class Server:
    """A job that runs until its log was shown or asked for in whole.

    Args:
        streams: how much each stream shows, and how it ends.
        away: questions that are not answered.
    """

    def __init__(self, streams, away=0):
        self.streams, self.away, self.asked, self.ended = list(streams), away, 0, False

    def get_job_status(self, job):
        if self.away:
            self.away -= 1
            raise ConnectionError("no route to the head")
        return "SUCCEEDED" if self.ended else "RUNNING"

    async def tail_job_logs(self, job):
        shown, error = self.streams.pop(0) if self.streams else (0, ServerDisconnectedError())
        for start in range(0, shown, 7):
            yield LOG[start : min(start + 7, shown)]
        self.ended |= shown == len(LOG)
        if error:
            raise error

    def get_job_logs(self, job):
        self.asked += 1
        self.ended = self.asked == 3
        return LOG[: 12 * self.asked]


@pytest.fixture
def follow(monkeypatch):
    slept = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append))

    def run(server):
        jobs, written = object.__new__(Jobs), []
        jobs._client, jobs._where = server, "--address http://h:8265"
        try:
            jobs.follow("job", written.append)
        finally:
            run.slept = sum(slept)
        return "".join(written)

    return run


def test_log_is_written_once_though_the_stream_breaks(follow):
    streams = [(15, ServerDisconnectedError()), (20, OSError("reset")), (len(LOG), None)]
    assert follow(Server(streams)) == LOG


def test_server_that_cannot_stream_is_polled(follow):
    server = Server([])
    assert follow(server) == LOG
    assert server.asked >= 3


def test_head_that_is_away_for_a_while_is_waited_for(follow):
    assert follow(Server([(len(LOG), None)], away=RECONNECTS)) == LOG
    assert 60 < follow.slept < 200


def test_head_that_stays_away_is_an_error(follow):
    with pytest.raises(WmddError, match="no route to the head"):
        follow(Server([], away=1000))
