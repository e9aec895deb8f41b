"""Networks by name, weights from files and libraries, and the teacher."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "probes": ("Probe",),
    "registry": ("build_model",),
    "teacher": ("Teacher",),
    "weights": ("load_weights",),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
