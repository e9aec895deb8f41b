"""The public names of a folder, each imported on first use: to read one module must not take torch, POT or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def public(package: str, homes: Mapping[str, tuple[str, ...]], name: str) -> Any:
    """Return a public name of a package, for its ``__getattr__``.

    Args:
        homes: for each module of the package, the names that it has for others.

    Raises:
        AttributeError: for any other name.
    """
    for module, names in homes.items():
        if name in names:
            return getattr(import_module(f"{package}.{module}"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
