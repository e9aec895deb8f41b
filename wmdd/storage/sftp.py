"""SFTP behind fsspec, as OpenSSH's users expect it: the server's key is checked, ``~/.ssh/config`` is read.

A URL is ``sftp://[USER@]HOST[:PORT]/FOLDER``, where HOST may be a name from ``~/.ssh/config`` (HostName, Port, User,
IdentityFile and UserKnownHostsFile are followed, jump hosts are not). Keys come from the agent, the config, or
``~/.ssh``; passwords are not asked for. A server must be in ``known_hosts``: connect once with ssh, or ssh-keyscan.
``WMDD_SSH_CONFIG`` names another file in place of ``~/.ssh/config``: a mounted secret, say.

Connections are not safe to share between threads (paramiko deadlocks), and do not recover when they break: up to four
are kept, each used by one operation at a time, and one that failed is closed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import posixpath
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from wmdd.storage.errors import ANSWERS
from wmdd.text import one_line

CONNECTIONS = 4
CONNECT_S, SILENCE_S, KEEPALIVE_S = 20, 120, 30


class Connection:
    """A connection with one SFTP channel.

    Raises:
        PermissionError: if server or user cannot be trusted; names the remedy.
        OSError: if the server does not answer.
    """

    def __init__(self, host: str, port: int | None, user: str | None) -> None:
        config = Path(os.environ.get("WMDD_SSH_CONFIG", "~/.ssh/config")).expanduser()
        known = (paramiko.SSHConfig.from_path(config) if config.exists() else paramiko.SSHConfig()).lookup(host)
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        for file in (*known.get("userknownhostsfile", "~/.ssh/known_hosts").split(), "/etc/ssh/ssh_known_hosts"):
            if os.path.exists(os.path.expanduser(file)):
                self.client.load_system_host_keys(os.path.expanduser(file))
        options: dict[str, Any] = {name: CONNECT_S for name in ("timeout", "banner_timeout", "auth_timeout")}
        options |= {"port": port or int(known.get("port", 22)), "username": user or known.get("user")}
        if "identityfile" in known:
            options["key_filename"] = [os.path.expanduser(file) for file in known["identityfile"]]
        try:
            self.client.connect(known.get("hostname", host), **options)
            self.client.get_transport().set_keepalive(KEEPALIVE_S)
            self.ftp = self.client.open_sftp()
            self.ftp.get_channel().settimeout(SILENCE_S)  # else a frozen server would hold its reader for ever
        except Exception as exc:
            self.client.close()
            raise _as_os_error(exc, host) from exc


def _as_os_error(exc: Exception, host: str) -> Exception:
    text = one_line(exc)
    if isinstance(exc, paramiko.BadHostKeyException) or "not found in known_hosts" in text:
        return PermissionError(f"{text}; ssh {host} once and compare its key")
    if isinstance(exc, (paramiko.AuthenticationException, paramiko.PasswordRequiredException)):
        return PermissionError(f"{text}; {host} takes none of the keys of the agent, ~/.ssh/config and ~/.ssh")
    if isinstance(exc, (paramiko.SSHException, EOFError)):
        return ConnectionError(f"{host}: {text if str(exc) else 'the connection broke'}")
    return exc


def _connected(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: SFTPFiles, *args: Any, **kwargs: Any) -> Any:
        with self.connection():
            return method(self, *args, **kwargs)

    return run


class SFTPFiles(SFTPFileSystem):  # type: ignore[misc]
    """Files on the SSH server ``[USER@]HOST[:PORT]``, for any number of threads."""

    protocol = ("sftp", "ssh")
    cachable = False

    @staticmethod
    def root_of(url: str) -> str:
        """Return the path of a URL on the server."""
        return posixpath.normpath(urlsplit(url).path or "/")

    def __init__(self, netloc: str) -> None:
        parts = urlsplit(f"sftp://{netloc}")
        user = unquote(parts.username) if parts.username else None
        self._connect_again = functools.partial(Connection, parts.hostname or "", parts.port, user)
        self._limit = threading.BoundedSemaphore(CONNECTIONS)
        self._idle: list[Connection] = []
        self._thread = threading.local()
        super().__init__(parts.hostname)

    def _connect(self) -> None:
        with self.connection():  # so that a server that cannot be reached, or trusted, fails at once
            pass

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Reserve a connection for this thread; operations made of others keep theirs."""
        if getattr(self._thread, "connection", None) is not None:
            yield
            return
        with self._limit:
            connection = self._idle.pop() if self._idle else self._connect_again()
            self._thread.connection = connection
            try:
                yield
            except ANSWERS:  # the server's answer: the connection works
                self._idle.append(connection)
                raise
            except BaseException as exc:
                with contextlib.suppress(Exception):
                    connection.client.close()
                if isinstance(exc, (paramiko.SSHException, EOFError)):
                    raise _as_os_error(exc, self.host) from exc
                raise
            else:
                self._idle.append(connection)
            finally:
                self._thread.connection = None

    @property
    def ftp(self) -> Any:
        """The channel of the connection that this thread has reserved."""
        return self._thread.connection.ftp

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return a file's bytes, or a part of them, with many requests in flight."""
        with self.connection():
            path, out = self._strip_protocol(path), io.BytesIO()
            if start is None and end is None:
                self.ftp.getfo(path, out)
                return out.getvalue()
            with self.ftp.open(path, "rb") as file:
                first, last = start or 0, self.ftp.stat(path).st_size if end is None else end
                return b"".join(file.readv([(first, last - first)])) if last > first else b""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Write a file, and check its size on the server."""
        with self.connection():
            self.ftp.putfo(io.BytesIO(value), self._strip_protocol(path), confirm=True)

    info = _connected(SFTPFileSystem.info)
    ls = _connected(SFTPFileSystem.ls)
    makedirs = _connected(SFTPFileSystem.makedirs)
    mv = _connected(SFTPFileSystem.mv)
    _rm = _connected(SFTPFileSystem._rm)
