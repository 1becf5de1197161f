"""``--web.listen-address``, and the socket that listens there."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from typing import Any

from .config import ConfigError

BACKLOG = 128
# The kernel's buffers of a connection: left alone they grow to 4 MB out and 6 MB in (tcp_wmem,
# tcp_rmem), which a client that does not read, times the connections, would have us hold.
SEND_BYTES = 128 << 10
RECEIVE_BYTES = 32 << 10


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
