"""The tree of a set's folders that hold images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


class Folders:
    """The folders of a set that hold images, at any depth; paths are relative to the set's root."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.images: dict[str, tuple[str, int]] = {}  # a first image, and how many lie directly in the folder
        self._below: dict[str, set[str]] = {}
        for path in paths:
            folder = path.rpartition("/")[0]
            first, count = self.images.get(folder, (path, 0))
            self.images[folder] = first, count + 1
        for folder in self.images:
            for above, name in steps(folder):
                self._below.setdefault(above, set()).add(name)

    def below(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        return sorted(self._below.get(folder, ()))

    def count(self, folder: str) -> int:
        """Return how many images lie directly in a folder."""
        return self.images[folder][1] if folder in self.images else 0


def steps(folder: str) -> Iterator[tuple[str, str]]:
    """Yield each folder above a folder, and the name of the next one in it: of a/b, a and b, then the root and a."""
    while folder:
        above, _, name = folder.rpartition("/")
        yield above, name
        folder = above


def some(names: Sequence[str], count: int = 4) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
