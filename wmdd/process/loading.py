"""How large libraries are imported."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector while modules are imported: it would search their objects, and free none.

    Measured in a Ray worker: torch with our modules takes 1.3 s of CPU in place of 1.6, and 2.5 in place of 3.1 with
    POT, scikit-learn and SciPy.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
