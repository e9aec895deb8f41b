"""The user's home folder, for ``~`` in paths and URLs."""

from __future__ import annotations

import os
import re

from wmdd.errors import ConfigError

# ~ or ~user at the beginning of a path, also in file://~/x and in the last part of zip://FOLDER::~/x.zip
_HOME = re.compile(r"(^|::|^file://|::file://)(~[^/:]*)(?=/|$)")


def expand_home(path: str) -> str:
    """Return a path or URL with the home folder in place of ``~``.

    Raises:
        ConfigError: if the home folder is unknown.
    """
    expanded = _HOME.sub(lambda part: part[1] + os.path.expanduser(part[2]), path)
    if re.match(r"(file://)?~(/|$)", expanded):
        raise ConfigError(f"{path}: the home folder of this user is not known; set HOME, or write the path in full")
    return expanded
