"""
HTTP: the metrics, health and the landing page, on threads of their own.

A connection has a thread, every phase of it a deadline (of the phase, not of the byte), and TLS
begins in that thread: a client that is silent or slow costs its own place and nobody else's. Who
takes the most makes room for others, and no client takes more than its share of CPU time.
Access is logged at debug level; who is turned away, and why, in few lines.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .passwords import PasswordCheck
from .webconfig import Loaded, WebConfigFile
from .webconnection import GRACE_S, UNPROTECTED, Connection, hang_up
from .webformats import compress
from .weblisten import listen, parse_address
from .webshares import Complaints, Shares

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

STOP_S = 2.0
PARKED_MAX = 128  # connections that wait for a place, each a descriptor and no thread
# Bodies that clients have not taken yet, each counted once: the largest page of a node (512 jobs
# on 8 GPUs) is 7.4 MB, and the unit's MemoryMax 256 MB.
SENDING_BYTES = 16 << 20
ZIPPED_NAMES_MAX = 4  # selections of families whose compressed pages are kept


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take. Each time, in seconds, is for a whole phase."""

    # Each is a thread, and one that has been ended may take seconds to go: each unit's TasksMax
    # is more than twice this (tests/test_web_shares.py).
    connections: int = 32
    handshake_s: float = 10.0
    request_s: float = 10.0  # from a request's first byte to the end of its header
    idle_s: float = 130.0  # between requests: longer than two scrapes a minute apart
    write_s: float = 30.0
    header_bytes: int = 16 << 10
    # Of one CPU, for one client: more than a thousand scrapes a second, and next to nothing of a
    # node. ``cpu_burst_s``: before it has to wait.
    cpu_share: float = 0.1
    cpu_burst_s: float = 0.5


class Site(Protocol):
    """What is served. Called from many threads at once; answers from memory, never waits."""

    def metrics(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        """Return the page; where ``names`` is not empty, only these families."""
        ...

    def page(self) -> str:
        """Return the landing page, as HTML."""
        ...

    def health(self) -> tuple[bool, str]:
        """Tell whether the process does its work, and in one line why not."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Tell whether there is something to scrape, and in one line why not."""
        ...


class WebServer:
    """
    Serves a site at an address.

    Args:
        address: ``host:port``, ``[v6]:port``, or ``:port`` for all interfaces, IPv4 and IPv6;
            port 0 lets the kernel choose. ValueError where it is none of these.
        config_file: ``--web.config.file``; WebConfigError where it cannot be used.
        names_users: whether the page does, which the network should not read.
    """

    def __init__(
        self,
        address: str,
        site: Site,
        config_file: Path | None = None,
        limits: Limits | None = None,
        *,
        names_users: bool = True,
    ) -> None:
        self._names_users = names_users
        self._wanted = parse_address(address)
        self._file = WebConfigFile(config_file) if config_file else None
        self.site = site
        self.limits = limits or Limits()
        self.passwords = PasswordCheck()
        self.shares = Shares(self.limits.cpu_share, self.limits.cpu_burst_s)
        self.complaints = Complaints()
        self._connections: dict[Connection, None] = {}  # the longest unused first
        self._parked: dict[Connection, None] = {}  # without a place yet, the oldest first
        self._sending: dict[Connection, bytes] = {}  # the longest under way first
        self._lock = threading.Lock()
        self._zipped: dict[tuple[bool, frozenset[str]], tuple[bytes, bytes]] = {}
        self._zip_lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen and serve; OSError, naming the port and the flag, where that cannot be had."""
        listener = self._listener = listen(*self._wanted)
        self._warn_if_open()
        self._thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as bound; known after ``start``."""
        if self._listener is None:
            raise RuntimeError("the server has not been started")
        host, port, *_ = self._listener.getsockname()
        return host, port

    def stop(self) -> None:
        """Take no more connections; what is being answered may end, two seconds at most."""
        if self._listener is None or self._thread is None:
            return
        hang_up(self._listener)  # ends the wait for connections
        self._thread.join(STOP_S)
        self._listener.close()
        with self._lock:
            parked, self._parked = self._parked, {}
        for connection in parked:
            connection.sock.close()
        deadline = time.monotonic() + STOP_S
        while self._connections and time.monotonic() < deadline:
            self._hang_up_all(busy=False)
            time.sleep(0.01)
        self._hang_up_all(busy=True)

    def loaded(self) -> Loaded:
        """Return what --web.config.file says now."""
        return self._file.current() if self._file else UNPROTECTED

    def zipped(
        self, page: bytes, *, openmetrics: bool, names: frozenset[str] = frozenset()
    ) -> bytes:
        """Compress a page once, however many ask for it; ``names`` are the families it was made of."""
        key = openmetrics, names
        with self._zip_lock:
            known = self._zipped.pop(key, None)
            if known is None or known[0] is not page:
                known = page, compress(page)
            self._zipped[key] = known  # the last to be dropped
            some = [kept for kept in self._zipped if kept[1]]
            if len(some) > ZIPPED_NAMES_MAX:
                del self._zipped[some[0]]
            return known[1]

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._parked)

    @contextlib.contextmanager
    def sending(self, connection: Connection, body: bytes) -> Iterator[None]:
        """Count a body that goes out; beyond SENDING_BYTES in all (or two pages) the oldest are ended."""
        with self._lock:
            self._sending[connection] = body
            sizes = {id(held): len(held) for held in self._sending.values()}
            total, most = sum(sizes.values()), max(SENDING_BYTES, 2 * max(sizes.values()))
            for other, held in list(self._sending.items()):
                if total <= most:
                    break
                if held is not body:
                    del self._sending[other]
                    other.hang_up()
                    shared = any(held is kept for kept in self._sending.values())
                    total -= 0 if shared else len(held)
        try:
            yield
        finally:
            with self._lock:
                self._sending.pop(connection, None)

    def used(self, connection: Connection) -> None:
        """Count a connection as the last one to go when places are short."""
        with self._lock:
            if connection in self._connections:
                del self._connections[connection]
                self._connections[connection] = None

    def forget(self, connection: Connection) -> None:
        """Free the place of a connection that has ended."""
        with self._lock:
            self._connections.pop(connection, None)
        self._fill()

    def _warn_if_open(self) -> None:
        host, port = self.address
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        config = self.loaded().config
        parts = (("TLS", config.tls is not None), ("authentication", config.authenticates))
        missing = [name for name, there in parts if not there]
        log.info("listening on %s", shown)
        if not missing or ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            return
        if not self._names_users:
            log.info("the page, which names no user, goes out without %s", " and ".join(missing))
            return
        log.warning(
            "USER NAMES GO OUT UNPROTECTED: %s is open to the network without %s; name a file "
            "with --web.config.file, or keep to this machine with "
            "--web.listen-address=127.0.0.1:%d",
            shown,
            " and ".join(missing),
            port,
        )

    def _accept(self, listener: socket.socket) -> None:
        complaint = 0
        while True:
            listener.settimeout(GRACE_S if self._parked else None)
            try:
                sock, peer = listener.accept()
            except TimeoutError:
                self._fill()
                continue
            except OSError as err:
                if err.errno in (errno.EINVAL, errno.EBADF):
                    return  # stopped
                if err.errno != complaint:
                    log.warning("cannot take a connection: %s", err.strerror)
                complaint = err.errno or 0
                time.sleep(0.1)  # out of files or memory: soon again, without spinning
                continue
            self._admit(Connection(self, sock, str(peer[0])))

    def _admit(self, newcomer: Connection) -> None:
        """Have a connection wait for a place, which it mostly gets at once."""
        with self._lock:
            self._parked[newcomer] = None
            refused = None
            if len(self._parked) > PARKED_MAX:
                waiting = Counter(other.client for other in self._parked)
                refused = max(reversed(self._parked), key=lambda other: waiting[other.client])
                del self._parked[refused]
        if refused is not None:
            refused.refuse()
        self._fill()

    def _fill(self) -> None:
        """Give places, and a thread each, to those who wait."""
        while (connection := self._next()) is not None:
            try:
                threading.Thread(target=connection.run, daemon=True).start()
            except RuntimeError:  # the system has no thread to give: somebody's has to end first
                with self._lock:
                    self._connections.pop(connection, None)
                    self._parked[connection] = None
                    self._oust(connection)
                return

    def _next(self) -> Connection | None:
        """Take the next to have a place: of the client that has the fewest, the one that came first."""
        with self._lock:
            held = Counter(other.client for other in self._connections)
            newcomer = min(self._parked, key=lambda other: held[other.client], default=None)
            if newcomer is None:
                return None
            if len(self._connections) >= self.limits.connections and not self._oust(newcomer):
                return None
            del self._parked[newcomer]
            self._connections[newcomer] = None
            newcomer.busy_for(GRACE_S)
            return newcomer

    def _oust(self, newcomer: Connection) -> bool:
        """
        End a connection of the client that has the most, counting the newcomer; False: there is none.

        It is the longest unused of those that wait for nothing, or, where each waits to be served,
        the oldest; but no client ousts its own that wait. A crowd of idle or slow connections thus
        keeps nobody out.
        """
        held = Counter(other.client for other in self._connections)
        held[newcomer.client] += 1
        most = max(held.values())
        greedy = [other for other in self._connections if held[other.client] == most]
        idle = [other for other in greedy if not other.busy]
        if not idle and (held[newcomer.client] == most or not greedy):
            return False
        victim = (idle or greedy)[0]
        del self._connections[victim]
        victim.hang_up()
        return True

    def _hang_up_all(self, *, busy: bool) -> None:
        with self._lock:
            for connection in self._connections:
                if busy or not connection.busy:
                    connection.hang_up()
