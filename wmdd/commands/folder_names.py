"""Names of the folders of classes in an export, whatever the classes are called."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

CLASSES_FILE, WEIGHTS_FILE = "classes.json", "weights.csv"  # next to the folders
_LONGEST = 255  # bytes in the name of a folder, on most file systems
_FORBIDDEN = re.compile(r"[/\0]")
FORBIDDEN_ON_WINDOWS = re.compile(r"""(?i)[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|$)""")


def class_folders(class_names: Sequence[str]) -> list[str]:
    """Return a folder name for each class, so that sorted folder names are in the order of class ids.

    Programs that read image folders number the classes by the sorted names. Where the classes' own names would give
    another order, mix two classes or be passed over, the class id comes before each.
    """
    names = [_allowed(name) for name in class_names]
    # Two names that differ in case or in the encoding of an accent are one folder on macOS and Windows.
    distinct = {unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()) for name in names}
    distinct -= {CLASSES_FILE, WEIGHTS_FILE}
    passed_over = any(name.startswith((".", "__")) for name in names)  # by Keras, by Hugging Face
    if names == sorted(names) and len(distinct) == len(names) and not passed_over:
        return names
    digits = max(5, len(str(len(names) - 1)))
    return [_shortened(f"{class_id:0{digits}d} {name}") for class_id, name in enumerate(names)]


def _allowed(name: str) -> str:
    """Return a name with underscores for the characters that file systems forbid in the name of a folder."""
    forbidden = FORBIDDEN_ON_WINDOWS if os.name == "nt" else _FORBIDDEN
    return _shortened(forbidden.sub("_", _FORBIDDEN.sub("_", name)) or "_")


def _shortened(name: str) -> str:
    while len(name.encode("utf-8", "surrogatepass")) > _LONGEST:
        name = name[:-1]
    return name
