"""Who a client is, and the CPU time and the words in the log that one client may cost."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

CLIENTS_MAX = 1024  # remembered at once
WAIT_MAX_S = 3.0  # nobody is put off for longer: kubelets and scrapers give up after 5 or 10
COMPLAINTS_MAX = 100  # lines in the log over a process's life
COMPLAINT_EVERY_S = 3600.0


def client_of(address: str) -> str:
    """
    Name who is behind an address.

    IPv6: the /64, which is one network to its owner; an IPv4 address in IPv6's form is itself. On
    loopback whoever has a shell can use 16 million addresses: they are one, but for 127.0.0.1.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, 64), strict=False))
        ip = ip.ipv4_mapped
    return "127.0.0.0/8" if ip.is_loopback and str(ip) != "127.0.0.1" else str(ip)


@dataclass(slots=True)
class _Lane:
    """Those of one client who wait, one behind the other."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class Shares:
    """
    A bucket of CPU time for each client, which fills at ``share`` seconds a second.

    Half of the burst is kept for what is cheap: who shares an address with somebody that asks for
    dear pages is still served.

    Args:
        share: of one CPU, that a client may use in the long run.
        burst_s: CPU seconds that it may use at once.
    """

    def __init__(self, share: float, burst_s: float) -> None:
        self._share, self._burst_s = share, burst_s
        self._owed: dict[str, tuple[float, float]] = {}  # CPU seconds, and when that was so
        self._lanes: dict[tuple[str, bool], _Lane] = {}
        self._lock = threading.Lock()

    def spend(self, client: str, cpu_s: float) -> None:
        """Book what a client has cost."""
        most = self._burst_s + WAIT_MAX_S * self._share
        with self._lock:
            now = time.monotonic()
            owed = min(self._owes(client, now) + cpu_s, most)
            self._owed.pop(client, None)  # the last to be forgotten
            self._owed[client] = owed, now
            if len(self._owed) > CLIENTS_MAX:
                del self._owed[next(iter(self._owed))]

    def wait_s(self, client: str, *, dear: bool = False) -> float:
        """Tell how long it has to wait before it is served again; 0 in good standing."""
        with self._lock:
            over = self._owes(client, time.monotonic()) - self._burst_s / (2 if dear else 1)
        return max(0.0, over / self._share)

    @contextlib.contextmanager
    def turn(self, client: str, patience_s: float, *, dear: bool = False) -> Iterator[bool]:
        """
        Wait behind the client's others and for its bucket; False where that takes too long.

        The next one's turn begins at the end of the block: what it cost should be booked by then.
        """
        until, key = time.monotonic() + patience_s, (client, dear)
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane())
            lane.users += 1
        held = lane.turn.acquire(timeout=patience_s)
        try:
            yield held and self._filled(client, until, dear=dear)
        finally:
            if held:
                lane.turn.release()
            with self._lock:
                lane.users -= 1
                if not lane.users:
                    del self._lanes[key]

    def _filled(self, client: str, until: float, *, dear: bool) -> bool:
        while wait_s := self.wait_s(client, dear=dear):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(wait_s, left_s))
        return True

    def _owes(self, client: str, now: float) -> float:
        owed, then = self._owed.get(client, (0.0, now))
        return max(0.0, owed - self._share * (now - then))


class Complaints:
    """Warnings of clients that were turned away: each once an hour, and no more than COMPLAINTS_MAX in all."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}
        self._left = COMPLAINTS_MAX
        self._lock = threading.Lock()

    def say(self, peer: str, what: str) -> None:
        """Log ``what`` of a peer; it is ours or OpenSSL's wording, never the client's."""
        key, now = (client_of(peer), what), time.monotonic()
        with self._lock:
            silent = now < self._said.get(key, 0.0) or not self._left
            if not silent:
                self._left -= 1
                self._said[key] = now + COMPLAINT_EVERY_S
        log.log(logging.DEBUG if silent else logging.WARNING, "%s: %s", peer, what)
        if not silent and not self._left:
            log.warning("further clients that are turned away are logged at debug level only")
