"""Request headers that say who asks: a token or user and password, each read from its file anew."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from ...sources.secrets import read_credentials, read_line
from .intensity import GridError

if TYPE_CHECKING:
    from pathlib import Path


def token(path: Path) -> str:
    """Return the token in the file; GridError, which never shows it, where it cannot be used."""
    try:
        line = read_line(path, "token file", "TOKEN").strip()
    except ValueError as err:
        raise GridError("credentials", str(err)) from None
    if not line or not line.isascii():  # it goes into a header as it is
        raise GridError("credentials", f"{path}: not one line of plain ASCII")
    return line


def basic(path: Path) -> dict[str, str]:
    """Return the header for the USER:PASSWORD in the file; GridError, which never shows it."""
    try:
        user, password = read_credentials(path)
    except ValueError as err:
        raise GridError("credentials", str(err)) from None
    pair = b64encode(f"{user}:{password}".encode()).decode("ascii")
    return {"Authorization": f"Basic {pair}"}
