"""Notes in a store from which an interrupted computation goes on; their content is checked when it is read."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from wmdd.errors import StorageError
from wmdd.keys import content_digest, content_key
from wmdd.outputs import Snapshot
from wmdd.storage.store import ArtifactRef, ArtifactStore

MAGIC = b"wmdd-snapshot "


class ResumeNote:
    """The snapshot of one computation. Two processes may run it at once: each snapshot is valid, the last one counts.

    Args:
        refs: what the whole computation makes; the note's name follows from their keys, so that no other computation
            finds it, and that of fewer steps does.
        missing: those of them that are not in the store.
    """

    def __init__(self, store: ArtifactStore, refs: Sequence[ArtifactRef], missing: Sequence[ArtifactRef]) -> None:
        key = refs[0].key if len(refs) == 1 else content_key({"units": [ref.key for ref in refs]})
        self._store, self.name, self._last = store, f"resume-{refs[0].stage}-{key}", missing[-1]
        self._begun = time.perf_counter()
        self._has_failed = False

    @property
    def seconds(self) -> float:
        """Seconds of work, with those before the interruption."""
        return time.perf_counter() - self._begun

    def read(self) -> bytes | None:
        """Return the last snapshot, or None if none was left; raise ValueError if it is damaged."""
        data = self._store.read_note(self.name)
        if data is None:
            return None
        head, _, body = data.partition(b"\n")
        try:
            header = json.loads(head.removeprefix(MAGIC))
            if header["digest"] != content_digest(body):
                raise ValueError("other bytes than were written")
            self._begun -= float(header["seconds"])
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError("it is damaged") from exc
        return body

    def write(self, snapshot: Snapshot, *, finished: bool = False) -> str:
        """Replace the snapshot, unless another process has finished the work meanwhile; return a message, if any.

        Args:
            finished: all outputs are stored, with the seconds until here; a computation of more steps begins here.

        Raises:
            StorageError: if it cannot be written, and work must not go on without it.
        """
        try:
            if finished or self._last not in self._store:
                seconds = 0.0 if finished else self.seconds
                head = json.dumps({"digest": content_digest(snapshot.data), "seconds": seconds}).encode()
                self._store.write_note(self.name, b"".join((MAGIC, head, b"\n", snapshot.data)))
        except StorageError as exc:
            if not snapshot.optional:
                raise
            was_reported, self._has_failed = self._has_failed, True
            return "" if was_reported else f"goes on, but cannot leave a snapshot to resume from: {exc}"
        return ""

    def drop(self) -> None:
        """Remove the snapshot: its work is finished."""
        self._store.drop_note(self.name)
