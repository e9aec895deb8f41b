"""What a failure of a storage means: whether a retry may succeed, and what the user can do."""

from __future__ import annotations

import errno
import re

from wmdd.storage.archives import ArchiveError
from wmdd.text import one_line

ANSWERS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
FINAL = (*ANSWERS, ArchiveError)
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
FINAL_NUMBERS = NO_ROOM | {errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
# pyarrow reports the answer of a server as text only.
REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|NO_SUCH_BUCKET|NO_SUCH_UPLOAD_BUCKET|HTTP status (301|307|507|(?!408|429)4\d\d)"
)
_UNREACHED = re.compile(
    r"(?i)could ?n[o']t (resolve|connect)|(cannot|failed to|unable to) connect|connection refused|name resolution"
    r"|name or service not known|nodename nor servname|no route to host|network is unreachable|NETWORK_CONNECTION"
)
_NO_LOGIN = re.compile(r"(?i)OAuth2 access token|no credentials|unable to locate credentials|default credentials")
# Google's client nests its reasons.
_OF_GOOGLE = re.compile(r"^google::cloud::Status\(|Retry policy exhausted, with a last message of | error_info=.*$")


def may_pass(error: BaseException) -> bool:
    """Whether an error is transient (broken connection) rather than permanent (disk full, permission denied)."""
    if isinstance(error, FINAL) or not isinstance(error, (OSError, EOFError)):
        return type(error).__module__.startswith("aiohttp") and not _is_refused(error)
    return getattr(error, "errno", None) not in FINAL_NUMBERS and not REFUSED.search(str(error))


def is_unreached(error: BaseException | None) -> bool:
    """Whether the server could not be reached at all."""
    return bool(_UNREACHED.search(str(error)))


def words(error: BaseException) -> str:
    """Return an error in one line, without what only its library understands."""
    text = one_line(getattr(error, "strerror", None) or error)
    text = _OF_GOOGLE.sub("", text).replace("; Details: ", ": ")
    return re.sub(r" The request was not sent, .*? error message was:", "", text) or type(error).__name__


def explain(error: BaseException) -> str:
    """Return why a storage failed, in parentheses, and the remedy."""
    if isinstance(error, ArchiveError):
        return f"({error}); {error.remedy}"
    reason = words(error)
    if getattr(error, "errno", None) in NO_ROOM or "HTTP status 507" in reason:
        return f"({reason}); make room there"
    if isinstance(error, NotADirectoryError):
        return f"({reason}); a part of the path is a file: give another path"
    if getattr(error, "errno", None) in NOT_PERMITTED:
        return f"({reason}); check the permissions there, or give another path"
    if isinstance(error, PermissionError) or REFUSED.search(reason):
        return f"({reason}); check the URL, its permissions and the credentials in the environment"
    if _NO_LOGIN.search(reason):
        return f"({reason}); check the network, and log in (such as gcloud auth application-default login)"
    if is_unreached(error):
        return f"({reason}); check the URL and the network"
    return f"({reason}); check the storage"


def as_os_error(error: BaseException) -> OSError:
    """Return the error of a third-party file system as an OSError."""
    if isinstance(error, OSError):
        return error
    status = getattr(error, "status", None)
    if isinstance(status, int):
        text = f"HTTP status {status}"
        return FileNotFoundError(text) if status in (404, 410) else OSError(text)
    return OSError(f"{type(error).__name__}: {words(error)}")


def behind(error: FileNotFoundError) -> OSError | None:
    """Return the failure that a file system reported as an absent file, as fsspec's of web servers does, if any."""
    cause = error.__cause__
    if cause is None or not (isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")):
        return None
    failure = as_os_error(cause)
    return None if isinstance(failure, (FileNotFoundError, NotADirectoryError)) else failure


def to_install(error: ImportError) -> str:
    """Return the remedy for a file system whose package is missing."""
    package = re.search(r"(?i)(?:\binstall|requires|no module named) [\"']?([\w-]+)", str(error))
    return f"pip install {package[1]}" if package else "install its package"


def _is_refused(error: BaseException) -> bool:
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
