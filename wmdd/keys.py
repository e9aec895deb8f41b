"""Keys of artifacts: hashes of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_digest(data: bytes) -> str:
    """Hash bytes into 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def content_key(parts: dict[str, Any]) -> str:
    """Hash JSON-able parts into 32 hexadecimal digits."""
    return content_digest(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())
