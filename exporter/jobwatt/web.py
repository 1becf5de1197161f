"""
HTTP: the metrics, health and the landing page, on threads of their own.

A connection has a thread, every phase of it a deadline (of the phase, not of the byte), and TLS
begins in that thread: a client that is silent or slow costs its own place and nobody else's. Who
takes the most makes room for others, and no client takes more than its share of CPU time.
Access is logged at debug level; who is turned away, and why, in few lines.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .config import ConfigError
from .passwords import PasswordCheck
from .webconfig import Loaded, WebConfigFile
from .webconnection import UNPROTECTED, Connection, hang_up
from .webhandler import compress
from .webshares import Complaints, Shares

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

BACKLOG = 128
STOP_S = 2.0
# The kernel's buffers of a connection: left alone they grow to 4 MB out and 6 MB in (tcp_wmem,
# tcp_rmem), which a client that does not read, times the connections, would have us hold.
SEND_BYTES = 128 << 10
RECEIVE_BYTES = 32 << 10
ACCEPT_CPU_S = 0.0002  # what a connection costs before its thread runs: measured 0.16 s a thousand


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take. Each time, in seconds, is for a whole phase."""

    connections: int = 64
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
        self._lock = threading.Lock()
        self._zipped: dict[bool, tuple[bytes, bytes]] = {}
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
        deadline = time.monotonic() + STOP_S
        while self._connections and time.monotonic() < deadline:
            self._hang_up_all(busy=False)
            time.sleep(0.01)
        self._hang_up_all(busy=True)

    def loaded(self) -> Loaded:
        """Return what --web.config.file says now."""
        return self._file.current() if self._file else UNPROTECTED

    def zipped(self, page: bytes, *, openmetrics: bool) -> bytes:
        """Compress a page once, however many ask for it."""
        with self._zip_lock:
            known = self._zipped.get(openmetrics)
            if known is None or known[0] is not page:
                known = self._zipped[openmetrics] = (page, compress(page))
            return known[1]

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
            try:
                sock, peer = listener.accept()
            except OSError as err:
                if err.errno in (errno.EINVAL, errno.EBADF):
                    return  # stopped
                if err.errno != complaint:
                    log.warning("cannot take a connection: %s", err.strerror)
                complaint = err.errno or 0
                time.sleep(0.1)  # out of files or memory: soon again, without spinning
                continue
            self._admit(Connection(self, sock, str(peer[0])))

    def _admit(self, connection: Connection) -> None:
        """
        Give a connection a thread.

        Where places are short, the client that has the most makes room: the longest unused of its
        connections, or, where each is being answered, the oldest of them. A crowd of idle or slow
        connections thus keeps nobody out.
        """
        self.shares.spend(connection.client, ACCEPT_CPU_S)
        with self._lock:
            if len(self._connections) >= self.limits.connections:
                victim = self._victim(connection)
                if victim is None:
                    connection.refuse()
                    return
                del self._connections[victim]
                victim.hang_up()
            self._connections[connection] = None
        try:
            threading.Thread(target=connection.run, daemon=True).start()
        except RuntimeError:  # the system has no thread to give
            self.forget(connection)
            connection.refuse()

    def _victim(self, newcomer: Connection) -> Connection | None:
        """Choose who has to go; None where it is the newcomer."""
        held = Counter(other.client for other in self._connections)
        held[newcomer.client] += 1
        most = max(held.values())
        greedy = [other for other in self._connections if held[other.client] == most]
        waiting = [other for other in greedy if not other.busy]
        if waiting:
            return waiting[0]
        return None if held[newcomer.client] == most else greedy[0]

    def _hang_up_all(self, *, busy: bool) -> None:
        with self._lock:
            for connection in self._connections:
                if busy or not connection.busy:
                    connection.hang_up()


_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]\s/]*)):(?P<port>\d{1,5})")


def parse_address(address: str) -> tuple[str, int]:
    """Split ``host:port``, ``[v6]:port`` or ``:port`` into host ("" for all) and port."""
    match = _ADDRESS.fullmatch(address)
    if not match or int(match["port"]) > 65535:
        raise ConfigError(
            f"--web.listen-address: {address!r} is not HOST:PORT, [IPV6]:PORT or :PORT "
            "(all interfaces); for example 127.0.0.1:9816"
        )
    if match["v6"]:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError as err:
            raise ConfigError(
                f"--web.listen-address: {match['v6']!r} is not an IPv6 address"
            ) from err
    return match["v6"] or match["host"], int(match["port"])


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen; OSError with a line that says what to do where that fails."""
    try:
        family, target = _resolve(host, port)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # each connection's
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(target[0] != "::"))
            sock.bind(target)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as err:
        raise OSError(_listen_error(err, host, port)) from err
    return sock


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    if not host:
        both = socket.has_dualstack_ipv6()
        return (socket.AF_INET6, ("::", port)) if both else (socket.AF_INET, ("", port))
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Of a name with both, IPv4: what Go's servers do, and what scrape configurations expect.
    family, _, _, _, target = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, target


def _listen_error(err: OSError, host: str, port: int) -> str:
    flag = "--web.listen-address"
    if err.errno == errno.EADDRINUSE:
        return f"port {port} is taken by another program; stop it or choose another with {flag}"
    if err.errno == errno.EACCES:
        return f"port {port} is for root only; choose one above 1023 with {flag}"
    if isinstance(err, socket.gaierror):
        return f"{flag}: {host!r} has no address ({err.strerror})"
    return f"{flag}: cannot listen on {host!r}, port {port}: {err.strerror}"
