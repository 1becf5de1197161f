"""Files of the viewer."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path, PurePosixPath

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".map": "application/json; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}


def policy(page: bytes) -> str:
    """Content security policy of the viewer's page: its files, the script in the page itself, and no other."""
    sums = (
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in _SCRIPT.findall(page)
    )
    scripts = " ".join(("'self'", *(f"'sha256-{one}'" for one in sums)))
    # its libraries put styles into the page and make workers and pictures of their own
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
    )


def read(folder: Path, path: str) -> tuple[str, bytes] | None:
    """Type and bytes of the file that a URL's decoded path names; None for what is not a file within the folder."""
    parts = PurePosixPath(path.lstrip("/")).parts
    if not parts or ".." in parts or "\0" in path:
        return None
    root = folder.resolve()
    try:
        found = root.joinpath(*parts).resolve()
        if not found.is_relative_to(root) or not found.is_file():
            return None
        return _TYPES.get(found.suffix.lower(), "application/octet-stream"), found.read_bytes()
    except OSError:
        return None
