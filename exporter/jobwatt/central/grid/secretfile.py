"""Tokens and passwords: each in a file of its own that not everybody can read."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from .intensity import GridError

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST = 16 << 10  # bytes; the longest tokens in use (JWTs) have some 2 KiB


def read_secret(path: Path) -> str:
    """
    Return the file's one line, without the blanks around it.

    It belongs to this process's user or to root; the group may read it (a service account's, a
    Kubernetes secret's), others may not. GridError, which never shows what was read, where it
    cannot be used.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not hang us
    except OSError as err:
        raise GridError("credentials", f"{path}: {err.strerror}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise GridError("credentials", f"{path}: not a plain file")
        if status.st_mode & 0o037:
            raise GridError("credentials", f"{path}: others can read it; chmod 640 {path}")
        if status.st_uid not in {0, os.geteuid()}:
            raise GridError("credentials", f"{path}: belongs to uid {status.st_uid}; chown it")
        read = os.read(handle, _LONGEST + 1)
    except OSError as err:
        raise GridError("credentials", f"{path}: {err.strerror}") from None
    finally:
        os.close(handle)
    text = read.decode("ascii", "replace").strip()
    # A line break would end the header that this goes into; the check also keeps it out of errors.
    if not text or len(read) > _LONGEST or not (text.isascii() and text.isprintable()):
        raise GridError("credentials", f"{path}: not one line of plain ASCII")
    return text
