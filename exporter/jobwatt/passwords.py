"""Basic authentication against bcrypt hashes without spending the node's CPU time on it."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILURE_PAUSE_S = 0.25  # after a wrong password: guesses per second stay few
# ... and for so many times what the check took: guesses take 5 % of one CPU, whatever the hash costs
PAUSE_TIMES = 19
WAITING_MAX = 8  # checks queued behind the one that runs
WAITING_EACH = 2  # of them one client's: a crowd of guesses keeps no other client from its turn
REMEMBERED_MAX = 256  # outcomes of checks
BCRYPT_BYTES = 72  # bcrypt has never looked at more of a password


class PasswordCheck:
    """
    Basic authentication, made for a scrape every few seconds.

    An outcome is remembered under a digest keyed with this process's own random key, so that the
    ~60 ms of bcrypt (cost 10) are paid once per user and password. One check runs at a time, and
    after a wrong password a pause follows: guessing does not eat the CPU time of jobs. Of those
    who wait, few are one client's: while somebody guesses, others still get in. An unknown user
    costs a check as well, so that the time taken does not tell who exists.
    """

    def __init__(self, pause_s: float = FAILURE_PAUSE_S) -> None:
        self._key = secrets.token_bytes(32)
        self._pause_s = pause_s
        self._turn = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._right: set[bytes] = set()
        self._wrong: set[bytes] = set()

    def allows(
        self, users: Mapping[str, bytes], authorization: str | None, client: str = ""
    ) -> bool | None:
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
        if not self._queue(client):
            return None
        try:
            with self._turn:
                return self._check(digest, name in users, password, hashed)
        finally:
            self._leave(client)

    def _queue(self, client: str) -> bool:
        with self._lock:
            if self._waiting.total() > WAITING_MAX or self._waiting[client] >= WAITING_EACH:
                return False
            self._waiting[client] += 1
            return True

    def _leave(self, client: str) -> None:
        with self._lock:
            self._waiting[client] -= 1
            self._waiting += Counter()  # drops those that are zero

    def _digest(self, name: str, password: bytes, hashed: bytes) -> bytes:
        text = repr((name, password, hashed)).encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._key).digest()

    def _check(self, digest: bytes, known: bool, password: bytes, hashed: bytes) -> bool:
        if digest in self._right or digest in self._wrong:  # another connection's turn told
            return digest in self._right
        began = time.thread_time()
        right = _bcrypt(password, hashed) and known
        took_s = time.thread_time() - began
        remembered = self._right if right else self._wrong
        if len(remembered) >= REMEMBERED_MAX:
            remembered.clear()
        remembered.add(digest)
        if not right:
            time.sleep(max(self._pause_s, PAUSE_TIMES * took_s if self._pause_s else 0.0))
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
