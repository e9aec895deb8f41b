"""Folders for temporary files, checked before Ray or Python's processes fail on them."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile

from wmdd.errors import ConfigError

logger = logging.getLogger(__name__)

# Paths of Unix sockets are short, and Ray's are FOLDER/ray/session_DATE_TIME_PID/sockets/plasma_store.N.
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
BELOW_BYTES = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.99")
PYTHON_BYTES = len("/pymp-12345678/listener-12345678")
ROOM_BYTES = 64 * 2**20
SHORT = ("/tmp", "/var/tmp")


def ray_folder(below: int = 0) -> str:
    """Return the folder for Ray's sockets and logs: that of RAY_TMPDIR, TMPDIR or /tmp, or a short one of this user.

    Args:
        below: bytes of the path that come between this folder and Ray's own.

    Raises:
        ConfigError: if RAY_TMPDIR names a folder that cannot be used, or no folder can be.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named:
        if fault := _unusable(named, below, make=True):
            raise ConfigError(f"RAY_TMPDIR {named}: {fault}; set it to a short folder with room on this machine")
        return named
    given = (os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None) or SHORT[0]  # as Ray has it
    fault = _unusable(given, below)
    if not fault:
        return given
    if short := _short_folder(below):
        level = logging.INFO if "too long" in fault else logging.WARNING
        logger.log(level, "TMPDIR %s: %s; Ray keeps its files in %s", given, fault, short)
        return short
    raise ConfigError(
        f"TMPDIR {given}: {fault}; set RAY_TMPDIR to a short folder with room on this machine, or use --executor local"
    )


def shorten_tmpdir() -> None:
    """Use a short folder for temporary files, here and in child processes, if TMPDIR is too long for the sockets over
    which Python's processes pass data.

    Raises:
        ConfigError: if no short folder can be used.
    """
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) <= SOCKET_BYTES - PYTHON_BYTES:
        return
    short = _short_folder(0)
    if short is None:
        raise ConfigError(f"TMPDIR {given}: is too long for sockets; set TMPDIR to a short folder on this machine")
    os.environ["TMPDIR"] = tempfile.tempdir = short


def _short_folder(below: int) -> str | None:
    """Return a short folder of this user, created if necessary; None if none can be used."""
    for parent in SHORT:
        short = f"{parent}/wmdd-{os.getuid()}"
        if not _unusable(parent, below + len(short) - len(parent)) and _is_private(short):
            return short
    return None


def _unusable(folder: str, below: int, *, make: bool = False) -> str:
    """Return why Ray could not use a folder, "" if it can."""
    longest = SOCKET_BYTES - BELOW_BYTES - below
    if not os.path.isabs(folder):
        return "is no absolute path"
    if len(os.fsencode(folder)) > longest:
        return f"is too long for Ray's sockets ({len(os.fsencode(folder))} bytes, {longest} at most)"
    try:
        if make:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.path.isdir(folder):
            return "is a file" if os.path.exists(folder) else "there is no such folder"
        if not os.access(folder, os.W_OK | os.X_OK):
            return "may not be written to"
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        return f"cannot be used ({exc.strerror})"
    return f"has no room left ({free / 2**20:.0f} MiB)" if free < ROOM_BYTES else ""


def _is_private(folder: str) -> bool:
    """Make a folder for this user; whether that worked, and no other user can write there."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return False
    return os.path.isdir(folder) and status.st_uid == os.getuid() and not status.st_mode & 0o022
