"""
Files that hold one secret each, on one line: USER:PASSWORD, or a token.

Asked of each: a regular file, owned by this process's user or by root, without access for others. The
group may read it, and no more, where it is root's (root:jobwatt 0640, a Kubernetes secret with fsGroup;
systemd's LoadCredential= shows the mask of its access list there, https://systemd.io/CREDENTIALS/): who
is in that group is root's decision. A symbolic link is followed only where it, too, belongs to one of
the two: Kubernetes mounts secrets as links of root's, and a stranger's link could point at another secret.

No message of this file ever repeats anything that a secret file holds.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# The longest tokens in use (JWTs) have some 2 KiB.
_MAX_BYTES = 16 << 10


def read_credentials(path: Path) -> tuple[str, str]:
    """
    Read USER:PASSWORD; the password may contain colons.

    Raises:
        ValueError: one line that names the file and what mends it.
    """
    user, colon, password = read_line(path, "credentials file", "USER:PASSWORD").partition(":")
    if not (user and colon and password):
        raise _unfit(f"the credentials file {shlex.quote(str(path))}", "USER:PASSWORD")
    return user, password


def read_line(path: Path, kind: str, content: str) -> str:
    """
    Read the file's one line, of printable characters.

    Args:
        kind: what the file is called where it is refused.
        content: what it is said to hold then.

    Raises:
        ValueError: one line that names the file and what mends it.
    """
    shown = f"the {kind} {shlex.quote(str(path))}"
    read = _read(path, shown, content)
    try:
        line = read.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        line = ""  # not the error: it would carry the content along
    if len(read) > _MAX_BYTES or not line or not line.isprintable():
        raise _unfit(shown, content)
    return line


def _unfit(shown: str, content: str) -> ValueError:
    return ValueError(f"{shown} must hold one line: {content}")


def _read(path: Path, shown: str, content: str) -> bytes:
    try:
        handle = _open(path, shown)
    except OSError as err:
        name = shlex.quote(str(path))
        raise ValueError(
            f"cannot read {shown} ({err.strerror}); "
            f"make one: install -m 600 /dev/stdin {name} (and type {content})"
        ) from None
    try:
        _check(os.fstat(handle), path, shown)
        return os.read(handle, _MAX_BYTES + 1)
    except OSError as err:
        raise ValueError(f"cannot read {shown} ({err.strerror})") from None
    finally:
        os.close(handle)


def _open(path: Path, shown: str) -> int:
    # O_NONBLOCK: a FIFO in its place must not make the daemon wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOFOLLOW)
    except OSError as err:
        if err.errno != errno.ELOOP:
            raise
    if os.lstat(path).st_uid not in {0, os.geteuid()}:
        raise ValueError(f"{shown} is a link that belongs to somebody else; name the file itself")
    return os.open(path, flags)


def _check(found: os.stat_result, path: Path, shown: str) -> None:
    name = shlex.quote(str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{shown} is not a regular file; name one")
    if found.st_uid not in {0, os.geteuid()}:
        raise ValueError(f"{shown} belongs to uid {found.st_uid}; chown {os.geteuid()} {name}")
    if found.st_mode & (0o037 if found.st_uid == 0 else 0o077):
        mode = 600 if found.st_uid == os.geteuid() else 640  # we read root's as its group
        raise ValueError(f"{shown} is open to others than its owner; chmod {mode} {name}")
