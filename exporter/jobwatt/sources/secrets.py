"""
The credentials file: one line, USER:PASSWORD, that nobody but its owner may read.

No message of this file ever repeats anything the credentials file holds.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

# Far more than a user name and a password need.
_MAX_BYTES = 4096


def read_credentials(path: Path) -> tuple[str, str]:
    """
    Read USER:PASSWORD; the password may contain colons.

    Asked of the file: a regular one, owned by this process's user or by root, without access for
    group and others. A symbolic link is followed only where it, too, belongs to one of the two:
    Kubernetes mounts secrets as links of root's, and a stranger's link could point at another secret.

    Raises:
        ValueError: one line that names the file and what mends it.
    """
    return _parsed(_read(path), shlex.quote(str(path)))


def _read(path: Path) -> bytes:
    shown = shlex.quote(str(path))
    try:
        handle = _open(path, shown)
    except OSError as err:
        raise ValueError(
            f"cannot read the credentials file {shown} ({err.strerror}); "
            f"make one: install -m 600 /dev/stdin {shown} (and type USER:PASSWORD)"
        ) from None
    try:
        _check(os.fstat(handle), path, shown)
        return os.read(handle, _MAX_BYTES + 1)
    except OSError as err:
        raise ValueError(f"cannot read the credentials file {shown} ({err.strerror})") from None
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
        raise ValueError(
            f"the credentials file {shown} is a link that belongs to somebody else; "
            "name the file itself"
        )
    return os.open(path, flags)


def _check(found: os.stat_result, path: Path, shown: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"the credentials file {shown} is not a regular file; name one")
    if found.st_uid not in {0, os.geteuid()}:
        raise ValueError(
            f"the credentials file {shown} belongs to uid {found.st_uid}; chown {os.geteuid()} {shown}"
        )
    if found.st_mode & _forbidden(path):
        raise ValueError(
            f"the credentials file {shown} is readable by others than its owner; chmod 600 {shown}"
        )


def _forbidden(path: Path) -> int:
    """
    Mode bits that must not be set.

    In the directory of systemd's LoadCredential= the group bits are the mask of the access list that
    lets the service's user read a file of root's: they do not speak of a group there.
    https://systemd.io/CREDENTIALS/
    """
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    return 0o007 if given and path.parent == Path(given) else 0o077


def _parsed(content: bytes, shown: str) -> tuple[str, str]:
    try:
        line = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        line = ""  # not the error: it would carry the content along
    user, colon, password = line.partition(":")
    if len(content) > _MAX_BYTES or not (user and colon and password) or not line.isprintable():
        raise ValueError(f"the credentials file {shown} must hold one line: USER:PASSWORD")
    return user, password
