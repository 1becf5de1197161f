"""Basic authentication against bcrypt hashes without spending the node's CPU time on it."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILURE_PAUSE_S = 0.25  # after a wrong password: guesses per second stay few
# ... and for so many times what the check took: guesses take 5 % of one CPU, whatever the hash costs
PAUSE_TIMES = 19
WAITING_MAX = 16  # checks queued behind the one that runs
WAIT_MAX_S = 8.0  # Prometheus gives up after 10
REMEMBERED_MAX = 256  # outcomes of checks
SERVED_MAX = 256  # clients whose last turn is remembered
BCRYPT_BYTES = 72  # bcrypt has never looked at more of a password


@dataclass(slots=True, eq=False)
class _Check:
    """One that is due: for whom, and how many wait for it."""

    client: str
    waiting: int = 0
    running: bool = False
    displaced: bool = False


class PasswordCheck:
    """
    Basic authentication, made for a scrape every few seconds.

    An outcome is remembered under a digest keyed with this process's own random key, so that the
    ~60 ms of bcrypt (cost 10) are paid once per user and password. One check runs at a time, and
    after a wrong password a pause follows: guessing does not eat the CPU time of jobs. An unknown
    user costs a check as well, so that the time taken does not tell who exists.

    Clients take turns, the one whose last turn is longest ago first, and of one client's checks the
    newest goes first: guesses that go on and on, from elsewhere or from the same address, do not
    keep a right password waiting for all of them. Where too many wait, the oldest of the client
    that has most is sent away.
    """

    def __init__(self, pause_s: float = FAILURE_PAUSE_S) -> None:
        self._key = secrets.token_bytes(32)
        self._pause_s = pause_s
        self._change = threading.Condition()
        self._due: dict[bytes, _Check] = {}  # by digest, the oldest first
        self._served: dict[str, None] = {}  # clients that had a turn, the latest last
        self._turn: _Check | None = None  # the one that runs, or is to
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
        if self._wait(digest, client):
            try:
                return self._check(digest, name in users, password, hashed)
            finally:
                self._next(digest)
        return True if digest in self._right else False if digest in self._wrong else None

    def _wait(self, digest: bytes, client: str) -> bool:
        """Tell whether the caller has to make the check now; else it is known, or not to be had."""
        with self._change:
            if digest in self._right or digest in self._wrong:
                return False
            check = self._due.get(digest) or self._queue(digest, client)
            check.waiting += 1
            until = time.monotonic() + WAIT_MAX_S
            if self._turn is None:
                self._choose()
            while self._turn is not check or check.running:
                left_s = until - time.monotonic()
                known = digest in self._right or digest in self._wrong
                if known or check.displaced or left_s <= 0:
                    check.waiting -= 1
                    if not check.waiting and self._turn is not check and not check.displaced:
                        self._due.pop(digest, None)
                    return False
                self._change.wait(left_s)
            check.running = True
            return True

    def _queue(self, digest: bytes, client: str) -> _Check:
        waiting = {key: check for key, check in self._due.items() if check is not self._turn}
        if len(waiting) >= WAITING_MAX:
            count = Counter(check.client for check in waiting.values())
            count[client] += 1
            oldest = max(waiting, key=lambda key: count[waiting[key].client])
            self._due.pop(oldest).displaced = True
            self._change.notify_all()
        self._due[digest] = check = _Check(client)
        return check

    def _choose(self) -> None:
        """Say whose turn it is; before who has just had one can come again."""
        order = {client: number for number, client in enumerate(self._served, 1)}
        newest_first = reversed(self._due.values())
        check = min(newest_first, key=lambda due: order.get(due.client, 0), default=None)
        self._turn = check
        if check is not None:
            self._served.pop(check.client, None)
            self._served[check.client] = None
            if len(self._served) > SERVED_MAX:
                del self._served[next(iter(self._served))]
        self._change.notify_all()

    def _digest(self, name: str, password: bytes, hashed: bytes) -> bytes:
        text = repr((name, password, hashed)).encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._key).digest()

    def _check(self, digest: bytes, known: bool, password: bytes, hashed: bytes) -> bool:
        began = time.thread_time()
        right = _bcrypt(password, hashed) and known
        took_s = time.thread_time() - began
        with self._change:
            remembered = self._right if right else self._wrong
            if len(remembered) >= REMEMBERED_MAX:
                remembered.clear()
            remembered.add(digest)
            self._change.notify_all()
        if not right:
            time.sleep(max(self._pause_s, PAUSE_TIMES * took_s if self._pause_s else 0.0))
        return right

    def _next(self, digest: bytes) -> None:
        with self._change:
            del self._due[digest]
            self._choose()


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
