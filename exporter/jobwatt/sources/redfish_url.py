"""The URL of a BMC's Redfish service: what it may look like, and what it names. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_URL = re.compile(
    r"https://([A-Za-z0-9.\-]+|\[[0-9a-f:.]+(%25[\w.\-]+)?\])(:[1-9]\d{0,4})?", re.ASCII
)
_START = re.compile(r"/redfish/v1/(Systems|Chassis)/[\w\-.~%]{1,100}/?", re.ASCII)


def parse_url(url: str) -> tuple[str, str]:
    """Split a BMC's URL into its base and the path of its system or chassis ("" for none); ValueError otherwise."""
    if "@" in url:
        raise ValueError("user and password belong into the credentials file, not into the url")
    parts = urlsplit(url)
    # as the library writes it: redirects are compared with it
    base = f"{parts.scheme}://{parts.netloc.lower()}".replace("%25", "%").replace("%", "%25")
    if not _URL.fullmatch(base) or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not https://HOST or https://HOST:PORT")
    path, _ = parts.path, parts.port  # ValueError above 65535
    if path.rstrip("/") in {"", "/redfish", "/redfish/v1"}:
        return base, ""
    if not _START.fullmatch(path):
        raise ValueError(
            f"{url!r}: its path must be /redfish/v1/Systems/ID or /redfish/v1/Chassis/ID"
        )
    return base, path
