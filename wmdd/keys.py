"""Keys of artifacts: hashes of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_key(parts: dict[str, Any]) -> str:
    """Hash JSON-able parts into 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
