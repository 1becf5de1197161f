"""Basic authentication against bcrypt hashes without spending the node's CPU time on it."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILURE_PAUSE_S = 0.25  # guesses per second stay few, and so does the CPU time taken from jobs
WAITING_MAX = 8  # checks queued behind the one that runs
REMEMBERED_MAX = 256  # outcomes of checks
BCRYPT_BYTES = 72  # bcrypt has never looked at more of a password


class PasswordCheck:
    """
    Basic authentication, made for a scrape every few seconds.

    An outcome is remembered under a digest keyed with this process's own random key, so that the
    ~60 ms of bcrypt (cost 10) are paid once per user and password. One check runs at a time, and
    after a wrong password a pause follows: guessing does not eat the CPU time of jobs. An unknown
    user costs a check as well, so that the time taken does not tell who exists.
    """

    def __init__(self, pause_s: float = FAILURE_PAUSE_S) -> None:
        self._key = secrets.token_bytes(32)
        self._pause_s = pause_s
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(1 + WAITING_MAX)
        self._right: set[bytes] = set()
        self._wrong: set[bytes] = set()

    def allows(self, users: Mapping[str, bytes], authorization: str | None) -> bool | None:
        """Whether the header's user and password are right; None: too many wait, ask later."""
        credentials = _credentials(authorization)
        if credentials is None:
            return False
        name, password = credentials
        hashed = users.get(name, next(iter(users.values())))
        digest = self._digest(name, password, hashed)
        if digest in self._right:
            return True
        if digest in self._wrong:
            return False
        if not self._places.acquire(blocking=False):
            return None
        try:
            with self._turn:
                return self._check(digest, name in users, password, hashed)
        finally:
            self._places.release()

    def _digest(self, name: str, password: bytes, hashed: bytes) -> bytes:
        text = repr((name, password, hashed)).encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._key).digest()

    def _check(self, digest: bytes, known: bool, password: bytes, hashed: bytes) -> bool:
        if digest in self._right:  # another connection's turn brought the answer
            return True
        right = _bcrypt(password, hashed) and known
        remembered = self._right if right else self._wrong
        if len(remembered) >= REMEMBERED_MAX:
            remembered.clear()
        remembered.add(digest)
        if not right:
            time.sleep(self._pause_s)
        return right


def _credentials(authorization: str | None) -> tuple[str, bytes] | None:
    """User and password of an ``Authorization: Basic`` header (RFC 7617), None if it is none."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except ValueError:
        return None


def _bcrypt(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:BCRYPT_BYTES], hashed)
    except ValueError:
        return False
