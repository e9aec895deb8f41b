"""File systems that fail on schedule, over a local folder: ``flaky://`` at every n-th call, ``full://`` when full.

A process knows them once this module is imported. Put the folder ``site`` beside it on PYTHONPATH: its
``sitecustomize.py`` imports it at the start of every Python, in Ray's workers too.

``flaky://PATH`` lets every ``FAULTY_EVERY``-th call of a process fail; a write that fails leaves half a file. With
``FAULTY_COUNT``, the name of a file, the failures of all processes are counted there, by a dot each. ``full://PATH``
has room for as many bytes as the file ``FAULTY_ROOM`` says, which is lowered by each write; a write without room leaves
what fitted.
"""

import errno
import itertools
import os
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem


def count():
    return itertools.count(1)


class FlakyFileSystem(LocalFileSystem):
    """Fails at every k-th call; a failing write leaves half of its file behind."""

    protocol = ("flaky",)
    calls = count()
    cut_short = 0  # number of the next reads that lose their last byte

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix(f"{cls.protocol[0]}://"))

    def _stumble(self):
        if next(self.calls) % int(os.environ.get("FAULTY_EVERY", "1000000")) == 0:
            if "FAULTY_COUNT" in os.environ:
                with open(os.environ["FAULTY_COUNT"], "a") as file:
                    file.write(".")
            raise OSError(errno.EIO, "the connection broke")

    def cat_file(self, path, *args, **kwargs):
        self._stumble()
        data = super().cat_file(path, *args, **kwargs)
        if FlakyFileSystem.cut_short:
            FlakyFileSystem.cut_short -= 1
            return data[:-1]
        return data

    def ls(self, path, *args, **kwargs):
        self._stumble()
        return super().ls(path, *args, **kwargs)

    def info(self, path, **kwargs):
        if isinstance(path, str):  # a listing asks with what it found
            self._stumble()
        return super().info(path, **kwargs)

    def rm_file(self, path):
        self._stumble()
        return super().rm_file(path)

    def mv(self, old, new, **kwargs):
        self._stumble()
        os.replace(self._strip_protocol(old), self._strip_protocol(new))

    def pipe_file(self, path, value, **kwargs):
        try:
            self._stumble()
        except OSError:
            super().pipe_file(path, value[: len(value) // 2])
            raise
        super().pipe_file(path, value, **kwargs)


class FullFileSystem(FlakyFileSystem):
    """Has room for a number of bytes, which a file holds."""

    protocol = ("full",)

    def _stumble(self):
        pass

    def pipe_file(self, path, value, **kwargs):
        room = Path(os.environ["FAULTY_ROOM"])
        left = int(room.read_text()) - len(value)
        if left < 0:
            LocalFileSystem.pipe_file(self, path, value[:left])
            raise OSError(errno.ENOSPC, "No space left on device")
        room.write_text(str(left))
        LocalFileSystem.pipe_file(self, path, value, **kwargs)


for kind in (FlakyFileSystem, FullFileSystem):
    fsspec.register_implementation(kind.protocol[0], kind, clobber=True)
