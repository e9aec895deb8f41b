"""The numbers that a run leaves behind: ``metrics.jsonl`` in its folder."""

from __future__ import annotations

import json
import time
from typing import Any

import fsspec

from wmdd.events import Event


class MetricsFile:
    """Appends every number of a run to ``metrics.jsonl`` in its folder (on object stores: rewritten per stage)."""

    def __init__(self, url: str) -> None:
        self._fs, self._path = fsspec.core.url_to_fs(f"{url.rstrip('/')}/metrics.jsonl")
        self._local = "file" in self._fs.protocol
        self._lines: list[str] = []

    def __call__(self, event: Event) -> None:
        """Record an event."""
        facts: dict[str, Any] = {"time": round(time.time(), 3), "kind": event.kind, "stage": event.stage}
        facts |= {name: getattr(event, name) for name in ("unit", "done", "total", "text") if getattr(event, name)}
        self._lines.append(json.dumps(facts | {"metrics": event.metrics} if event.metrics else facts))
        if self._local or event.kind == "end":
            self._write()

    def _write(self) -> None:
        self._fs.makedirs(self._fs._parent(self._path), exist_ok=True)
        text = "".join(f"{line}\n" for line in self._lines)
        if self._local:
            with open(self._path, "a") as out:
                out.write(text)
            self._lines = []
        else:
            self._fs.pipe_file(self._path, text.encode())
