"""Which ports the demo listens on: the usual ones, free ones instead, never one that was asked for and is taken."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class PortTakenError(OSError):
    """A port that was asked for cannot be had; one line says which flag."""


class Ports:
    """
    Gives ports out, none twice.

    Args:
        host: the address that everything listens on.
        given: port by flag, where a person asked for it.
    """

    def __init__(self, host: str, given: Mapping[str, int]) -> None:
        self._host, self._given = host, given
        self._out: set[int] = set()
        self.moved: list[str] = []  # a line for each default that was taken

    def take(self, flag: str, usual: int, count: int = 1) -> int:
        """First of ``count`` free ports in a row; PortTakenError where those of the flag are taken."""
        wanted = self._given.get(flag, usual)
        taken = self._first_taken(wanted, count)
        if taken and flag in self._given:
            raise PortTakenError(
                f"--{flag}={wanted}: port {taken} is taken by another program; stop it or give another port"
            )
        port = self._free_row(count) if taken else wanted
        if taken:
            self.moved.append(f"port {taken} is taken: {port} instead of {wanted} (--{flag})")
        self._out.update(range(port, port + count))
        return port

    def near(self, usual: int) -> int:
        """Give the usual port, or a free one without a word: for what nobody has to find by its number."""
        port = self._free_row(1) if self._first_taken(usual, 1) else usual
        self._out.add(port)
        return port

    def any(self) -> int:
        """Give a free port of the kernel's choice."""
        port = self._free_row(1)
        self._out.add(port)
        return port

    def _first_taken(self, first: int, count: int) -> int:
        """The first port of the row that cannot be had; 0 where all can."""
        for port in range(first, first + count):
            if port > 65535 or port in self._out or not is_free(self._host, port):
                return port
        return 0

    def _free_row(self, count: int) -> int:
        for _ in range(200):
            with socket.socket(_family(self._host)) as sock:
                sock.bind((self._host, 0))
                first = int(sock.getsockname()[1])
            if not self._first_taken(first, count):
                return first
        raise PortTakenError(f"no {count} free ports in a row on {self._host}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there; OSError where the host is none of this machine's."""
    try:
        with socket.socket(_family(host)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1)
    except OSError as err:
        if err.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        why = err.strerror or str(err)
        raise OSError(f"--listen={host}: no address of this machine ({why})") from err
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
