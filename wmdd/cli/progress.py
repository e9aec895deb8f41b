"""The live view of a command's work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from wmdd.engine.console import ConsoleListener, show_index
from wmdd.process.terminal import Terminal


@contextlib.contextmanager
def shown_on(console: Terminal) -> Iterator[dict[str, Any]]:
    """Show events while the block works; yield the arguments of a command's function that report them."""
    with ConsoleListener(console) as listener:
        yield {"listener": listener, "status": show_index(console)}
