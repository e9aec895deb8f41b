"""The numbers that a run leaves behind: ``metrics.jsonl`` in its folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from typing import Any

from wmdd.engine.events import Event
from wmdd.errors import StorageError
from wmdd.storage.filesystem import again
from wmdd.storage.folder import Folder

logger = logging.getLogger(__name__)
NAME = "metrics.jsonl"
REWRITE_EVERY_S = 10.0


class MetricsFile:
    """Appends every event of a run to ``metrics.jsonl`` in its folder.

    On remote storage, which cannot append, the whole file is written again: at the end of each stage, and in between
    after a tenth of the time so far, so that a long run does not upload the same lines again and again. A file that
    cannot be written does not end the run; it is logged once.
    """

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)
        self._local = self._folder.is_local
        before = None if self._local else self._folder.read(NAME)
        self._lines: list[str] = [before.decode()] if before else []
        self._begun = self._written = time.monotonic()
        self._warned = False

    def __call__(self, event: Event) -> None:
        """Record an event."""
        line: dict[str, Any] = {"time": round(time.time(), 3), "kind": event.kind, "stage": event.stage}
        names = ("unit", "done", "total", "text", "node", "metrics")
        line |= {name: getattr(event, name) for name in names if getattr(event, name)}
        self._lines.append(json.dumps(line) + "\n")
        now = time.monotonic()
        if self._local or event.kind == "end" or now - self._written > max(REWRITE_EVERY_S, (now - self._begun) / 10):
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if self._lines:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        try:
            if self._local:
                again(self._append)
            else:
                self._folder.write(NAME, "".join(self._lines).encode())
        except (OSError, StorageError) as exc:
            if not self._warned:
                logger.warning("metrics.jsonl: %s", exc)
            self._warned = True

    def _append(self) -> None:
        self._folder.fs.makedirs(self._folder.root, exist_ok=True)
        data = "".join(self._lines).encode()
        with open(self._folder.path(NAME), "ab", buffering=0) as out:
            before = out.seek(0, os.SEEK_END)
            if out.write(data) != len(data):
                out.truncate(before)  # the lines are written again when there is room
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._lines = []
