"""Proxies of the environment, between this machine and a job server."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit


def spare_loopback(url: str) -> None:
    """Make this process reach a server on this machine without a proxy, which would look for it on its own machine."""
    host = urlsplit(url).hostname or ""
    if not is_loopback(host):
        return
    names = ("no_proxy", "NO_PROXY")  # tools differ in which one they read, and one hides the other
    before = [os.environ.get(name, "").strip() for name in names]
    for name, value, other in zip(names, before, reversed(before), strict=True):
        if (value or other) != "*":
            os.environ[name] = ",".join(filter(None, [value or other, host]))


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_for(url: str) -> str:
    """Return the variable that sends requests for a URL through a proxy; "" if they go straight there."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None))
    if not proxy:
        return ""
    scheme = urlsplit(url).scheme
    names = [form for name in (f"{scheme}_proxy", "all_proxy") for form in (name, name.upper())]
    return next((name for name in names if os.environ.get(name) == proxy), f"{scheme}_proxy")
